"""The parent of the embedded PostgreSQL: starts it again when it dies, and stops it when nobody uses it any more.

Run as a script, detached from the command that starts it. It imports the standard library alone, so that it starts in
some 20 ms and stays small. Because it is the parent, it never has to believe a process id in a file.

Three locks in the control folder, which end with their processes whatever ends these, say who does what:

- ``users.lock`` is shared by every process that uses the server. Who gets it alone knows that the last user is gone.
- ``start.lock`` belongs to whoever starts or stops the server.
- ``supervisor.lock`` belongs to the supervisor as long as it lives.
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
RESTARTS, WITHIN = 5, 600.0  # a server that dies more often than so many times in so many seconds stays down
LOOK_SECONDS = 0.05
PATIENCE = 30.0  # seconds for a fast shutdown, until an immediate one
LOG_BYTES = 10_000_000
PR_SET_PDEATHSIG = 1


def append(path: Path) -> IO[str]:
    """The file, opened for more; nobody but its owner reads one that is made."""
    return open(path, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600))


def lock(path: Path, how: int) -> IO[str] | None:
    """The open file of a lock that was taken, or None where ``LOCK_NB`` is given and somebody has it."""
    file = append(path)
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        file.close()
        return None
    return file


class Supervisor:
    """Keeps one server running until it is told to stop or has died too often."""

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
                self._give_up(server.returncode)
                return
            self._say(f"PostgreSQL ended with code {server.returncode}; it is started again")
            time.sleep(self.config["pause"] * 2 ** len(deaths))

    def _terminate(self, *_: object) -> None:
        self.terminated = True

    def _is_unused(self) -> bool:
        """Whether nobody uses the server and nobody is about to; from then on who comes waits until it has stopped."""
        try:
            fcntl.flock(self.users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.start = lock(self.control / START_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if self.start is None:
            fcntl.flock(self.users, fcntl.LOCK_UN)
        return self.start is not None

    def _start(self) -> subprocess.Popen[bytes]:
        self._end_orphans()
        self._remove_leftovers()
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
        """The kernel asks the server for a fast shutdown when this process is killed."""
        assert self.libc is not None
        self.libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT)

    def _end_orphans(self) -> None:
        """Ends what a server that was killed left at work: as long as one goes on, no other server can start."""
        deadline = time.monotonic() + PATIENCE
        while (orphans := self._orphans()) and time.monotonic() < deadline:
            for orphan in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(orphan, signal.SIGQUIT)
            time.sleep(LOOK_SECONDS)

    def _orphans(self) -> list[int]:
        """Processes of this very program in this very data folder; there is no server that they could belong to."""
        program, data = Path(self.config["command"][0]).resolve(), Path(self.config["data"]).resolve()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "exe").readlink() == program and (folder / "cwd").readlink() == data:
                    found.append(int(folder.name))
            except OSError:  # it has ended, or is another user's
                continue
        return found

    def _remove_leftovers(self) -> None:
        """Files with the process id of a server that is known to be gone, which may be somebody else's by now."""
        (Path(self.config["data"]) / "postmaster.pid").unlink(missing_ok=True)
        for path in Path(self.config["socket"]).glob(".s.PGSQL.*"):
            path.unlink()

    def _stop(self, server: subprocess.Popen[bytes]) -> None:
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            server.send_signal(number)
            try:
                server.wait(PATIENCE)
                break
            except subprocess.TimeoutExpired:
                self._say(f"PostgreSQL does not stop within {PATIENCE:.0f} s of {number.name}")
        if self.config["temporary"]:
            Path(self.config["socket"]).rmdir()

    def _give_up(self, code: int) -> None:
        minutes = WITHIN / 60
        text = f"PostgreSQL ended {RESTARTS + 1} times within {minutes:.0f} minutes, the last time with code {code}"
        self._say(text)
        (self.control / FAILED).write_text(text, encoding="utf-8")

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
        time.sleep(0.01)  # somebody is just asking whether there is a supervisor
    raise SystemExit(f"another supervisor has {control / SUPERVISOR_LOCK}")


if __name__ == "__main__":
    main()
