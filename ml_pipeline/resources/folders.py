"""Permissions: only the user who runs the installation can read its files.

All folders in ``home`` have mode 0700. ``home`` itself has mode 0700, or 0711 if root runs the pipeline: PostgreSQL
cannot run as root, so its data and socket belong to another user, who must be able to enter ``home`` but not to list
it. An existing ``home`` keeps its mode, and folders above it are never changed.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ml_pipeline.errors import UserError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
OWN_FOLDERS = ("artifacts", "cores", "dagster", "logs")


class FolderUnsafe(UserError):
    """A folder belongs to another user, or a user has no access to it; the message names folder and remedy."""


def hide_new_files() -> None:
    """Set the umask: other users cannot read what this process and its children create from now on."""
    os.umask(0o077)


def make_home(home: Path) -> None:
    """Create ``home`` and its missing parents; folders in it that others can read get mode 0700.

    Raises
    ------
    FolderUnsafe
        If it cannot be created.
    """
    missing = [folder for folder in (home, *home.parents) if not folder.exists()]
    try:
        for folder in reversed(missing):
            folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
            if os.geteuid() == 0:
                folder.chmod(0o711)  # the umask removed these rights
    except OSError as error:
        raise FolderUnsafe(
            f"{home} cannot be created: {error.strerror}. Set ML_PIPELINE_HOME to a folder that can be written"
        ) from error
    for name in OWN_FOLDERS:
        folder = home / name
        if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.geteuid():
            close(folder)


def close(folder: Path) -> None:
    """Remove the rights of group and others on a folder."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        folder.chmod(mode & 0o700)


def own_folder(folder: Path, uid: int, gid: int) -> Path:
    """A folder of mode 0700 that belongs to the user; it is created if it is missing.

    Raises
    ------
    FolderUnsafe
        If the path is a link, a file, or a folder of another user, who could read what is written there.
    """
    try:
        folder.mkdir(mode=0o700)
        if uid != os.geteuid():
            os.chown(folder, uid, gid, follow_symlinks=False)
    except FileExistsError:
        pass
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "a file")
        raise FolderUnsafe(
            f"{folder} is {kind}, owned by user {found.st_uid}; a folder of user {uid} is needed. Move it away, "
            "give it to that user if it is yours (chown -R), or set ML_PIPELINE_HOME to a folder of your own"
        )
    close(folder)
    return folder


def closed_above(path: Path, uid: int, groups: set[int]) -> Path | None:
    """The first folder above ``path`` that the user cannot enter, None if the user can enter all."""
    for folder in reversed(path.resolve().parents):
        found = folder.stat()
        needed = stat.S_IXUSR if found.st_uid == uid else stat.S_IXGRP if found.st_gid in groups else stat.S_IXOTH
        if not found.st_mode & needed:
            return folder
    return None
