"""``ml-pipeline up``: the Dagster UI, the daemon and the MLflow UI, started and stopped together."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ml_pipeline import launch, watchdog, web
from ml_pipeline.errors import UserError
from ml_pipeline.resources import embedded
from ml_pipeline.resources.leases import LeaseTaken, lease
from ml_pipeline.resources.registry import tracking_url
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import INSTANCE_FILES, Settings, export_to_children

STOP_SECONDS = 20.0
LEASE = "up"


class PortInUse(UserError):
    """A port is taken; the message names it and the variable that changes it."""


class AlreadyRunning(UserError):
    """Another ``ml-pipeline up`` runs on the same database; the message says how to go on."""


class ServiceEnded(UserError):
    """A process that was to stay ended; the message names it and its log."""


@dataclass(frozen=True)
class Service:
    """A process of its own, and the page that it serves, if any."""

    name: str
    command: list[str]
    page: str | None = None


@dataclass(frozen=True)
class Running:
    """A service that was started, and the file that it prints to."""

    service: Service
    process: subprocess.Popen[bytes]
    log: Path


def services(settings: Settings) -> list[Service]:
    """Everything that runs beside PostgreSQL."""
    host, workspace = settings.host, str(INSTANCE_FILES / "workspace.yaml")
    dagster, mlflow = str(settings.dagster_port), str(settings.mlflow_port)
    python = [sys.executable, "-m"]
    return [
        Service(
            "Dagster",
            [*python, "ml_pipeline.dagster_pages", "-h", host, "-p", dagster, "-w", workspace],
            f"http://{settings.page_host}:{dagster}/",
        ),
        Service("daemon", [*python, "dagster._daemon", "run", "-w", workspace]),
        Service(
            "MLflow",
            [
                *python,
                "mlflow",
                "server",
                "--host",
                host,
                "--port",
                mlflow,
                "--workers",
                "1",
                "--app-name",
                "ml-pipeline",
                *_mlflow_names(settings),
            ],
            f"http://{settings.page_host}:{mlflow}/#/models",
        ),
    ]


def _mlflow_names(settings: Settings) -> list[str]:
    """MLflow's own checks, behind those of ``web``, told of the same names; a pattern matches any port."""
    allowed, origins = [], []
    for address in sorted(web.allowed_addresses(settings), key=str):
        name, port = address.in_url, address.port or "*"
        # MLflow takes a bracket in a pattern for a set of characters.
        pattern = f"{name.replace('[', '[[]') if port == '*' else name}:{port}"
        allowed += [name, pattern]
        origins += [f"{scheme}://{end}" for scheme in ("http", "https") for end in (name, pattern)]
    return ["--allowed-hosts", ",".join(allowed), "--cors-allowed-origins", ",".join(origins)]


