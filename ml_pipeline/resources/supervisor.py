"""The parent process of the embedded PostgreSQL: restarts the server if it dies, and stops it after its last user.

It runs as a script, detached from the command that starts it. It imports the standard library only, so that it starts
in about 20 ms and needs little memory. As the parent, it knows the server's process without reading a pid file.

Three file locks in the control folder coordinate the processes. The operating system releases a lock when its process
ends, even if it is killed.

- ``users.lock`` is held in shared mode by every process that uses the server; an exclusive lock succeeds after the last
  user has ended.
- ``start.lock`` is held by the process that starts or stops the server.
- ``supervisor.lock`` is held by the supervisor as long as it runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

START_LOCK, USERS_LOCK, SUPERVISOR_LOCK = "start.lock", "users.lock", "supervisor.lock"
CONFIG, FAILED, LOG = "server.json", "failed", "postgres.log"
RESTARTS, WITHIN = 5, 600.0  # most restarts within so many seconds; a server that dies more often stays down
LOOK_SECONDS = 0.05
PATIENCE = 30.0  # seconds of waiting after each signal, from a fast to an immediate shutdown
LOG_BYTES = 10_000_000
PR_SET_PDEATHSIG = 1


def append(path: Path) -> IO[str]:
    """The file, opened for appending; a new one has mode 0600."""
    return open(path, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600))


def lock(path: Path, how: int) -> IO[str] | None:
    """The open file of a lock that was taken; None if ``LOCK_NB`` is given and another process holds the lock."""
    file = append(path)
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        file.close()
        return None
    return file


class Supervisor:
    """Keeps one server running until nobody uses it, a signal stops it, or it has died too often."""

    def __init__(self, control: Path) -> None:
        self.control = control
        self.config = json.loads((control / CONFIG).read_text(encoding="utf-8"))
        self.terminated = False
        self.users = append(control / USERS_LOCK)
        self.start: IO[str] | None = None
        self.libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._terminate)
        deaths: list[float] = []
        while True:
            server = self._start()
            while server.poll() is None:
                if self.terminated or self._is_unused():
                    self._stop(server)
                    return
                time.sleep(LOOK_SECONDS)
            now = time.monotonic()
            deaths = [death for death in deaths if now - death < WITHIN] + [now]
            if len(deaths) > RESTARTS:
                text = (
                    f"PostgreSQL ended {RESTARTS + 1} times within {WITHIN / 60:.0f} minutes, the last time with code "
                    f"{server.returncode}"
                )
                self._say(text)
                (self.control / FAILED).write_text(text, encoding="utf-8")
                return
            self._say(f"PostgreSQL ended with code {server.returncode}. It is restarted")
            time.sleep(self.config["pause"] * 2 ** len(deaths))

    def _terminate(self, *_: object) -> None:
        self.terminated = True

    def _is_unused(self) -> bool:
        """Whether no process uses or starts the server. If so, new users wait until the server has stopped."""
        try:
            fcntl.flock(self.users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.start = lock(self.control / START_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if self.start is None:
            fcntl.flock(self.users, fcntl.LOCK_UN)
        return self.start is not None

    def _start(self) -> subprocess.Popen[bytes]:
        # While a child process of a killed server runs, a new one cannot start.
        deadline = time.monotonic() + PATIENCE
        while (orphans := self._orphans()) and time.monotonic() < deadline:
            for orphan in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGQUIT)
            time.sleep(LOOK_SECONDS)
        # The server is gone: another process may have its process id by now.
        (Path(self.config["data"]) / "postmaster.pid").unlink(missing_ok=True)
        for path in Path(self.config["socket"]).glob(".s.PGSQL.*"):
            path.unlink()
        identity = {}
        if self.config["uid"] is not None:
            identity = {"user": self.config["uid"], "group": self.config["gid"], "extra_groups": []}
        log = self.control / LOG
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with append(log) as output:
            return subprocess.Popen(
                self.config["command"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=self._end_with_parent if self.libc else None,  # noqa: PLW1509 - there is one thread
                **identity,
            )

    def _end_with_parent(self) -> None:
        """Let the kernel send the server a fast shutdown signal if this process is killed."""
        assert self.libc is not None
        self.libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT)

    def _orphans(self) -> list[int]:
        """Processes of this PostgreSQL program in this data folder; no server runs that could own them."""
        program, data = Path(self.config["command"][0]).resolve(), Path(self.config["data"]).resolve()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "exe").readlink() == program and (folder / "cwd").readlink() == data:
                    found.append(int(folder.name))
            except OSError:  # it has ended, or belongs to another user
                continue
        return found

    def _stop(self, server: subprocess.Popen[bytes]) -> None:
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            server.send_signal(number)
            try:
                server.wait(PATIENCE)
                break
            except subprocess.TimeoutExpired:
                self._say(f"PostgreSQL did not stop within {PATIENCE:.0f} s after {number.name}")
        if self.config["temporary"]:
            Path(self.config["socket"]).rmdir()

    def _say(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        with append(self.control / LOG) as log:
            log.write(f"{stamp} supervisor: {text}\n")


def main() -> None:
    os.umask(0o077)
    control = Path(sys.argv[1])
    for _ in range(100):
        alive = lock(control / SUPERVISOR_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if alive is not None:
            Supervisor(control).run()
            return
        time.sleep(0.01)  # another process is checking for a supervisor
    raise SystemExit(f"another supervisor holds {control / SUPERVISOR_LOCK}")


if __name__ == "__main__":
    main()
