"""Stored files: whole or not there, and read only where they are ordinary files."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ml_pipeline.resources import store
from ml_pipeline.resources.scratch import remove_abandoned, scratch_folder

KILLED_BEFORE_THE_RENAME = """
import os, signal, sys
from ml_pipeline.resources import store
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
store.put_all(sys.argv[1], {"model.ubj": b"new" * 1000})
"""
KILLED_IN_A_SCRATCH_FOLDER = """
import os, signal
from ml_pipeline.resources.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "model").mkdir()
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@contextmanager
def full_disk(left: int) -> Iterator[None]:
    """A disk on which no file can grow past ``left`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("root", ["{folder}", "file://{folder}", "memory://store/{folder}"])
def test_files_are_read_back_wherever_the_store_is(tmp_path: Path, root: str):
    folder = root.format(folder=tmp_path) + "/deep/down"
    store.put_all(folder, {"a": b"1", "b": b"22"})
    store.put(f"{folder}/a", b"333")
    assert store.names(folder) == {"a", "b"}
    assert (store.read(f"{folder}/a"), store.read(f"{folder}/b", size=2)) == (b"333", b"22")
    store.remove(folder)
    assert not store.exists(folder)
    store.remove(folder)


def test_a_folder_with_a_blank_is_the_one_that_its_url_means(tmp_path: Path):
    folder = tmp_path / "a folder #1 100%"
    store.put(f"{store.as_url(str(folder))}/file", b"1")
    assert (folder / "file").read_bytes() == b"1"


def test_a_full_disk_leaves_what_was_there_and_nothing_else(tmp_path: Path):
    store.put_all(str(tmp_path), {"a": b"old", "b": b"old"})
    with full_disk(1000), pytest.raises(store.Unwritable, match=r"cannot be written: File too large\. Free space"):
        store.put_all(str(tmp_path), {"a": b"new", "b": b"new" * 1000})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old", "b": b"old"}


def test_a_process_killed_while_it_writes_leaves_no_file_under_the_name_and_what_it_began_is_cleared(tmp_path: Path):
    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_THE_RENAME, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "model.ubj").exists()
    assert len(list(tmp_path.iterdir())) == 1
    assert store.remove_begun(str(tmp_path), older_than=3600) == 0
    assert store.remove_begun(str(tmp_path), older_than=-1) == 1
    assert list(tmp_path.iterdir()) == []


def pipe(path: Path) -> None:
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def outside(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 * 2**30)  # no block of it is on the disk


WRONG: list[tuple[Callable[[Path], None], str]] = [
    (pipe, "is a named pipe, not a file"),
    (dangling, "is a symbolic link, not a file"),
    (outside, "is a symbolic link, not a file"),
    (Path.mkdir, "is a folder, not a file"),
    (huge, r"has 10,737,418,240 bytes instead of 3"),
    (lambda path: None, "is missing"),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_is_no_ordinary_file_is_neither_waited_for_nor_read(tmp_path: Path, make, message: str):
    make(tmp_path / "file")
    started = time.monotonic()
    with pytest.raises(store.Unreadable, match=message):
        store.read(str(tmp_path / "file"), size=3)
    assert time.monotonic() - started < 1


def test_a_link_to_a_folder_is_not_looked_into(tmp_path: Path):
    (tmp_path / "model").symlink_to("/etc")
    with pytest.raises(store.Unreadable, match="is a symbolic link, not a folder"):
        store.names(str(tmp_path / "model"))


def test_what_was_recorded_before_a_move_is_found_under_the_present_root(tmp_path: Path):
    old, new, below = tmp_path / "old", tmp_path / "new", "models/acme/m"
    store.put(f"{new}/{below}/run/file", b"1")
    recorded = f"{store.as_url(str(old))}/{below}/run/file"
    assert store.present(str(new), recorded, below) == f"{store.as_url(str(new))}/{below}/run/file"
    assert store.present(str(new), f"file:///other/{below}/another", below) == f"file:///other/{below}/another"
    assert store.present(str(new), recorded, "models/globex/m") == recorded


def test_a_scratch_folder_goes_with_its_work_or_is_cleared_after_its_process_was_killed():
    with scratch_folder() as used:
        command = [sys.executable, "-c", KILLED_IN_A_SCRATCH_FOLDER]
        killed = subprocess.run(command, check=False, capture_output=True, text=True)
        abandoned = Path(killed.stdout.strip())
        assert abandoned.is_dir()
        remove_abandoned(young_seconds=-1)
        assert (used.is_dir(), abandoned.exists()) == (True, False)
    assert not used.exists()
