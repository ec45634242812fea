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
    """A port is in use; the message names it and the variable that changes it."""


class AlreadyRunning(UserError):
    """Another ``ml-pipeline up`` runs on the same database; the message says how to go on."""


class ServiceEnded(UserError):
    """A service ended by itself; the message names it and its log."""


@dataclass(frozen=True)
class Service:
    """A service, its command, and the page that it serves, if any."""

    name: str
    command: list[str]
    page: str | None = None


@dataclass(frozen=True)
class Running:
    """A started service, its process and its log file."""

    service: Service
    process: subprocess.Popen[bytes]
    log: Path


def services(settings: Settings) -> list[Service]:
    """All services except PostgreSQL."""
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
    """Options that make MLflow's own checks accept the same names as those of ``web``; a pattern matches any port."""
    allowed, origins = [], []
    for address in sorted(web.allowed_addresses(settings), key=str):
        name, port = address.in_url, address.port or "*"
        # In MLflow's patterns, a bracket starts a set of characters.
        pattern = f"{name.replace('[', '[[]') if port == '*' else name}:{port}"
        allowed += [name, pattern]
        origins += [f"{scheme}://{end}" for scheme in ("http", "https") for end in (name, pattern)]
    return ["--allowed-hosts", ",".join(allowed), "--cors-allowed-origins", ",".join(origins)]


def check_port(host: str, port: int, variable: str) -> None:
    """Check that a server can listen on the port.

    Raises
    ------
    PortInUse
        If another process listens there, or the address does not belong to this machine.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise PortInUse(
                f"Port {port} on {host} cannot be used ({error.strerror}). Stop the process that listens there, "
                f"or choose another port: {variable}={port + 1} ml-pipeline up"
            ) from error
        raise PortInUse(
            f"ML_PIPELINE_HOST={host} is not an address of this machine ({error.strerror}). Correct it or unset it"
        ) from error


def serve(settings: Settings, console: Console) -> None:
    """Run all services until Ctrl-C or a termination signal; if one service ends, all are stopped.

    Raises
    ------
    AlreadyRunning
        If another ``ml-pipeline up`` runs on the same database.
    PortInUse
        If the port of a page cannot be used.
    ServiceEnded
        If a service ends by itself.
    """
    started = time.monotonic()
    with _only_one(settings), _stop_signals() as stopping:
        check_port(settings.host, settings.dagster_port, "ML_PIPELINE_DAGSTER_PORT")
        check_port(settings.host, settings.mlflow_port, "ML_PIPELINE_MLFLOW_PORT")
        running: list[Running] = []
        with launch.dagster_instance(settings) as instance:
            launch.add_partitions(instance, Warehouse(settings).tenants())
            # In the environment, since every user can read the passwords of a command line.
            store = tracking_url(settings)
            export_to_children(
                {
                    "MLFLOW_TRACKING_URI": store,
                    "MLFLOW_BACKEND_STORE_URI": store,
                    "MLFLOW_REGISTRY_STORE_URI": store,
                    "MLFLOW_DEFAULT_ARTIFACT_ROOT": settings.artifacts,
                }
            )
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
    """Hold the lease of ``ml-pipeline up``, since two daemons on one database would start scheduled runs twice."""
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
    """An event that is set by Ctrl-C, a closed terminal or a termination signal."""
    stopping = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in numbers}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(service: Service, logs: Path) -> Running:
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = logs / f"{service.name.lower()}.log"
    command = [sys.executable, "-I", "-S", watchdog.__file__, *service.command]
    with path.open("ab") as log:
        # In a new session, so that Ctrl-C reaches this process only, which then stops all services. If this process is
        # killed, the pipe ends, and the watchdog at its other end stops the service.
        process = subprocess.Popen(
            command, cwd=INSTANCE_FILES, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    return Running(service, process, path)


def _announce(running: list[Running], stopping: threading.Event, console: Console, started: float) -> None:
    """Print the address of each page as soon as it answers."""
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
        console.print(f"All services run after {seconds:.0f} s; logs are in {running[0].log.parent}.")
        console.print("Ctrl-C stops all services; all data are kept.")


def _answers(page: str) -> bool:
    try:
        with urllib.request.urlopen(page, timeout=5):
            return True
    except (OSError, http.client.HTTPException):  # the server is still starting
        return False


def _check_alive(running: list[Running]) -> None:
    """Check that all services and the embedded PostgreSQL run.

    Raises
    ------
    ServiceEnded
        If a service has ended by itself.
    DatabaseUnavailable
        If the embedded PostgreSQL has died too often.
    """
    embedded.check_held()
    for one in running:
        code = one.process.poll()
        if code is not None:
            raise ServiceEnded(f"{one.service.name} ended with code {code}. The reason is at the end of {one.log}")


def _stop(running: list[Running]) -> None:
    """End every service and its child processes, at the latest after ``STOP_SECONDS``."""
    for one in running:
        _signal_group(one.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for one in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.process.wait(max(0.1, deadline - time.monotonic()))
        # Its child processes may need longer: a run records that it was interrupted.
        while _signal_group(one.process.pid, 0) and time.monotonic() < deadline:
            time.sleep(0.1)
        _signal_group(one.process.pid, signal.SIGKILL)
        one.process.wait()
        if one.process.stdin is not None:
            one.process.stdin.close()


def _signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; returns whether the group exists. Signal 0 only checks."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
