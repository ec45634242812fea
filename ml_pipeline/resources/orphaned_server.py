"""What an embedded PostgreSQL whose supervisor is gone left behind: a server that still runs, or only its files."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil

from ml_pipeline.resources.postgres import DatabaseUnavailable

CLOCK_ERROR = 60.0  # seconds by which two accounts of when a process started may differ


def stop_leftover(data: Path) -> None:
    """Stops a server that runs on the folder without a supervisor, and removes what a server that is gone left there.

    No process is signalled that is not proven to be that server: its command, its folder, and the time at which it
    started. The number in ``postmaster.pid`` may be another's since: after a restart, or in a container.

    Raises
    ------
    DatabaseUnavailable
        If a process looks like that server and cannot be proven to be it, or does not stop.
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
            f"Process {found.pid} looks like a PostgreSQL server on {data}, but {file} says that it started at another "
            f"time, so it is not stopped. If it is one: kill -INT {found.pid}"
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
    raise DatabaseUnavailable(f"PostgreSQL on {data} (process {found.pid}) does not stop. Look at it, then stop it")


def _postmaster(data: Path, number: str) -> psutil.Process | None:
    """The process of that number where it is PostgreSQL in this data folder."""
    if not number.strip().isdecimal():
        return None
    try:
        process = psutil.Process(int(number))
        if process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE:
            return process if Path(process.cwd()) == data.resolve() else None
    except (psutil.NoSuchProcess, psutil.AccessDenied, OverflowError):
        return None
    return None
