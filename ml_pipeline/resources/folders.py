"""Files that nobody but the installation's own user reads: the mask of new files, and the folders that they lie in.

``home`` holds folders of mode 0700 only. Its own mode is 0700, or 0711 where root runs the pipeline: PostgreSQL refuses
to run as root, so its data and its socket belong to another user, who has to pass through ``home`` and need not list
it. A folder that is there already keeps its mode, and no folder above ``home`` is ever changed.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ml_pipeline.errors import UserError

OWN_FOLDERS = ("artifacts", "cores", "dagster", "logs")


class FolderUnsafe(UserError):
    """A folder belongs to somebody else, or is closed to who needs it; the message names it and the remedy."""


def hide_new_files() -> None:
    """From here on this process and those it starts make files and folders that others can neither read nor enter."""
    os.umask(0o077)


def make_home(home: Path) -> None:
    """Makes ``home`` and what is missing above it, and closes those of its folders that an older version left open.

    Raises
    ------
    FolderUnsafe
        If it cannot be made.
    """
    missing = [folder for folder in (home, *home.parents) if not folder.exists()]
    try:
        for folder in reversed(missing):
            folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
            if os.geteuid() == 0:
                folder.chmod(0o711)  # the mask has closed it
    except OSError as error:
        raise FolderUnsafe(
            f"{home} cannot be made: {error.strerror}. Set ML_PIPELINE_HOME to a folder that can be written"
        ) from error
    for name in OWN_FOLDERS:
        folder = home / name
        if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.geteuid():
            close(folder)


def close(folder: Path) -> None:
    """Takes the rights of group and others on a folder away."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        folder.chmod(mode & 0o700)


def own_folder(folder: Path, uid: int, gid: int) -> Path:
    """A folder of mode 0700 that belongs to the user; made if it is missing.

    Raises
    ------
    FolderUnsafe
        If something else has its name: a link, a file, or a folder of somebody else, who could read what is put there.
    """
    try:
        folder.mkdir(mode=0o700)
        if uid != os.geteuid():
            os.chown(folder, uid, gid, follow_symlinks=False)
    except FileExistsError:
        pass
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
        raise FolderUnsafe(
            f"{folder} is not a folder of user {uid}, but {_kind(found)} of user {found.st_uid}. Move it away, "
            "give it to that user if it is yours (chown -R), or set ML_PIPELINE_HOME to a folder of your own"
        )
    close(folder)
    return folder


def _kind(found: os.stat_result) -> str:
    if stat.S_ISLNK(found.st_mode):
        return "a symbolic link"
    return "a folder" if stat.S_ISDIR(found.st_mode) else "a file"


def closed_above(path: Path, uid: int, groups: set[int]) -> Path | None:
    """The first folder above ``path`` that the user cannot pass through, if there is one."""
    for folder in reversed(path.resolve().parents):
        found = folder.stat()
        needed = stat.S_IXUSR if found.st_uid == uid else stat.S_IXGRP if found.st_gid in groups else stat.S_IXOTH
        if not found.st_mode & needed:
            return folder
    return None
