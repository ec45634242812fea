"""``make up``: the Dagster UI, the daemon and the MLflow UI, started and stopped together."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ml_pipeline import launch
from ml_pipeline.resources.registry import tracking_url
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import PROJECT_ROOT, Settings, export_to_children

STOP_SECONDS = 20.0


class PortInUse(Exception):
    """A port is taken; the message names it and the variable that changes it."""


@dataclass(frozen=True)
class Service:
    """A process of its own, and the page that it serves, if any."""

    name: str
    command: list[str]
    url: str | None = None


def services(settings: Settings) -> list[Service]:
    """Everything that runs beside PostgreSQL."""
    host, workspace = settings.host, str(PROJECT_ROOT / "workspace.yaml")
    dagster, mlflow = str(settings.dagster_port), str(settings.mlflow_port)
    python = [sys.executable, "-m"]
    store = tracking_url(settings)
    stores = [
        "--backend-store-uri",
        store,
        "--registry-store-uri",
        store,
        "--default-artifact-root",
        settings.artifacts,
    ]
    return [
        Service(
            "Dagster",
            [*python, "dagster_webserver", "-h", host, "-p", dagster, "-w", workspace],
            f"http://{host}:{dagster}",
        ),
        Service("daemon", [*python, "dagster._daemon", "run", "-w", workspace]),
        Service(
            "MLflow",
            [*python, "mlflow", "server", "--host", host, "--port", mlflow, "--workers", "1", *stores],
            f"http://{host}:{mlflow}/#/models",
        ),
    ]


def check_port(host: str, port: int, variable: str) -> None:
    """Raises
    ------
    PortInUse
        If somebody listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortInUse(
                f"Port {port} on {host} cannot be used ({error.strerror}). Stop what listens there, "
                f"or choose another: {variable}={port + 1} make up"
            ) from error


def serve(settings: Settings, console: Console) -> None:
    """Runs everything until Ctrl-C or a termination signal; if one process ends, all do."""
    check_port(settings.host, settings.dagster_port, "ML_PIPELINE_DAGSTER_PORT")
    check_port(settings.host, settings.mlflow_port, "ML_PIPELINE_MLFLOW_PORT")
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with launch.dagster_instance(settings) as instance:
        launch.add_partitions(instance, Warehouse(settings).tenants())
    export_to_children({"MLFLOW_TRACKING_URI": tracking_url(settings)})
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    running: list[tuple[Service, subprocess.Popen]] = []
    try:
        for service in services(settings):
            running.append((service, _start(service, logs)))
            where = f" on {service.url}" if service.url else ""
            console.print(f"{service.name}{where}, log in {logs / service.name.lower()}.log", highlight=False)
        console.print("Ctrl-C stops all of them; everything is kept.")
        _wait(running, stopping, console, logs)
    finally:
        _stop([process for _, process in running], console)


def _start(service: Service, logs: Path) -> subprocess.Popen:
    log = (logs / f"{service.name.lower()}.log").open("ab")
    # A session of its own: Ctrl-C reaches this process alone, which then stops the others in order.
    return subprocess.Popen(service.command, cwd=PROJECT_ROOT, stdout=log, stderr=log, start_new_session=True)


def _wait(
    running: list[tuple[Service, subprocess.Popen]], stopping: threading.Event, console: Console, logs: Path
) -> None:
    while not stopping.wait(0.5):
        for service, process in running:
            if process.poll() is not None:
                console.print(
                    f"{service.name} ended with code {process.returncode}: see {logs / service.name.lower()}.log"
                )
                raise SystemExit(1)


def _stop(processes: list[subprocess.Popen], console: Console) -> None:
    console.print("Stopping.")
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
