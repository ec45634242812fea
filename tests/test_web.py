"""The guard before Dagster's and MLflow's pages: whom it lets in, by which header, and that no route is left out."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pytest
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from starlette.routing import Route, WebSocketRoute

from ml_pipeline import dagster_pages, hosts, up, web
from ml_pipeline.settings import Settings

CHANGE = 'mutation { setConcurrencyLimit(concurrencyKey: "attacked", limit: 1) }'
JSON = {"Content-Type": "application/json"}
SETTINGS = Settings(allowed_hosts=("pages.example.com", "tight.example.com:8443"))
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "graphql-ws",
}


class Answer(NamedTuple):
    status: int
    text: str
    headers: dict[str, str]


class Served:
    """Dagster's pages behind the guard on a port of this machine, and the instance that they change."""

    def __init__(self, port: int, instance: dg.DagsterInstance, app: web.OriginGuard) -> None:
        self.port, self.instance, self.app = port, instance, app
        self.own = f"127.0.0.1:{port}"

    def ask(
        self,
        method: str = "GET",
        path: str = "/server_info",
        headers: dict[str, str] | list[tuple[str, str]] | None = None,
        body: bytes | list[bytes] = b"",
    ) -> Answer:
        """Sends exactly these headers, and the own Host unless another or a list of headers is given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        sent = headers if isinstance(headers, list) else [*({"Host": self.own} | (headers or {})).items()]
        for name, value in sent:
            connection.putheader(name, value)
        connection.putheader(
            *(("Transfer-Encoding", "chunked") if isinstance(body, list) else ("Content-Length", len(body)))
        )
        connection.endheaders(body or None, encode_chunked=isinstance(body, list))
        response = connection.getresponse()
        text = "" if response.status == 101 else response.read().decode()
        connection.close()
        return Answer(response.status, text, {name.lower(): value for name, value in response.getheaders()})

    def limits(self) -> set[str]:
        return set(self.instance.event_log_storage.get_concurrency_keys())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with (
        dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as instance,
        WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as context,
    ):
        app = dagster_pages.guarded_app(context, SETTINGS)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Served(server.servers[0].sockets[0].getsockname()[1], instance, app)
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:3000",
        "localhost.:3000",
        "127.0.0.1",
        "127.0.0.2:8080",
        "[::1]",
        "[0:0:0:0:0:0:0:1]:3000",
        "pages.example.com",
        "Pages.Example.Com:443",
        "tight.example.com:8443",
    ],
)
def test_the_pages_answer_under_their_own_names(served: Served, host: str):
    assert served.ask(headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:3000",
        "localhost.evil.example",
        "10.0.0.1",
        "0.0.0.0",
        "tight.example.com",
        "[::2]",
    ],
)
def test_a_name_that_is_made_to_point_here_is_refused_with_the_setting_that_allows_it(served: Served, host: str):
    for path in ("/server_info", "/graphql", "/"):
        answered = served.ask(path=path, headers={"Host": host})
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        assert answered.status == 403
        assert f"do not answer as '{host}'" in answered.text and f"ML_PIPELINE_ALLOWED_HOSTS={name}" in answered.text


@pytest.mark.parametrize(
    "host", ["", "me@localhost", "localhost:3000:1", "http://localhost", "[::1", "[evil]", "a b", "*"]
)
def test_a_host_header_that_is_no_name_is_refused(served: Served, host: str):
    assert served.ask(headers={"Host": host}).status == 400


def test_no_host_header_or_two_of_them_are_refused(served: Served):
    assert served.ask(headers=[("Accept", "*/*")]).status == 400
    assert served.ask(headers=[("Host", served.own), ("Host", "evil.example")]).status == 400


@pytest.mark.parametrize("header", ["X-Forwarded-Host", "Forwarded", "X-Forwarded-Server", "X-Original-Host"])
def test_what_a_request_says_of_a_proxy_is_not_believed(served: Served, header: str):
    value = f"host={served.own}" if header == "Forwarded" else served.own
    assert served.ask(headers={"Host": "evil.example", header: value}).status == 403


def test_a_target_with_a_scheme_does_not_replace_the_host_header(served: Served):
    target = f"http://{served.own}/server_info"
    assert served.ask(path=target, headers={"Host": "evil.example"}).status == 403
    scope = {"type": "http", "method": "GET", "path": target, "query_string": b"", "headers": [(b"host", b"localhost")]}
    assert "is not a path" in served.app.refusal(scope).message


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        "http://localhost:{port}",
        "http://127.0.0.1:{port}.evil.example",
        "http://evil@127.0.0.1:{port}",
        "http://127.0.0.1:{port}/",
        "http://127.0.0.1:{port}, http://evil.example",
        "file://127.0.0.1:{port}",
        "127.0.0.1:{port}",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_a_page_of_another_origin_is_refused(served: Served, origin: str, method: str):
    origin = origin.format(port=served.port)
    body = json.dumps({"query": CHANGE}).encode() if method == "POST" else b""
    answered = served.ask(method, "/graphql", {"Origin": origin, **JSON}, body)
    assert answered.status == 403
    assert f"A page of '{origin}' may not ask '{served.own}'" in answered.text
    assert "access-control-allow-origin" not in answered.headers
    assert served.limits() == set()


def test_of_two_origins_the_foreign_one_counts(served: Served):
    own = [("Host", served.own), ("Origin", f"http://{served.own}")]
    assert served.ask(headers=own).status == 200
    assert served.ask(headers=[*own, ("Origin", "http://evil.example")]).status == 403


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("pages.example.com", "https://pages.example.com"),
        ("pages.example.com:443", "https://pages.example.com"),
        ("pages.example.com", "http://pages.example.com:80"),
        ("tight.example.com:8443", "https://tight.example.com:8443"),
        ("[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_the_pages_own_origin_is_known_behind_a_proxy_that_ends_tls(served: Served, host: str, origin: str):
    assert served.ask(headers={"Host": host, "Origin": origin}).status == 200


def test_an_origin_whose_default_port_is_another_is_another(served: Served):
    assert served.ask(headers={"Host": "pages.example.com:443", "Origin": "http://pages.example.com"}).status == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "anything"])
def test_what_the_browser_calls_another_site_is_refused_without_an_origin_too(served: Served, site: str):
    for method, path in (("GET", "/server_info"), ("POST", "/report_asset_materialization/attacked"), ("GET", "/")):
        assert served.ask(method, path, {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}).status == 403
    assert served.instance.get_latest_materialization_event(dg.AssetKey("attacked")) is None


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_the_pages_themselves_and_typed_addresses_are_answered(served: Served, site: str):
    assert served.ask(headers={"Sec-Fetch-Site": site}).status == 200


def test_programs_which_no_browser_steers_are_answered(served: Served):
    assert served.ask().status == 200
    reported = served.ask("POST", "/report_asset_materialization/reported")
    assert reported.status == 200
    assert served.instance.get_latest_materialization_event(dg.AssetKey("reported")) is not None


def test_a_link_elsewhere_opens_a_page_but_sends_no_form_and_fills_no_frame(served: Served):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert served.ask(path="/runs", headers=link).status == 200
    assert served.ask("POST", "/report_asset_materialization/attacked", link).status == 403
    for frame in ("iframe", "frame", "object", "embed"):
        assert served.ask(path="/runs", headers=link | {"Sec-Fetch-Dest": frame}).status == 403


@pytest.mark.parametrize("path", ["/", "/server_info", "/graphql", "/no/such.js", "/logs/no/such.out"])
def test_no_answer_can_be_framed_or_embedded_elsewhere_or_taken_for_another_type(served: Served, path: str):
    for headers in ({}, {"Origin": "http://evil.example"}):
        answered = served.ask(path=path, headers=headers).headers
        assert answered["x-frame-options"] == "SAMEORIGIN"
        assert "frame-ancestors 'self'" in answered["content-security-policy"]
        assert answered["x-content-type-options"] == "nosniff"
        assert answered["cross-origin-resource-policy"] == "same-origin"


GRAPHQL = json.dumps({"query": CHANGE}).encode()
ASKED = f"/graphql?{urllib.parse.urlencode({'query': CHANGE})}"
FORM = urllib.parse.urlencode({"query": CHANGE}).encode()
TYPES = [
    "text/plain",
    "text/plain; application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
]
TYPES += ["application/graphql", "application/jsonp", "Application/JSON", "text/plain, application/json", ""]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_graphql_by_get_is_refused_with_the_remedy_to_programs_too(served: Served, method: str):
    for query in (CHANGE, "{ version }", "query Q { version } " + CHANGE):
        answered = served.ask(method, f"/graphql?{urllib.parse.urlencode({'query': query})}")
        assert (answered.status, answered.headers["allow"]) == (405, "POST")
        if method == "GET":
            assert "Send it by POST as application/json" in json.loads(answered.text)["errors"][0]["message"]
    assert served.limits() == set()


@pytest.mark.parametrize("content_type", TYPES)
def test_graphql_of_another_content_type_is_refused_with_the_remedy(served: Served, content_type: str):
    for path, body in (("/graphql", GRAPHQL), (ASKED, b""), (ASKED, FORM), ("/graphql/", GRAPHQL)):
        answered = served.ask("POST", path, {"Content-Type": content_type} if content_type else {}, body)
        assert answered.status == 415
        assert "Send it as application/json" in json.loads(answered.text)["errors"][0]["message"]
    assert served.limits() == set()


def test_two_content_types_are_refused(served: Served):
    headers = [("Host", served.own), ("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    assert served.ask("POST", "/graphql", headers, GRAPHQL).status == 415


@pytest.mark.parametrize("body", [b"[%b]" % GRAPHQL, b" \r\n\t[%b]" % GRAPHQL, [b" ", b"\n", b"[", GRAPHQL, b"]"]])
def test_a_list_of_operations_is_refused_with_the_remedy(served: Served, body: bytes | list[bytes]):
    answered = served.ask("POST", "/graphql", JSON, body)
    assert answered.status == 400
    assert "Send each by a POST of its own" in json.loads(answered.text)["errors"][0]["message"]
    assert served.limits() == set()


@pytest.mark.parametrize("content_type", ["application/json", "application/json ; charset=utf-8"])
@pytest.mark.parametrize("padding", [0, 300_000])
def test_graphql_by_post_as_json_arrives_whole(served: Served, content_type: str, padding: int):
    body = json.dumps({"query": "{ arrived: __typename }", "variables": {"padding": "x" * padding}}).encode()
    pieces = [b" " * (padding + 1), *(body[start : start + 70_000] for start in range(0, len(body), 70_000))]
    for sent in (body, pieces):
        answered = served.ask("POST", "/graphql", {"Content-Type": content_type}, sent)
        assert json.loads(answered.text)["data"] == {"arrived": "Query"}


def test_a_mutation_by_post_as_json_still_works(served: Served):
    own = {"Origin": f"http://{served.own}", "Sec-Fetch-Site": "same-origin", **JSON}
    assert served.ask("POST", "/graphql", own, GRAPHQL.replace(b"attacked", b"by hand")).status == 200
    assert served.limits() == {"by hand"}
    served.instance.event_log_storage.delete_concurrency_limit("by hand")


def test_a_web_socket_opens_for_the_pages_and_for_programs(served: Served):
    assert served.ask(path="/graphql", headers=HANDSHAKE).status == 101
    own = {"Origin": f"http://{served.own}", "Sec-Fetch-Site": "same-origin"}
    assert served.ask(path="/graphql", headers=HANDSHAKE | own).status == 101


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "evil.example"},
        {"Host": "evil.example", "Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "websocket"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ],
)
def test_a_web_socket_does_not_open_for_another_site(served: Served, headers: dict[str, str]):
    answered = served.ask(path="/graphql", headers=HANDSHAKE | headers)
    assert answered.status == 403
    assert "errors" in json.loads(answered.text)


def refused(app: Any, kind: str, method: str, path: str, headers: dict[str, str]) -> bool:
    """Whether an application refuses a request before anything but the guard has seen it."""
    sent: list[dict[str, Any]] = []
    scope = {"type": kind, "path": path, "raw_path": path.encode(), "query_string": b"", "extensions": {}}
    scope |= {"method": method} if kind == "http" else {"subprotocols": []}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def receive() -> dict[str, Any]:
        raise AssertionError(f"{method} {path} was let in")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    # A refusal waits for nothing, so it needs no event loop.
    with pytest.raises(StopIteration):
        app(scope, receive, send).send(None)
    return sent[0]["type"].endswith("http.response.start") and sent[0]["status"] == 403


FOREIGN = [
    {"host": "localhost:3000", "origin": "http://localhost:3001"},
    {"host": "localhost:3000", "sec-fetch-site": "same-site"},
    {"host": "evil.example:3000", "origin": "http://evil.example:3000", "sec-fetch-site": "same-origin"},
]


def test_every_route_of_dagster_is_behind_the_guard(served: Served):
    routes = served.app.app.routes
    paths = {route.path for route in routes}
    assert {
        "/graphql",
        "/logs/{path:path}",
        "/report_asset_check/{asset_key:path}",
        "/notebook",
        "/dagit_info",
    } <= paths
    for route in routes:
        kind = "websocket" if isinstance(route, WebSocketRoute) else "http"
        methods = (route.methods or {"GET"}) if isinstance(route, Route) else {"GET"}
        for method in {*methods, "POST", "OPTIONS"}:
            for headers in FOREIGN:
                path = re.sub(r"\{.*?\}", "any", route.path) or "/"
                assert refused(served.app, kind, method, path, headers), f"{method} {route.path} {headers}"


def test_graphql_under_a_path_prefix_is_behind_the_guard(served: Served):
    with WorkspaceProcessContext(served.instance, EmptyWorkspaceTarget()) as context:
        app = dagster_pages.guarded_app(context, SETTINGS, "/dagster")
    assert any(route.path == "/dagster" for route in app.app.routes)
    scope = {
        "type": "http",
        "path": "/dagster/graphql",
        "headers": [(b"host", b"localhost")],
        "query_string": b"query=x",
    }
    assert app.refusal(scope | {"method": "GET"}).status == 405
    assert app.refusal(scope | {"method": "POST"}).status == 415


def test_every_route_of_mlflow_is_behind_the_guard():
    from mlflow.server import app as flask_app

    from ml_pipeline.mlflow_pages import app

    rules = list(flask_app.url_map.iter_rules())
    assert {"/graphql", "/api/2.0/mlflow/experiments/create", "/health"} <= {rule.rule for rule in rules}
    for rule in rules:
        path = re.sub(r"<.*?>", "any", rule.rule)
        for method in rule.methods:
            assert refused(app, "http", method, path, FOREIGN[0]), f"{method} {rule.rule}"
    for path in ("/v1/traces", "/ajax-api/3.0/jobs/any", "/gateway/any", "/ajax-api/3.0/mlflow/assistant/any", "/any"):
        for kind in ("http", "websocket"):
            for headers in FOREIGN:
                assert refused(app, kind, "POST", path, headers), f"{kind} {path} {headers}"


@pytest.mark.parametrize("name", ["localhost:5000", "127.0.0.1:5000", "[::1]:5000", "[::1]", "pages.example.com"])
def test_mlflows_own_checks_know_the_names_that_the_guard_knows(name: str):
    from mlflow.server.security_utils import is_allowed_host_header, should_block_cors_request

    service = next(service for service in up.services(SETTINGS) if service.name == "MLflow")
    allowed = service.command[service.command.index("--allowed-hosts") + 1].split(",")
    origins = service.command[service.command.index("--cors-allowed-origins") + 1].split(",")
    assert is_allowed_host_header(allowed, name)
    assert not should_block_cors_request(f"https://{name}", "POST", origins)
    for other in ("localhost.evil.example:5000", "evil.example", "tight.example.com:1"):
        assert not is_allowed_host_header(allowed, other)
        assert should_block_cors_request(f"https://{other}", "POST", origins)


def test_up_starts_no_page_without_the_guard():
    modules = {service.name: service.command[2] for service in up.services(Settings()) if service.page}
    assert modules == {"Dagster": "ml_pipeline.dagster_pages", "MLflow": "mlflow"}
    mlflow = next(service for service in up.services(Settings()) if service.name == "MLflow")
    assert mlflow.command[mlflow.command.index("--app-name") + 1] == "ml-pipeline"


@pytest.mark.parametrize(
    ("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "[::1]"), ("db", "db")]
)
def test_the_links_to_the_pages_can_be_opened(host: str, shown: str):
    settings = Settings(host=host)
    pages = [service.page for service in up.services(settings) if service.page]
    assert pages == [f"http://{shown}:3000/", f"http://{shown}:5000/#/models"]
    assert settings.version_page("m", 1).startswith(f"http://{shown}:5000/")
    assert hosts.parse(shown) in web.allowed_addresses(settings)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.9"])
def test_pages_for_this_machine_alone_need_no_warning(host: str):
    assert web.exposure_warning(Settings(host=host)) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "machine.example.com", "not a name"])
def test_pages_for_others_are_warned_of_with_what_is_open_and_the_remedy(host: str):
    warning = web.exposure_warning(Settings(host=host))
    assert warning is not None
    for part in (f"ML_PIPELINE_HOST={host}", "3000", "5000", "Neither has a login", "Remedy", "docs/operations.md"):
        assert part in warning
    operations = (Path(__file__).parent.parent / "docs" / "operations.md").read_text()
    assert "Show the pages to others" in warning and "Show the pages to others" in operations
