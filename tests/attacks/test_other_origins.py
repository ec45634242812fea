"""What a page of another site can do to Dagster's and MLflow's pages from a real browser: nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.stack import PATIENCE, Stack, answer

pytestmark = [pytest.mark.browser, pytest.mark.long]

BY_THE_DAEMON = {"dagster/schedule_name", "dagster/sensor_name"}
LAUNCH = """mutation { launchRun(executionParams: {
    selector: {repositoryLocationName: "ml_pipeline", repositoryName: "__repository__", jobName: "prune"},
    runConfigData: "{}"}) { __typename } }"""

# Each is the body of an asynchronous function of the evil page; `change` is what it wants to be done.
OPENED_FORM = """
    const frame = document.createElement("iframe");
    frame.name = "taker";
    document.body.append(frame);
    const form = document.body.appendChild(document.createElement("form"));
    Object.assign(form, {action, method: "POST", enctype, target: frame.name});
    const field = form.appendChild(document.createElement("input"));
    Object.assign(field, {name, value});
    await new Promise(ended => { frame.onload = ended; form.submit(); });
"""
GRAPHQL_ATTACKS = {
    "an image": "await new Promise(ended => { const image = new Image(); image.onload = image.onerror = ended; "
    "image.src = asked; })",
    "a script": "await new Promise(ended => { const script = document.createElement('script'); "
    "script.onload = script.onerror = ended; script.src = asked; document.body.append(script); })",
    "a frame": "await new Promise(ended => { const frame = document.createElement('iframe'); "
    "frame.onload = ended; frame.src = asked; document.body.append(frame); })",
    "fetch by GET": "await fetch(asked, {mode: 'no-cors'})",
    "fetch by GET that wants the answer": "await fetch(asked)",
    "a POST of text": "await fetch(asked, {method: 'POST', mode: 'no-cors', body: 'x'})",
    "a POST of JSON that is called text": "await fetch(graphql, {method: 'POST', mode: 'no-cors', body: "
    "JSON.stringify({query: change}), headers: {'Content-Type': 'text/plain; application/json'}})",
    "a POST of JSON without a content type": "await fetch(graphql, {method: 'POST', mode: 'no-cors', body: "
    "new Blob([JSON.stringify({query: change})])})",
    "a POST of JSON": "await fetch(graphql, {method: 'POST', body: JSON.stringify({query: change}), "
    "headers: {'Content-Type': 'application/json'}})",
    "a beacon": "navigator.sendBeacon(asked, 'x')",
    "a form": "const action = asked, enctype = 'application/x-www-form-urlencoded', name = 'query', value = change;"
    + OPENED_FORM,
    "a form with files": "const action = asked, enctype = 'multipart/form-data', name = 'query', value = change;"
    + OPENED_FORM,
    "a form of text": "const action = asked, enctype = 'text/plain', name = '{\"query\": ' + JSON.stringify(change) + "
    "', \"x\": \"', value = '\"}';" + OPENED_FORM,
    "a WebSocket": """await new Promise(ended => {
        const socket = new WebSocket(graphql.replace("http", "ws"), "graphql-ws");
        socket.onopen = () => {
            socket.send(JSON.stringify({type: "connection_init"}));
            socket.send(JSON.stringify({type: "start", id: "1", payload: {query: change}}));
        };
        socket.onmessage = message => { if (JSON.parse(message.data).id) { read = message.data; ended(); } };
        socket.onerror = ended;
    })""",
}
MLFLOW_ATTACKS = {
    "a POST of JSON": "await fetch(create, {method: 'POST', body, headers: {'Content-Type': 'application/json'}})",
    "a POST of JSON with credentials": "await fetch(create, {method: 'POST', body, credentials: 'include', "
    "headers: {'Content-Type': 'application/json'}})",
    "a POST of JSON that is called text": "await fetch(create, {method: 'POST', mode: 'no-cors', body, "
    "headers: {'Content-Type': 'text/plain; application/json'}})",
    "a form of text": 'const action = create, enctype = \'text/plain\', name = \'{"name": "stolen", "tags": [], '
    '"artifact_location": "\', value = \'"}\';' + OPENED_FORM,
    "a read": "read = await (await fetch(create.replace('create', 'get?experiment_id=0'))).text()",
}
ASKING_MLFLOW = """async create => {
    const body = JSON.stringify({name: "stolen" + Math.random()});
    let read = null;
    const attack = async () => { %s };
    const tired = new Promise((_, fail) => setTimeout(() => fail("nothing came back"), 20000));
    try { await Promise.race([attack(), tired]); } catch (error) { return String(error); }
    return read;
}"""
REBOUND = """async ([graphql, change]) => {
    const [method, body] = ["POST", JSON.stringify({query: change})];
    return await (await fetch(graphql, {method, body, headers: {"Content-Type": "application/json"}})).text();
}"""
ASKING = """async ([graphql, change]) => {
    const asked = graphql + "?" + new URLSearchParams({query: change});
    let read = null;
    const attack = async () => { %s };
    const tired = new Promise((_, fail) => setTimeout(() => fail("nothing came back"), 20000));
    try { await Promise.race([attack(), tired]); } catch (error) { return String(error); }
    return read;
}"""


class Pages:
    """A running installation, as a program sees it."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.dagster, self.mlflow = stack, stack.dagster, stack.mlflow
        self.logs = stack.home / "logs"

    def runs(self) -> list[str]:
        """All runs but those that a schedule or a sensor launched, which may do so at any time."""
        asked = self.stack.graphql("{ runsOrError { ... on Runs { results { runId tags { key } } } } }")
        return [
            run["runId"]
            for run in asked["runsOrError"]["results"]
            if not BY_THE_DAEMON & {tag["key"] for tag in run["tags"]}
        ]

    def experiments(self) -> set[str]:
        found = answer(f"{self.mlflow}/api/2.0/mlflow/experiments/search", {"max_results": 100})
        return {experiment["name"] for experiment in found["experiments"]}

    def wait_for_refusal(self, before: int) -> None:
        """An attack that never arrives shows nothing."""
        deadline = time.monotonic() + 10
        while self.refusals() == before:
            assert time.monotonic() < deadline, "nothing was refused"
            time.sleep(0.02)

    def refusals(self) -> int:
        return sum((self.logs / f"{name}.log").read_text().count("Refused") for name in ("dagster", "mlflow"))


