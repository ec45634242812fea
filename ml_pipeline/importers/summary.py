"""Summary of an import, and the tenant of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ml_pipeline.errors import UserError
from ml_pipeline.identifiers import BadIdentifier, check_tenant_id

UNKNOWN_TENANT = "__unknown__"  # only for quarantined rows; not a valid tenant id

_SUFFIXES = {".gz", ".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson"}


class ImportFailed(UserError):
    """A file, or the rest of it, cannot be imported; the message names the file, the line and the remedy."""


@dataclass(frozen=True)
class ImportSummary:
    """Counts of one import: ``rows_read = rows_loaded + duplicates + quarantined``.

    ``duplicates`` are rows whose key occurs again later in the file; the later row is stored. ``reasons`` counts the
    quarantined rows by problem, most frequent first.
    """

    file: str
    rows_read: int
    rows_loaded: int
    duplicates: int
    quarantined: int
    reasons: dict[str, int]
    tenants: tuple[str, ...]


def check_tenant(tenant_id: str) -> str:
    """Return the tenant id if it is valid.

    Raises
    ------
    ImportFailed
        If it contains characters other than ASCII letters, digits and ``- _ .``, or is empty, too long or reserved.
    """
    try:
        return check_tenant_id(tenant_id)
    except BadIdentifier as error:
        raise ImportFailed(f"{error} with --tenant") from error


def tenant_of_file(path: Path) -> str:
    """Tenant id of a file: its name without the suffixes of its format.

    >>> tenant_of_file(Path("exports/ALOY.csv.gz"))
    'ALOY'
    """
    name = path
    while name.suffix.lower() in _SUFFIXES:
        name = name.with_suffix("")
    return check_tenant(name.name)
