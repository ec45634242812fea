"""Runs a command, and ends it with all its child processes if the process that started the watchdog ends.

``ml_pipeline.up`` runs it as a script that leads a process group of its own. Its standard input is a pipe that the
starting process holds open, so the pipe ends with that process, even if it is killed. The watchdog consists of two
processes that watch each other: if one is killed, the other ends the group. It imports the standard library only, so
that it starts in 20 ms.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

LOOK_SECONDS = 0.2
GRACE_SECONDS = 3.0


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # the command gets the signal too; SIG_IGN would be inherited
    outer = os.getpid()
    inner = os.fork()
    if inner:  # ends with the code of the other watchdog; ends the group if that one is killed or the parent is gone
        while True:
            ended, status = os.waitpid(inner, os.WNOHANG)
            if ended and os.WIFEXITED(status):
                raise SystemExit(os.WEXITSTATUS(status))
            if ended or _is_parent_gone(LOOK_SECONDS):
                _end_group()
    else:  # runs the command and ends with its code; ends the group if the other watchdog or the parent is gone
        command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
        while (code := command.poll()) is None:
            if _is_parent_gone(LOOK_SECONDS) or os.getppid() != outer:
                _end_group()
        raise SystemExit(code if code >= 0 else 128 - code)


def _is_parent_gone(seconds: float) -> bool:
    """Whether the pipe on standard input ends within ``seconds``."""
    readable, _, _ = select.select([0], [], [], seconds)
    return bool(readable) and not os.read(0, 1)


def _end_group() -> None:
    """Terminate the whole group, and kill what is left of it, including itself, after ``GRACE_SECONDS``."""
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
