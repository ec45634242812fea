"""Files of the artifact store: a file is written completely or not at all.

On a local disk, a file is written beside its target, flushed and renamed, and its folder is flushed, so that neither a
full disk, nor a killed process, nor a power cut leaves an incomplete file under its name. Object stores show complete
objects only. For other stores, readers rely on the hash of each file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ml_pipeline.errors import UserError
from ml_pipeline.resources.folders import KINDS

_BEGUN = ".begun"


class Unreadable(Exception):
    """A stored file is missing, is not a regular file, has another size or cannot be read; the message says which."""


class Missing(Unreadable):
    """The stored file or folder does not exist."""


class Unwritable(UserError):
    """The artifact store cannot be written; the message names the folder, the cause and the remedy."""


def put(url: str, content: bytes) -> None:
    """Store one file; it replaces an existing one.

    Raises
    ------
    Unwritable
        If that fails. An existing file is then unchanged.
    """
    folder, _, name = url.rpartition("/")
    put_all(folder, {name: content})


def put_all(folder: str, contents: Mapping[str, bytes]) -> None:
    """Store files in one folder, which is created if it is missing.

    Parameters
    ----------
    folder
        An fsspec URL or a path.
    contents
        The content of each file by its name.

    Raises
    ------
    Unwritable
        If one fails. Each file of the folder is then complete, either old or new.
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
            f"{folder} cannot be written: {error.strerror or error}. Free space or correct the rights on it, or set "
            "ML_PIPELINE_ARTIFACTS to another store; then run again"
        ) from error


def _put_local(folder: Path, contents: Mapping[str, bytes]) -> None:
    missing = [folder]
    while not missing[-1].parent.is_dir():
        missing.append(missing[-1].parent)
    for one in reversed(missing):
        if not one.is_dir():
            one.mkdir(exist_ok=True)
            _flush_folder(one.parent)
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


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot flush a folder
            raise
    finally:
        os.close(descriptor)


def read(url: str, *, size: int | None = None, at_most: int | None = None) -> bytes:
    """The content of one stored file.

    On a local disk, only a regular file is read: links are not followed, and named pipes do not block.

    Parameters
    ----------
    url
        An fsspec URL or a path.
    size
        The exact size that the file must have, in bytes.
    at_most
        The largest size that the file may have, in bytes.

    Raises
    ------
    Missing
        If the file does not exist.
    Unreadable
        If it is not a regular file, cannot be read, or has another size; it is then not read.
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
    """What it is instead of a regular file, None if it is one."""
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "of an unknown kind")


def _check_size(found: int, size: int | None, at_most: int | None) -> None:
    if size is not None and found != size:
        raise Unreadable(f"has {found:,} bytes instead of {size:,}")
    if at_most is not None and found > at_most:
        raise Unreadable(f"has {found:,} bytes; the limit is {at_most:,}")


def names(folder: str) -> set[str]:
    """The names in a stored folder; on a local disk, a link to another folder is not followed.

    Raises
    ------
    Missing
        If the folder does not exist.
    Unreadable
        If it is not a folder or cannot be read.
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
    """Whether a file, folder or link exists there."""
    filesystem, path = _filesystem(url)
    return os.path.lexists(path) if _is_local(filesystem) else bool(filesystem.exists(path))


def remove_file(url: str) -> None:
    """Delete a file if it exists.

    Raises
    ------
    OSError
        If the store refuses to delete it, or it is a folder.
    """
    filesystem, path = _filesystem(url)
    with contextlib.suppress(FileNotFoundError):
        if _is_local(filesystem):
            Path(path).unlink()
        else:
            filesystem.rm_file(path)


def remove(url: str) -> None:
    """Delete a file, or a folder with its content, if it exists.

    Raises
    ------
    OSError
        If the store refuses to delete it.
    """
    filesystem, path = _filesystem(url)
    local = Path(path)
    if _is_local(filesystem) and (local.is_symlink() or not local.is_dir()):
        local.unlink(missing_ok=True)
    elif filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def remove_begun(folder: str, older_than: float) -> int:
    """Delete incomplete files that killed processes left in a local folder; return their number.

    ``older_than`` is an age in seconds: a process may still write a younger file.
    """
    filesystem, path = _filesystem(folder)
    if not _is_local(filesystem):
        return 0
    before = time.time() - older_than
    begun = (file for file in Path(path).rglob(f".*{_BEGUN}") if file.lstat().st_mtime < before)
    found = list(begun)
    for file in found:
        file.unlink(missing_ok=True)
    return len(found)


def as_url(location: str) -> str:
    """The location as a URL without a slash at its end; a path becomes a ``file://`` URL."""
    return location.rstrip("/") if "://" in location else Path(location).resolve().as_uri()


def present(root: str, recorded: str, below: str) -> str:
    """The current address of a stored file or folder, since the installation may have been moved.

    Parameters
    ----------
    root
        The current artifact store.
    recorded
        The absolute address at the time of writing.
    below
        The part of the address that does not depend on the root, such as ``models/acme/story_points``.

    Returns
    -------
    str
        The address under ``root`` if something exists there, otherwise ``recorded``.
    """
    _, found, rest = recorded.rpartition(f"/{below}/")
    if not found or any(recorded.startswith(f"{one}/{below}/") for one in (root.rstrip("/"), as_url(root))):
        return recorded
    moved = f"{as_url(root)}/{below}/{rest}"
    return moved if exists(moved) else recorded


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    if url.startswith("file://"):
        # MLflow quotes the path of a file URL, fsspec takes it literally. Older versions stored files under the quoted
        # name, where they are still found.
        quoted = url.removeprefix("file://")
        path = unquote(quoted)
        is_old = path != quoted and not Path(path).exists() and Path(quoted).exists()
        url = quoted if is_old else path
    filesystem, path = fsspec.url_to_fs(url)
    return filesystem, path


def _is_local(filesystem: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(filesystem, LocalFileSystem)