@pytest.fixture
def pages(stack: Stack) -> Pages:
    return Pages(stack)


@pytest.fixture(scope="module")
def evil_port() -> Iterator[int]:
    """Another port of this machine, where somebody else's page is served."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Kittens</title><body>Look at them.</body>")

        def log_message(self, *_: object) -> None:
            pass

    evil = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    evil.daemon_threads = True
    thread = threading.Thread(target=evil.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield evil.server_address[1]
    evil.shutdown()
    evil.server_close()


@pytest.fixture(params=["127.0.0.1", "evil.example"])
def evil_page(request: pytest.FixtureRequest, page, evil_port: int):
    """The page of another port of this machine (which browsers call the same site), and that of another name."""
    page.goto(f"http://{request.param}:{evil_port}/")
    return page


def rebound(page, target: str):
    """A page of evil.example, at the moment when that name points at this machine: the browser takes both for one."""
    site = target.replace("127.0.0.1", "evil.example")
    kittens = "<!doctype html><title>Kittens</title>"
    page.route(f"{site}/kittens", lambda route: route.fulfill(body=kittens, content_type="text/html"))
    page.goto(f"{site}/kittens")
    return site


@pytest.mark.parametrize("attack", GRAPHQL_ATTACKS)
def test_no_run_is_launched_from_another_origin(evil_page, pages: Pages, attack: str):
    runs, refusals = pages.runs(), pages.refusals()
    read = evil_page.evaluate(ASKING % GRAPHQL_ATTACKS[attack], [f"{pages.dagster}/graphql", LAUNCH])
    assert "Launch" not in (read or "")
    assert pages.runs() == runs
    pages.wait_for_refusal(refusals)
    assert pages.runs() == runs


def test_no_web_socket_opens_for_another_origin(evil_page, pages: Pages):
    opening = """url => new Promise(ended => { const socket = new WebSocket(url, "graphql-ws");
        socket.onopen = () => ended("open"); socket.onerror = () => ended("refused"); })"""
    assert evil_page.evaluate(opening, f"{pages.dagster.replace('http', 'ws')}/graphql") == "refused"


def test_a_name_that_is_made_to_point_at_this_machine_launches_and_reads_nothing(page, pages: Pages):
    runs, site = pages.runs(), rebound(page, pages.dagster)
    assert "do not answer as 'evil.example:" in page.evaluate(REBOUND, [f"{site}/graphql", LAUNCH])
    assert "do not answer as" in page.evaluate(REBOUND, [f"{site}/graphql", "{ version }"])
    read = page.evaluate(ASKING % GRAPHQL_ATTACKS["a WebSocket"], [f"{site}/graphql", LAUNCH])
    assert "Launch" not in (read or "")
    assert pages.runs() == runs


@pytest.mark.parametrize("name", ["dagster", "mlflow"])
def test_no_page_is_shown_in_a_frame_of_another_origin(evil_page, pages: Pages, name: str):
    framing = """url => new Promise(ended => { const frame = document.createElement("iframe");
        frame.onload = ended; frame.src = url; document.body.append(frame); })"""
    evil_page.evaluate(framing, f"{getattr(pages, name)}/")
    assert name not in evil_page.frames[1].content().lower().replace(f"/{name}", "")


@pytest.mark.parametrize("attack", MLFLOW_ATTACKS)
def test_no_experiment_is_made_or_read_from_another_origin(evil_page, pages: Pages, attack: str):
    experiments, refusals = pages.experiments(), pages.refusals()
    create = f"{pages.mlflow}/ajax-api/2.0/mlflow/experiments/create"
    read = evil_page.evaluate(ASKING_MLFLOW % MLFLOW_ATTACKS[attack], create)
    assert pages.experiments() == experiments
    assert "experiment_id" not in (read or "")
    pages.wait_for_refusal(refusals)
    assert pages.experiments() == experiments


def test_a_name_that_is_made_to_point_at_this_machine_makes_no_experiment(page, pages: Pages):
    experiments, site = pages.experiments(), rebound(page, pages.mlflow)
    attack = MLFLOW_ATTACKS["a POST of JSON"].replace("await fetch", "read = await (await fetch") + ").text()"
    answered = page.evaluate(ASKING_MLFLOW % attack, f"{site}/ajax-api/2.0/mlflow/experiments/create")
    assert "do not answer as 'evil.example:" in answered
    assert pages.experiments() == experiments


def test_a_link_on_another_page_opens_the_pages(evil_page, pages: Pages, expect):
    linking = "url => { document.body.innerHTML = '<a>More kittens</a>'; document.querySelector('a').href = url; }"
    evil_page.evaluate(linking, f"{pages.dagster}/jobs")
    evil_page.get_by_text("More kittens").click()
    expect(evil_page.get_by_text("rollback", exact=True).first).to_be_visible()


def launched_by_hand(page, address: str) -> str:
    """Launches a run on Dagster's page and waits until its log comes over the page's WebSocket; returns the run."""
    frames: list[str] = []
    page.on("websocket", lambda opened: opened.on("framereceived", lambda frame: frames.append(str(frame))))
    page.goto(f"{address}/locations/ml_pipeline/jobs/prune/playground")
    page.get_by_role("button", name="Launch Run").click()
    page.wait_for_url("**/runs/*")
    deadline = time.monotonic() + PATIENCE
    while not any("pipelineRunLogs" in frame for frame in frames):
        assert time.monotonic() < deadline, frames
        page.wait_for_timeout(100)
    return page.url.rpartition("/")[2]


def test_dagsters_own_page_launches_a_run_and_follows_it_over_its_web_socket(page, pages: Pages):
    assert launched_by_hand(page, pages.dagster) in pages.runs()


def test_mlflows_own_page_makes_an_experiment(page, pages: Pages, expect):
    page.goto(f"{pages.mlflow}/#/experiments")
    page.get_by_role("button", name="Create").first.click()
    page.get_by_label("Experiment Name").fill("by hand")
    page.get_by_role("dialog").get_by_role("button", name="Create").click()
    expect(page.get_by_text("by hand").first).to_be_visible()
    assert "by hand" in pages.experiments()
