"""Shares this machine's cores among the trainings of all processes of an installation."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ml_pipeline.settings import Settings


@contextmanager
def acquire_cores(settings: Settings, wanted: int) -> Iterator[int]:
    """Take up to ``wanted`` of the free cores, without waiting; yields how many were taken.

    There are ``settings.workers`` cores. A core is a lock on a file under ``settings.home``, which the operating system
    releases when the process ends, even if it is killed.
    """
    folder = settings.home / "cores"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as held:
        count = 0
        for number in range(settings.workers):
            if count == wanted:
                break
            file = held.enter_context((folder / str(number)).open("w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            count += 1
        yield count
