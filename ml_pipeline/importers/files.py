"""Several files in one import: what each is called, and whether two would be taken for one tenant."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ml_pipeline.importers.summary import ImportFailed, tenant_of_file


def printable(name: str) -> str:
    """The name with bytes that are not UTF-8 written as escapes, so that PostgreSQL can store it."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def file_labels(paths: Sequence[Path]) -> list[str]:
    """A name for each file that no other has: its own, with as many folders before it as that takes.

    >>> file_labels([Path("a/Jira.csv"), Path("b/Jira.csv"), Path("b/more.csv")])
    ['a/Jira.csv', 'b/Jira.csv', 'more.csv']
    """
    files = [_real(path).parts for path in paths]
    folders = [0] * len(files)
    while True:
        labels = ["/".join(parts[-1 - before :]) for parts, before in zip(files, folders, strict=True)]
        of_label: dict[str, set[tuple[str, ...]]] = {}
        for label, parts in zip(labels, files, strict=True):
            of_label.setdefault(label, set()).add(parts)
        if all(len(same) == 1 for same in of_label.values()):
            return labels
        folders = [before + (len(of_label[label]) > 1) for label, before in zip(labels, folders, strict=True)]


def refuse_files_of_one_tenant(paths: Sequence[Path]) -> None:
    """Refuses files that would become one tenant because of their names, before anything of them is loaded.

    Raises
    ------
    ImportFailed
        If two do, also if they differ in case alone; the message names both.
    """
    first: dict[str, Path] = {}
    for path in paths:
        try:
            tenant = tenant_of_file(path)
        except ImportFailed:
            continue  # is told when it is this file's turn
        other = first.setdefault(tenant.casefold(), path)
        if _real(other) != _real(path):
            raise ImportFailed(
                f"{other} and {path} would both become the tenant {tenant!r}, the second over the first. Nothing was "
                "loaded. Import each with a --tenant of its own, or both with one --tenant if they are "
                "parts of the same"
            )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike Path.resolve, does not fail at links that run in a circle
