"""One running installation, as ``ml-pipeline up`` serves it, and one browser: the tests that need them share both.

Services take many seconds to start, so the tests that ask for ``stack`` run in one process, one after another.
``tests/conftest.py`` gives their files to one worker, and makes the fixtures known to all tests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import pytest

from ml_pipeline.resources import postgres
from ml_pipeline.resources.compute import PRELOAD
from ml_pipeline.resources.preparation import prepare
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import PROJECT_ROOT, Settings
from tests.processes import COMMAND, environment_of, free_port

STACK_FILES = ("tests/attacks/test_other_origins.py", "tests/browser/test_pages.py", "tests/test_up.py")
TENANTS = ("acme", "globex")
PATIENCE = 120.0
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Browsers that ask before a page of the internet reaches this machine are no defence to count on.
    "--disable-features=LocalNetworkAccessChecks",
    "--host-resolver-rules=MAP *.example 127.0.0.1,MAP *.example.com 127.0.0.1",
]
# Ctrl-C is ignored in what a shell starts in the background; here it is heeded, as in a terminal.
HEEDING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


@contextmanager
def started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in the project's folder that heeds Ctrl-C, killed with its group in the end if it still runs."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", HEEDING, *command],
            env=environment,
            cwd=PROJECT_ROOT,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(text: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while text not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def answer(url: str, body: dict[str, Any] | None = None) -> Any:
    """JSON that a server answers to a program: a GET, or a POST of ``body``."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


class Stack:
    """An installation with the embedded PostgreSQL, and the process of its ``ml-pipeline up`` while it runs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home.parent / "up.log"
        self.settings = Settings(home=home, dagster_port=free_port(), mlflow_port=free_port())
        self.dagster = f"http://127.0.0.1:{self.settings.dagster_port}"
        self.mlflow = f"http://127.0.0.1:{self.settings.mlflow_port}"
        self.environment = environment_of(
            home,
            ML_PIPELINE_WORKERS="1",
            ML_PIPELINE_DAGSTER_PORT=str(self.settings.dagster_port),
            ML_PIPELINE_MLFLOW_PORT=str(self.settings.mlflow_port),
        )
        self.process: subprocess.Popen[bytes] | None = None

    def fill(self) -> None:
        """Two tenants; the story points of one, with a year of issues, were trained three months ago and again now."""
        import pandas as pd

        from ml_pipeline.cli.app import run_pipeline
        from ml_pipeline.cli.common import installation
        from ml_pipeline.demo.simulator import demo_organisations, simulate
        from ml_pipeline.importers import import_tables

        now = pd.Timestamp.now("UTC").floor("h")
        # The workers' parent lives as long as the tests: begun here, it has an environment without this installation.
        forkserver.set_forkserver_preload(PRELOAD)
        forkserver.ensure_running()
        mask = os.umask(0o077)  # as a command has it
        with mock.patch.dict(os.environ, self.environment, clear=True), installation() as settings:
            prepare(settings)
            warehouse = Warehouse(settings)
            import_tables(warehouse, TENANTS[0], simulate(demo_organisations(now)[0]).issues, None)
            warehouse.add_tenant(TENANTS[1])
            for as_of in ((now - pd.Timedelta(days=90)).isoformat(), now.isoformat()):
                assert run_pipeline(settings, [TENANTS[0]], ["story_points"], as_of, 0) == []
            postgres.close_engines(postgres.parse_url(str(settings.database_url)).database)
        os.umask(mask)
        self.settings = settings

    @contextmanager
    def up(self) -> Iterator[subprocess.Popen[bytes]]:
        """``ml-pipeline up`` once everything answers; what still runs in the end is killed."""
        with started([COMMAND, "up"], self.environment, self.log) as process:
            wait_for("All services run", self.log, process)
            yield process

    def graphql(self, query: str) -> Any:
        return answer(f"{self.dagster}/graphql", {"query": query})["data"]


@pytest.fixture(scope="session")
def filled() -> Iterator[Stack]:
    """An installation with its tenants and versions, that nothing serves yet."""
    # Not in pytest's own folder, which is closed to the user that PostgreSQL runs as where root runs the tests.
    with TemporaryDirectory(prefix="ml-pipeline-tests-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        stack = Stack(Path(folder) / "home")
        stack.fill()
        yield stack


@pytest.fixture(scope="session")
def served(filled: Stack) -> Iterator[Stack]:
    """The installation while ``ml-pipeline up`` serves it, until a test stops it."""
    with filled.up() as filled.process:
        yield filled
        if filled.process.poll() is None:
            filled.process.send_signal(signal.SIGTERM)
            filled.process.wait(60)


@pytest.fixture
def stack(served: Stack) -> Stack:
    assert served.process is not None and served.process.poll() is None, served.log.read_text()
    return served


@pytest.fixture(scope="session")
def chromium() -> str:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no Chromium on this machine: `make setup-browser` installs it")
    return path


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """A browser, closed with its module: while it is open, Dagster can run nothing in this process."""
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        expect.set_options(timeout=30_000)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: str, stack: Stack, browser: Any) -> Iterator[Any]:
    """An empty page of a visitor who was never here before."""
    context = browser.new_context(viewport={"width": 1500, "height": 900})
    context.set_default_timeout(30_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def expect() -> Any:
    """Playwright's ``expect``, which waits."""
    from playwright.sync_api import expect

    return expect
