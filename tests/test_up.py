"""``make up`` and plain ``dagster dev``: pages that answer, state that survives, nothing left running."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ml_pipeline import up
from ml_pipeline.resources import embedded, supervisor
from ml_pipeline.resources.postgres import DatabaseUnavailable
from ml_pipeline.settings import PROJECT_ROOT, Settings
from tests.processes import free_port, left_after, processes_of
from tests.stack import PATIENCE, TENANTS, Stack, answer, started, wait_for

pytestmark = pytest.mark.long

BINARIES = Path(sys.executable).parent
needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked for in /proc")


def state_of(process: int) -> str | None:
    """The letter that the system gives a process (Z: ended, but not yet collected), None where there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def wait_until_it_answers(url: str, process: subprocess.Popen) -> None:
    """``dagster dev`` says that it serves just before it listens."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            answer(url)
            return
        except urllib.error.URLError:
            assert process.poll() is None and time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.2)


def stopped_by(number: signal.Signals, process: subprocess.Popen) -> int:
    process.send_signal(number)
    return process.wait(60)


def ended(process: subprocess.Popen, log: Path) -> int:
    try:
        return process.wait(60)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"it goes on after a minute:\n{log.read_text()}") from None


def postmaster(home: Path) -> int:
    return int((home / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def answers_again(question: Callable[[], Any]) -> Any:
    """What is answered within a minute of a server that was started again."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return question()
        except (OSError, KeyError, TypeError):
            assert time.monotonic() < deadline
            time.sleep(0.2)


@needs_proc
def test_everything_answers_stops_without_a_trace_and_remembers(served: Stack):
    """The last test of those that share the services, since it stops them."""
    process, mlflow = served.process, served.mlflow
    location = '{repositoryLocationName: "ml_pipeline", repositoryName: "__repository__"}'
    added = f'repositorySelector: {location}, partitionsDefName: "tenants", partitionKey: "initech"'
    served.graphql(f"mutation {{ addDynamicPartition({added}) {{ __typename }} }}")
    assert served.graphql("{ shouldShowNux }")["shouldShowNux"] is False
    telemetry = answer(f"{mlflow}/ajax-api/3.0/mlflow/ui-telemetry")
    assert telemetry["disable_ui_telemetry"] is True
    experiment = answer(f"{mlflow}/api/2.0/mlflow/experiments/create", {"name": "kept"})["experiment_id"]
    assert any("postgres" in command for command in processes_of(served.home).values())
    assert stopped_by(signal.SIGHUP, process) == 0
    assert processes_of(served.home) == {}
    opened = [path for path in served.home.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o066]
    assert opened == []

    with served.up() as process:
        keys = served.graphql(
            '{ assetNodeOrError(assetKey: {path: ["story_points", "model"]}) { ... on AssetNode { partitionKeys } } }',
        )
        assert keys["assetNodeOrError"]["partitionKeys"] == [*TENANTS, "initech"]
        kept = answer(f"{mlflow}/api/2.0/mlflow/experiments/get?experiment_id={experiment}")
        assert kept["experiment"]["name"] == "kept"

        before = postmaster(served.home)
        os.kill(before, signal.SIGKILL)
        runs = "{ runsOrError(limit: 1) { __typename } assetsOrError { __typename } }"
        listed = answers_again(lambda: served.graphql(runs))
        assert (listed["runsOrError"]["__typename"], listed["assetsOrError"]["__typename"]) == (
            "Runs",
            "AssetConnection",
        )
        kept = answers_again(lambda: answer(f"{mlflow}/api/2.0/mlflow/experiments/get?experiment_id={experiment}"))
        assert kept["experiment"]["name"] == "kept"
        assert postmaster(served.home) != before
        assert process.poll() is None

        assert stopped_by(signal.SIGKILL, process) == -signal.SIGKILL
    assert left_after(served.home, seconds=15) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_a_closed_terminal_and_a_termination_signal_stop_everything(number: signal.Signals):
    before = signal.getsignal(number)
    with up._stop_signals() as stopping:
        os.kill(os.getpid(), number)
        assert stopping.wait(5)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("said", [b"HTTP/1.1 500 Oh\r\n\r\n", b"HTTP/1.1 503 Wait\r\n\r\n", b"", b"nonsense\r\n\r\n"])
def test_whatever_a_server_says_while_it_starts_is_not_yet_an_answer(said: bytes):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def reply() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(said)

        server = threading.Thread(target=reply)
        server.start()
        assert up._answers(f"http://127.0.0.1:{listening.getsockname()[1]}/") is False
        server.join()
    assert up._answers(f"http://127.0.0.1:{free_port()}/") is False


LEADER = """
import sys, time
from pathlib import Path
from ml_pipeline import up
from ml_pipeline.resources import embedded, supervisor
from ml_pipeline.resources.postgres import DatabaseUnavailable
print(up._start(up.Service("parent", [sys.executable, "-c", sys.argv[1]]), Path(sys.argv[2])).process.pid, flush=True)
time.sleep(600)
"""


