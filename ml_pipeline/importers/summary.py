"""What an import reports, and which tenant a file belongs to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

UNKNOWN_TENANT = "__unknown__"

_FORBIDDEN = re.compile(r"[|\[\],/:\s\x00-\x1f\x7f-\x9f]")
_SUFFIXES = {".gz", ".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson"}
_MAX_TENANT_LENGTH = 200


class ImportFailed(Exception):
    """A file, or the rest of it, cannot be imported; the message names the file, the line and the remedy."""


@dataclass(frozen=True)
class ImportSummary:
    """Counts of one import: ``rows_read = rows_loaded + duplicates + quarantined``.

    ``duplicates`` are rows whose key comes again later in the file, where the later row won. ``reasons`` counts the
    quarantined rows by what is wrong with them, the most frequent first.
    """

    file: str
    rows_read: int
    rows_loaded: int
    duplicates: int
    quarantined: int
    reasons: dict[str, int]
    tenants: tuple[str, ...]


def tenant_problem(tenant_id: str) -> str | None:
    """Why the text cannot be a tenant's id (a partition key, a part of model names and of paths), or None.

    >>> tenant_problem("acme"), tenant_problem("acme/web")
    (None, "holds '/'")
    """
    if not tenant_id:
        return "is empty"
    if len(tenant_id) > _MAX_TENANT_LENGTH:
        return f"is longer than {_MAX_TENANT_LENGTH} characters"
    forbidden = _FORBIDDEN.search(tenant_id)
    if forbidden:
        return f"holds {forbidden.group()!r}"
    if tenant_id.startswith(("__", ".")):
        return "starts with '__' or '.', which the pipeline keeps for itself"
    return None


def check_tenant(tenant_id: str) -> str:
    """The id, if it can be one.

    Raises
    ------
    ImportFailed
        If it holds one of ``| [ ] , / :``, a blank or a control character, is empty, too long or reserved.
    """
    problem = tenant_problem(tenant_id)
    if problem:
        raise ImportFailed(
            f"tenant id {tenant_id!r} {problem}. Give one of letters, digits, '-', '_' and '.' with --tenant"
        )
    return tenant_id


def tenant_of_file(path: Path) -> str:
    """The file's name without the suffixes of its format.

    >>> tenant_of_file(Path("exports/ALOY.csv.gz"))
    'ALOY'
    """
    name = path
    while name.suffix.lower() in _SUFFIXES:
        name = name.with_suffix("")
    return check_tenant(name.name)
