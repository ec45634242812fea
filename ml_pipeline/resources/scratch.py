"""Temporary folders, and the removal of those that killed processes left."""

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
    """A temporary folder, deleted at the end. A lock on it, which ends with the process, marks it as in use."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def remove_abandoned(young_seconds: float = _YOUNG_SECONDS) -> int:
    """Delete this user's temporary folders whose process has died; return their number.

    Folders younger than ``young_seconds`` stay: a new folder has no lock for a moment, and looks abandoned.
    """
    count = 0
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            status = folder.lstat()
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < young_seconds:
                continue
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # deleted meanwhile, or not a folder of ours
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
