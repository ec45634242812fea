"""Every route of Dagster and MLflow is behind the guard; `make up` starts no page without it and warns of open ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from starlette.routing import Route, WebSocketRoute

from ml_pipeline import dagster_pages, hosts, up, web
from ml_pipeline.cli import main
from ml_pipeline.settings import Settings

SETTINGS = Settings(allowed_hosts=("pages.example.com", "tight.example.com:8443"))


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


def test_every_route_of_dagster_is_behind_the_guard(served):
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


def test_graphql_under_a_path_prefix_is_behind_the_guard(served):
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
    for part in (f"ML_PIPELINE_HOST={host}", "3000", "5000", "have no login", "Remedy", "docs/how-to/operate.md"):
        assert part in warning
    operations = (Path(__file__).parents[2] / "docs" / "how-to" / "operate.md").read_text()
    assert "Show the pages to others" in warning and "Show the pages to others" in operations


def test_up_warns_before_it_opens_the_pages_to_others(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    nobodys = "192.0.2.1"  # an address for examples: nothing listens there, so the command ends
    for name, value in (
        ("DATABASE_URL", settings.database_url),
        ("ML_PIPELINE_HOME", settings.home),
        ("ML_PIPELINE_HOST", nobodys),
    ):
        monkeypatch.setenv(name, str(value))
    ended = CliRunner().invoke(main, ["up"])
    said = " ".join(ended.output.split())
    assert ended.exit_code != 0
    assert said.index(f"WARNING: ML_PIPELINE_HOST={nobodys} opens Dagster's pages") < said.index(
        "is not an address of this machine"
    )
