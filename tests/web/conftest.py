"""Dagster's pages behind the guard, on a port of this machine."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import dagster as dg
import pytest
import uvicorn
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget

from ml_pipeline import dagster_pages, web
from ml_pipeline.settings import Settings

NAMES = ("pages.example.com", "tight.example.com:8443", "dagster.example.com", "mlflow.example.com")


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
        app = dagster_pages.guarded_app(context, Settings(allowed_hosts=NAMES))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Served(server.servers[0].sockets[0].getsockname()[1], instance, app)
        server.should_exit = True
        thread.join()
