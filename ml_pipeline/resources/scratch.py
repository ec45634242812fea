"""Folders for the files of one piece of work, on this machine; what a killed process leaves of them is found again."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "ml-pipeline-scratch-"
_YOUNG_SECONDS = 60.0


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder of its own, deleted at the end. A lock on it, which ends with the process, says that it is in use."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def remove_abandoned(young_seconds: float = _YOUNG_SECONDS) -> int:
    """Deletes the folders of this user whose process has died; returns how many.

    Younger ones than ``young_seconds`` are left: between its making and its lock a folder looks abandoned.
    """
    count = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            status = folder.lstat()
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < young_seconds:
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # gone meanwhile, or none of ours
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
        except BlockingIOError:  # in use
            continue
        finally:
            os.close(descriptor)
    return count
