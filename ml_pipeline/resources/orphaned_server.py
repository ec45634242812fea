"""Stops an embedded PostgreSQL whose supervisor is gone, and removes its leftover files."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil

from ml_pipeline.resources.postgres import DatabaseUnavailable

CLOCK_ERROR = 60.0  # seconds by which two records of a process's start may differ


def stop_leftover(data: Path) -> None:
    """Stop a server that runs on the folder without a supervisor, and remove the pid file of an ended one.

    A process is stopped only if its command, folder and start time show that it is this server: after a restart of the
    machine, or in a container, another process may have the number in ``postmaster.pid``.

    Raises
    ------
    DatabaseUnavailable
        If a process looks like this server but has another start time, or does not stop.
    """
    file = data / "postmaster.pid"
    if not file.exists():
        return
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    found = _postmaster(data, lines[0] if lines else "")
    if found is None:
        file.unlink(missing_ok=True)
        return
    started = float(lines[2]) if len(lines) > 2 and lines[2].strip().isdecimal() else None
    if started is None or abs(found.create_time() - started) > CLOCK_ERROR:
        raise DatabaseUnavailable(
            f"Process {found.pid} looks like a PostgreSQL server on {data}, but its start time differs from that in "
            f"{file}, so it was not stopped. If it is that server, stop it: kill -INT {found.pid}"
        )
    for number, patience in ((signal.SIGINT, 30), (signal.SIGQUIT, 10)):
        try:
            found.send_signal(number)
            found.wait(patience)
            file.unlink(missing_ok=True)
            return
        except psutil.NoSuchProcess:
            file.unlink(missing_ok=True)
            return
        except psutil.TimeoutExpired:
            continue
    raise DatabaseUnavailable(
        f"PostgreSQL on {data} (process {found.pid}) does not stop. Stop it by hand: kill -QUIT {found.pid}"
    )


def _postmaster(data: Path, number: str) -> psutil.Process | None:
    """The process with this number if it is PostgreSQL in this data folder."""
    if not number.strip().isdecimal():
        return None
    try:
        process = psutil.Process(int(number))
        if process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE:
            return process if Path(process.cwd()) == data.resolve() else None
    except (psutil.NoSuchProcess, psutil.AccessDenied, OverflowError):
        return None
    return None
