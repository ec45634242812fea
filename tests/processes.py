"""Processes that tests start, and those that an installation has left running."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ml_pipeline.settings import PROJECT_ROOT

COMMAND = str(Path(sys.executable).parent / "ml-pipeline")
OWN_DATABASE = ("DATABASE_URL", "DAGSTER_HOME")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment_of(home: Path, **variables: str) -> dict[str, str]:
    """The environment of a command that works on an installation with the embedded PostgreSQL."""
    inherited = {name: value for name, value in os.environ.items() if name not in OWN_DATABASE}
    return inherited | {"ML_PIPELINE_HOME": str(home), "ML_PIPELINE_WORKERS": "2"} | variables


def processes_of(home: Path) -> dict[int, str]:
    """Commands, by process id, of everything on this machine that was started for an installation or serves it."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (folder / "environ").read_bytes()
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
        own = f"ML_PIPELINE_HOME={home}".encode() in environment or str(home) in command
        if command and own and int(folder.name) != os.getpid():
            found[int(folder.name)] = command
    return found


def left_after(home: Path, seconds: float) -> dict[int, str]:
    """What still runs of an installation after at most so many seconds; empty as soon as nothing does."""
    deadline = time.monotonic() + seconds
    while (found := processes_of(home)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


@contextmanager
def started(arguments: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen]:
    """``ml-pipeline`` with these arguments in a process group of its own, killed in the end if it still runs."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [COMMAND, *arguments],
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
