"""Which of this machine's cores trainings use: as many as there may be workers, whoever started them."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ml_pipeline.settings import Settings


@contextmanager
def acquire_cores(settings: Settings, wanted: int) -> Iterator[int]:
    """Takes up to ``wanted`` of the ``settings.workers`` cores that nobody has taken; the value is how many those are.

    It never waits. A core is a lock on a file below ``settings.home``, which ends with its process, whatever ends it.
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
