"""Files of the artifact store: written whole or not at all, and read only where they are what was stored.

On this machine's disk a file is written beside its target, flushed and renamed, and its folder is flushed: neither a
full disk, nor a killed process, nor a power cut leaves half of it under its name. Object stores show an object when it
is whole; other stores are believed no further than the hash that each reader checks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ml_pipeline.errors import UserError

_BEGUN = ".begun"
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Unreadable(Exception):
    """A stored file is gone, is no ordinary file, has another size or may not be read; the message says what."""


class Missing(Unreadable):
    """There is no such stored file or folder."""


class Unwritable(UserError):
    """The artifact store takes no file; the message names the file, the cause and the remedy."""


def put(url: str, content: bytes) -> None:
    """Stores one file, whatever was there before.

    Raises
    ------
    Unwritable
        If that fails; what was there before is still there.
    """
    folder, _, name = url.rpartition("/")
    put_all(folder, {name: content})


def put_all(folder: str, contents: Mapping[str, bytes]) -> None:
    """Stores files by name in one folder (an fsspec URL or a path), which is made if it is missing.

    Raises
    ------
    Unwritable
        If one fails. Each file of the folder is then whole, as it was before or as it was to be.
    """
    filesystem, path = _filesystem(folder)
    try:
        if _is_local(filesystem):
            _put_local(Path(path), contents)
            return
        filesystem.makedirs(path, exist_ok=True)
        for name, content in contents.items():
            filesystem.pipe_file(f"{path}/{name}", content)
    except OSError as error:
        raise Unwritable(
            f"{folder} cannot be written: {error.strerror or error}. Free space or correct the rights on it, or name "
            "another store with ML_PIPELINE_ARTIFACTS; then run again"
        ) from error


def _put_local(folder: Path, contents: Mapping[str, bytes]) -> None:
    _make_folder(folder)
    begun: dict[Path, Path] = {}
    try:
        for name, content in contents.items():
            beside = folder / f".{name}.{uuid.uuid4().hex[:8]}{_BEGUN}"
            begun[beside] = folder / name
            with beside.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for beside, target in begun.items():
            beside.replace(target)
    except BaseException:
        for beside in begun:
            beside.unlink(missing_ok=True)
        raise
    _flush_folder(folder)


def _make_folder(folder: Path) -> None:
    """Makes the folder and those above it; each new one is flushed into the one above."""
    missing = [folder]
    while not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    for one in reversed(missing):
        if not one.is_dir():
            one.mkdir(exist_ok=True)
            _flush_folder(one.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems flush no folder
            raise
    finally:
        os.close(descriptor)


def read(url: str, *, size: int | None = None, at_most: int | None = None) -> bytes:
    """The content of one stored file; ``size`` is what it has to have, ``at_most`` what it may have.

    On this machine's disk nothing but an ordinary file is opened: a link is not followed, a named pipe not waited for.

    Raises
    ------
    Unreadable
        If it is not there, is no such file, or has another size. Nothing of a file of another size is read.
    """
    filesystem, path = _filesystem(url)
    try:
        if _is_local(filesystem):
            return _read_local(path, size, at_most)
        _check_size(int(filesystem.info(path)["size"]), size, at_most)
        content: bytes = filesystem.cat_file(path)
        return content
    except FileNotFoundError as error:
        raise Missing("is missing") from error
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from error


def _read_local(path: str, size: int | None, at_most: int | None) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        found = _kind(os.lstat(path).st_mode)
        raise Unreadable(f"is {found}, not a file" if found else f"cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        found = _kind(status.st_mode)
        if found:
            raise Unreadable(f"is {found}, not a file")
        _check_size(status.st_size, size, at_most)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(status.st_size)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    _check_size(len(content), status.st_size, None)
    return content


def _kind(mode: int) -> str | None:
    """What it is instead of an ordinary file."""
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "no file")


def _check_size(found: int, size: int | None, at_most: int | None) -> None:
    if size is not None and found != size:
        raise Unreadable(f"has {found:,} bytes, not {size:,}")
    if at_most is not None and found > at_most:
        raise Unreadable(f"has {found:,} bytes, more than the {at_most:,} that are read")


def names(folder: str) -> set[str]:
    """The names in a stored folder; on this machine's disk a link to another folder is not followed.

    Raises
    ------
    Unreadable
        If it is not there or is no folder.
    """
    filesystem, path = _filesystem(folder)
    try:
        if _is_local(filesystem):
            mode = os.lstat(path).st_mode
            if not stat.S_ISDIR(mode):
                raise Unreadable(f"is {_kind(mode) or 'a file'}, not a folder")
            return {entry.name for entry in Path(path).iterdir()}
        return {str(entry).rstrip("/").rpartition("/")[2] for entry in filesystem.ls(path, detail=False)}
    except FileNotFoundError as error:
        raise Missing("is missing") from error
    except (PermissionError, NotADirectoryError) as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from error


def exists(url: str) -> bool:
    """Whether anything is there, whatever it is."""
    filesystem, path = _filesystem(url)
    return os.path.lexists(path) if _is_local(filesystem) else bool(filesystem.exists(path))


def remove_file(url: str) -> None:
    """Deletes a file; nothing happens if it is gone.

    Raises
    ------
    OSError
        If the store does not let it be deleted, or it is a folder.
    """
    filesystem, path = _filesystem(url)
    with contextlib.suppress(FileNotFoundError):
        if _is_local(filesystem):
            Path(path).unlink()
        else:
            filesystem.rm_file(path)


def remove(url: str) -> None:
    """Deletes a file or a folder with all that is in it; nothing happens if it is gone.

    Raises
    ------
    OSError
        If the store does not let it be deleted.
    """
    filesystem, path = _filesystem(url)
    local = Path(path)
    if _is_local(filesystem) and (local.is_symlink() or not local.is_dir()):
        local.unlink(missing_ok=True)
    elif filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def remove_begun(folder: str, older_than: float) -> int:
    """Deletes what a killed process had begun to write below a folder of this machine; returns how many files.

    ``older_than`` is the age in seconds below which a file may still be written by somebody.
    """
    filesystem, path = _filesystem(folder)
    if not _is_local(filesystem):
        return 0
    before = time.time() - older_than
    found = [file for file in _walk(Path(path)) if file.lstat().st_mtime < before]
    for file in found:
        file.unlink(missing_ok=True)
    return len(found)


def _walk(folder: Path) -> Iterator[Path]:
    for where, _, found in os.walk(folder):
        yield from (Path(where, name) for name in found if name.startswith(".") and name.endswith(_BEGUN))


def as_url(location: str) -> str:
    """A path as a ``file://`` URL, a URL as it is; without a slash at its end."""
    return location.rstrip("/") if "://" in location else Path(location).resolve().as_uri()


def present(root: str, recorded: str, below: str) -> str:
    """Where something is today that was recorded with an absolute address: an installation may have been moved.

    ``below`` is the part of the address that every artifact store has in common (``models/acme/story_points``). What
    was recorded under another root and is found below the present one is there; all else is where it was recorded.
    """
    _, found, rest = recorded.rpartition(f"/{below}/")
    if not found or any(recorded.startswith(f"{one}/{below}/") for one in (root.rstrip("/"), as_url(root))):
        return recorded
    moved = f"{as_url(root)}/{below}/{rest}"
    return moved if exists(moved) else recorded


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    if url.startswith("file://"):
        # MLflow quotes the path of a file URL, fsspec takes it literally. What was once stored under a quoted name
        # is still found there.
        quoted = url.removeprefix("file://")
        path = unquote(quoted)
        is_old = path != quoted and not Path(path).exists() and Path(quoted).exists()
        url = quoted if is_old else path
    filesystem, path = fsspec.url_to_fs(url)
    return filesystem, path


def _is_local(filesystem: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(filesystem, LocalFileSystem)