@needs_proc
def test_what_the_services_started_ends_with_a_leader_that_is_killed(tmp_path: Path):
    """Also a grandchild that ignores every signal that can be ignored."""
    deaf = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), '.', flush=True)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {deaf + '; time.sleep(600)'!r}]).wait()"
    leader = subprocess.Popen([sys.executable, "-c", LEADER, parent, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None
    group = int(leader.stdout.readline())
    wait_for(".", tmp_path / "parent.log", leader)
    child = int((tmp_path / "parent.log").read_text().split()[0])
    leader.kill()
    leader.communicate()
    deadline = time.monotonic() + 20
    while any(state_of(one) not in ("Z", None) for one in (group, child)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_database_that_stays_down_ends_everything_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    server = embedded.EmbeddedServer(tmp_path / "postgres", 20)
    server.control.mkdir()
    (server.control / supervisor.FAILED).write_text("PostgreSQL ended 6 times within 10 minutes")
    monkeypatch.setattr(embedded, "_held", [server])
    with pytest.raises(
        DatabaseUnavailable, match=r"stays down: PostgreSQL ended 6 times .*The reason is at the end of .*postgres\.log"
    ):
        up._check_alive([])


def test_a_second_up_on_the_same_database_is_refused_until_the_first_has_ended(settings: Settings):
    with (
        up._only_one(settings),
        pytest.raises(up.AlreadyRunning, match=rf"`ml-pipeline up` already runs on the database of {settings.home}\. "),
    ):
        up.serve(settings, Console())
    with up._only_one(settings):
        pass


def test_a_port_in_use_names_the_variable_that_changes_it():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(up.PortInUse, match=rf"Port {port} on 127\.0\.0\.1 .* ML_PIPELINE_MLFLOW_PORT={port + 1} "):
            up.check_port("127.0.0.1", port, "ML_PIPELINE_MLFLOW_PORT")


def test_a_port_is_looked_for_on_every_kind_of_address():
    up.check_port("::1", free_port(), "ML_PIPELINE_MLFLOW_PORT")
    with pytest.raises(up.PortInUse, match=r"ML_PIPELINE_HOST=192\.0\.2\.7 is not an address of this machine"):
        up.check_port("192.0.2.7", free_port(), "ML_PIPELINE_MLFLOW_PORT")


def test_a_service_that_ends_by_itself_is_named_with_its_log(tmp_path: Path):
    running = up._start(up.Service("MLflow", [sys.executable, "-c", "raise SystemExit(3)"]), tmp_path)
    running.process.wait(30)
    with pytest.raises(
        up.ServiceEnded, match=re.escape(f"MLflow ended with code 3. The reason is at the end of {tmp_path}/mlflow.log")
    ):
        up._check_alive([running])
    up._stop([running])


@needs_proc
def test_children_that_ignore_the_signal_are_killed_with_their_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(up, "STOP_SECONDS", 1.0)
    deaf = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(f'{os.getpid()}.', flush=True)"
    )
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {deaf + '; time.sleep(60)'!r}]).wait()"
    running = up._start(up.Service("parent", [sys.executable, "-c", parent]), tmp_path)
    wait_for(".", running.log, running.process)
    child = int(running.log.read_text().strip(" .\n"))
    up._stop([running])
    deadline = time.monotonic() + 10
    while state_of(child) not in ("Z", None):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_password_is_on_a_command_line():
    settings = Settings(database_url="postgresql://ann:secret@db/shop")
    assert not any("secret" in part for service in up.services(settings) for part in service.command)


def test_dagster_dev_without_a_database_names_make_up(tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "DAGSTER_HOME")}
    command = [str(BINARIES / "dagster"), "dev", "-p", str(free_port())]
    ended = subprocess.run(
        command, env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode != 0
    assert "DATABASE_URL is not set. Run `ml-pipeline up`" in ended.stderr


def test_dagster_dev_with_a_database_serves_the_assets(settings: Settings, tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    environment |= {"DATABASE_URL": str(settings.database_url), "ML_PIPELINE_HOME": str(settings.home)}
    port, log = free_port(), tmp_path / "dev.log"
    with started([str(BINARIES / "dagster"), "dev", "-p", str(port)], environment, log) as process:
        wait_for("Serving dagster-webserver", log, process)
        wait_until_it_answers(f"http://127.0.0.1:{port}/server_info", process)
        nodes = answer(f"http://127.0.0.1:{port}/graphql", {"query": "{ assetNodes { assetKey { path } } }"})["data"][
            "assetNodes"
        ]
        assert ["story_points", "model"] in [node["assetKey"]["path"] for node in nodes]
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C in a terminal reaches the whole group
        assert ended(process, log) == 0
