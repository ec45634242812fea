"""The reverse proxy of the operator guide, as a real nginx runs it: a login in front, everything else as without it."""

from __future__ import annotations

import base64
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "operate.md"
LOGIN = {"Authorization": "Basic " + base64.b64encode(b"ann:secret").decode()}
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "graphql-ws",
}


class Proxied(http.client.HTTPSConnection):
    """A connection to the proxy under any name, as if that name pointed at this machine."""

    def __init__(self, name: str, port: int) -> None:
        self.context = ssl._create_unverified_context()
        super().__init__(name, port, timeout=30, context=self.context)

    def connect(self) -> None:
        plain = socket.create_connection(("127.0.0.1", self.port), 30)
        self.sock = self.context.wrap_socket(plain, server_hostname=self.host)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def proxy(served: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an nginx with the guide's configuration, in front of Dagster's pages."""
    if shutil.which("nginx") is None or shutil.which("openssl") is None:
        pytest.skip("there is no nginx or no openssl on this machine")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    certificate, key = folder / "ml-pipeline.pem", folder / "ml-pipeline.key"
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=*.example.com", "-days", "1",
        "-out", str(certificate), "-keyout", str(key))  # fmt: skip
    (folder / "ml-pipeline.htpasswd").write_text(f"ann:{run('openssl', 'passwd', '-apr1', 'secret')}")
    example = re.search(r"```nginx\n(.*?)```", GUIDE.read_text(), re.DOTALL)[1]
    assert "listen 443" in example and "127.0.0.1:3000" in example and "127.0.0.1:5000" in example
    example = example.replace("listen 443", f"listen 127.0.0.1:{port}").replace("/etc/nginx/", f"{folder}/")
    example = re.sub(r"127\.0\.0\.1:(3000|5000)", served.own, example)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"pid {folder}/pid;\nerror_log {folder}/error.log;\nworker_processes 1;\nmaster_process off;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{folders}{example}}}\n"
    )
    process = subprocess.Popen(["nginx", "-c", str(configuration), "-g", "daemon off;"], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionRefusedError:
                assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=10)


def ask(
    port: int, name: str, method: str, path: str, headers: dict[str, str], body: bytes | None = None
) -> tuple[int, str]:
    connection = Proxied(name, port)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    text = "" if response.status == 101 else response.read().decode()
    connection.close()
    return response.status, text


@pytest.mark.parametrize("name", ["dagster.example.com", "mlflow.example.com"])
def test_nobody_gets_past_the_proxy_without_a_login(proxy: int, name: str):
    assert ask(proxy, name, "GET", "/server_info", {})[0] == 401
    assert ask(proxy, name, "GET", "/server_info", LOGIN)[0] == 200


def test_the_page_loads_and_its_graphql_works_through_the_proxy(proxy: int):
    own = {"Origin": f"https://dagster.example.com:{proxy}", "Sec-Fetch-Site": "same-origin"}
    status, page = ask(proxy, "dagster.example.com", "GET", "/", LOGIN)
    assert status == 200 and "<title" in page
    query = json.dumps({"query": "{ arrived: __typename }"}).encode()
    asked = LOGIN | own | {"Content-Type": "application/json"}
    status, answered = ask(proxy, "dagster.example.com", "POST", "/graphql", asked, query)
    assert (status, json.loads(answered)) == (200, {"data": {"arrived": "Query"}})


def test_a_web_socket_opens_through_the_proxy_for_the_pages_alone(proxy: int):
    own = {"Origin": f"https://dagster.example.com:{proxy}"}
    assert ask(proxy, "dagster.example.com", "GET", "/graphql", LOGIN | HANDSHAKE | own)[0] == 101
    assert ask(proxy, "dagster.example.com", "GET", "/graphql", HANDSHAKE | own)[0] == 401
    foreign = {"Origin": "https://evil.example"}
    assert ask(proxy, "dagster.example.com", "GET", "/graphql", LOGIN | HANDSHAKE | foreign)[0] == 403


def test_another_site_cannot_use_the_login_that_the_browser_remembers(proxy: int):
    asked = LOGIN | {"Origin": "https://evil.example", "Content-Type": "application/json"}
    status, answered = ask(proxy, "dagster.example.com", "POST", "/graphql", asked, b'{"query": "{ version }"}')
    assert status == 403 and "may not ask" in answered


def test_another_name_gets_no_answer_from_the_proxy(proxy: int):
    with pytest.raises(ssl.SSLError):
        ask(proxy, "evil.example", "GET", "/server_info", LOGIN)
    # nginx chose by the name of the TLS handshake; the Host header may still say another.
    with pytest.raises(http.client.RemoteDisconnected):
        ask(proxy, "dagster.example.com", "GET", "/server_info", LOGIN | {"Host": "evil.example"})
