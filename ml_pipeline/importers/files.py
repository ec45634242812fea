"""Imports of several files: their labels, and a check that two files do not become the same tenant."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ml_pipeline.importers.summary import ImportFailed, tenant_of_file


def printable(name: str) -> str:
    """The name with bytes that are not UTF-8 written as escapes, so that PostgreSQL can store it."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def file_labels(paths: Sequence[Path]) -> list[str]:
    """A unique label for each file: its name, preceded by as many folders as needed.

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
    """Reject files whose names give the same tenant, before any rows are loaded.

    Raises
    ------
    ImportFailed
        If two names give the same tenant, also if they differ in case only; the message names both files.
    """
    first: dict[str, Path] = {}
    for path in paths:
        try:
            tenant = tenant_of_file(path)
        except ImportFailed:
            continue  # reported when this file is imported
        other = first.setdefault(tenant.casefold(), path)
        if _real(other) != _real(path):
            raise ImportFailed(
                f"{other} and {path} would both become the tenant {tenant!r}, and the second would overwrite the "
                "first. No rows were loaded. Import each file with its own --tenant, or both with the same --tenant if "
                "they are parts of one export"
            )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike Path.resolve, does not fail at circular links