def check_port(host: str, port: int, variable: str) -> None:
    """Raises
    ------
    PortInUse
        If somebody listens there, or the address is not one of this machine.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise PortInUse(
                f"Port {port} on {host} cannot be used ({error.strerror}). Stop what listens there, "
                f"or choose another: {variable}={port + 1} ml-pipeline up"
            ) from error
        raise PortInUse(
            f"ML_PIPELINE_HOST={host} is not an address of this machine ({error.strerror}). Correct it or unset it"
        ) from error


def serve(settings: Settings, console: Console) -> None:
    """Runs everything until Ctrl-C or a termination signal; if one process ends, all do.

    Raises
    ------
    AlreadyRunning
        If another ``ml-pipeline up`` runs on the same database.
    PortInUse
        If the port of a page cannot be used.
    ServiceEnded
        If one of the processes ends by itself.
    """
    started = time.monotonic()
    with _only_one(settings), _stop_signals() as stopping:
        check_port(settings.host, settings.dagster_port, "ML_PIPELINE_DAGSTER_PORT")
        check_port(settings.host, settings.mlflow_port, "ML_PIPELINE_MLFLOW_PORT")
        _serve_all(settings, stopping, console, started)


def _serve_all(settings: Settings, stopping: threading.Event, console: Console, started: float) -> None:
    with launch.dagster_instance(settings) as instance:
        launch.add_partitions(instance, Warehouse(settings).tenants())
        _export_mlflow_stores(settings)
        running: list[Running] = []
        try:
            for service in services(settings):
                running.append(_start(service, settings.home / "logs"))
            _announce(running, stopping, console, started)
            while not stopping.wait(0.5):
                _check_alive(running)
        finally:
            with contextlib.suppress(OSError):  # the terminal may be closed
                console.print("Stopping.")
            _stop(running)


@contextlib.contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Holds the lease of ``ml-pipeline up``: two daemons on one database would start each scheduled run twice."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lease(settings, LEASE))
        except LeaseTaken as error:
            raise AlreadyRunning(
                f"`ml-pipeline up` already runs on the database of {settings.home}. Use its pages, or stop it with "
                "Ctrl-C in its terminal and start again. For a second installation, set ML_PIPELINE_HOME to another "
                "folder, and DATABASE_URL to another database if it is set"
            ) from error
        yield


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C, a closed terminal and a termination signal set, in place of what they do otherwise."""
    stopping = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in numbers}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _export_mlflow_stores(settings: Settings) -> None:
    """Hands the server its stores in the environment: a command line, and a password in it, can be read by anyone."""
    store = tracking_url(settings)
    export_to_children(
        {
            "MLFLOW_TRACKING_URI": store,
            "MLFLOW_BACKEND_STORE_URI": store,
            "MLFLOW_REGISTRY_STORE_URI": store,
            "MLFLOW_DEFAULT_ARTIFACT_ROOT": settings.artifacts,
        }
    )


def _start(service: Service, logs: Path) -> Running:
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = logs / f"{service.name.lower()}.log"
    command = [sys.executable, "-I", "-S", watchdog.__file__, *service.command]
    with path.open("ab") as log:
        # A session of its own: Ctrl-C reaches this process alone, which then stops the others with all they started. If
        # it is killed itself, the pipe ends, and what holds its other end stops them.
        process = subprocess.Popen(
            command, cwd=INSTANCE_FILES, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    return Running(service, process, path)


def _announce(running: list[Running], stopping: threading.Event, console: Console, started: float) -> None:
    """Names each page as soon as it answers."""
    waiting = {one.service.name: one.service.page for one in running if one.service.page}
    with console.status("Starting"):
        while waiting and not stopping.wait(0.2):
            _check_alive(running)
            for name, page in list(waiting.items()):
                if _answers(page):
                    console.print(f"{name:<8} {page}")
                    del waiting[name]
    if not stopping.is_set():
        seconds = time.monotonic() - started
        console.print(f"Everything runs after {seconds:.0f} s; logs are in {running[0].log.parent}.")
        console.print("Ctrl-C stops all of it; everything is kept.")


def _answers(page: str) -> bool:
    try:
        with urllib.request.urlopen(page, timeout=5):
            return True
    except (OSError, http.client.HTTPException):  # not yet: refused, cut off, or an error of a server that starts
        return False


def _check_alive(running: list[Running]) -> None:
    """Raises
    ------
    ServiceEnded
        If a process has ended by itself.
    DatabaseUnavailable
        If the embedded PostgreSQL has died too often.
    """
    embedded.check_held()
    for one in running:
        code = one.process.poll()
        if code is not None:
            raise ServiceEnded(f"{one.service.name} ended with code {code}. The end of {one.log} says why")


def _stop(running: list[Running]) -> None:
    """Ends every process with all that it started, at the latest after ``STOP_SECONDS``."""
    for one in running:
        _signal_group(one.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for one in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.process.wait(max(0.1, deadline - time.monotonic()))
        # What it started may need longer than itself: a run says on its page that it was interrupted.
        while _signal_group(one.process.pid, 0) and time.monotonic() < deadline:
            time.sleep(0.1)
        _signal_group(one.process.pid, signal.SIGKILL)
        one.process.wait()


def _signal_group(group: int, number: int) -> bool:
    """Whether there was anyone to signal; 0 only asks."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
