"""Runs a command, and ends it with everything that it started once the process that asked for it is gone.

Run as a script, by ``ml_pipeline.up``, at the head of a process group of its own. Its standard input is a pipe that the
other process holds open: the pipe ends with that process, whatever ends it. Standard library alone: it starts in 20 ms.
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
        signal.signal(number, lambda *_: None)  # meant for the command, which gets it too; ignored, it would not
    command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    while (code := command.poll()) is None:
        readable, _, _ = select.select([0], [], [], LOOK_SECONDS)
        if readable and not os.read(0, 1):
            _end_group(command)
    raise SystemExit(code if code >= 0 else 128 - code)


def _end_group(command: subprocess.Popen[bytes]) -> None:
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while command.poll() is None and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
