"""Import of GitHub pull requests, as CSV or JSON Lines of API objects, into ``source.pull_requests``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ml_pipeline.identifiers import usable_tenants
from ml_pipeline.importers.checking import MAX_LEVEL, Problems
from ml_pipeline.importers.flow import Layout, import_file
from ml_pipeline.importers.mapping import Column
from ml_pipeline.importers.reviews import review_counts
from ml_pipeline.importers.summary import (
    UNKNOWN_TENANT,
    ImportFailed,
    ImportSummary,
    check_tenant,
    tenant_of_file,
)
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse

TenantFrom = Literal["owner", "repository"]

_REPOSITORY = Column(
    "repository",
    "level",
    ("repository.full_name", "repository.nameWithOwner", "base.repo.full_name", "full_name", "nameWithOwner", "repo"),
    required=True,
)
_AT_OPENING = "_at_opening"
# `additions` in an export is the final count, which rework has increased. Features need the counts at the opening, so
# only columns with that suffix are read.
COLUMNS = (
    _REPOSITORY,
    Column("number", "number", ("PR number", "pull_number"), required=True),
    Column("title", "text"),
    Column("body", "text", ("description",)),
    Column("author", "level", ("user.login", "author.login", "user")),
    Column("author_kind", "level", ("user.type", "author.__typename", "author_type")),
    Column("team", "level"),
    Column("created_at", "time", ("opened_at",), required=True),
    Column("closed_at", "time"),
    Column("merged_at", "time", ("pull_request.merged_at",)),
    Column(f"changed_files{_AT_OPENING}", "number"),
    Column(f"additions{_AT_OPENING}", "number"),
    Column(f"deletions{_AT_OPENING}", "number"),
    Column("review_cycles", "number"),
    Column("rework_commit_count", "number"),
    Column("changes_requested", "number"),
    Column("commits_after_first_review", "number"),
)


def import_github(
    warehouse: Warehouse,
    path: Path,
    *,
    tenant: str | None = None,
    tenant_from: TenantFrom | None = None,
    timezone: str = "UTC",
    shift_to: pd.Timestamp | datetime | None = None,
    progress: Callable[[int], None] | None = None,
    label: str | None = None,
) -> ImportSummary:
    """Load pull requests from CSV or JSON Lines (plain or gzip); repeating an import changes nothing.

    Parameters
    ----------
    warehouse : Warehouse
        Where the rows are loaded.
    path : Path
        The export.
    tenant : str, optional
        Default: the name of the file without suffixes. Also used as repository for rows without one.
    tenant_from : {"owner", "repository"}, optional
        Makes each repository's owner a tenant, or each repository (``owner/name`` becomes the tenant ``owner.name``).
    timezone, shift_to, progress, label
        As for :func:`ml_pipeline.importers.jira.import_jira`; with ``tenant_from``, ``shift_to`` applies per tenant.

    Returns
    -------
    ImportSummary
        Counts of the import.

    Raises
    ------
    ImportFailed
        As for ``import_jira``, and if both ``tenant`` and ``tenant_from`` are given.
    """
    if tenant is not None and tenant_from is not None:
        raise ImportFailed(f"--tenant {tenant} and --tenant-from {tenant_from} exclude each other. Give one of them")
    fixed = None
    if tenant_from is None:
        fixed = check_tenant(tenant) if tenant is not None else tenant_of_file(path)

    def finish(typed: pd.DataFrame, problems: Problems) -> pd.DataFrame:
        return _pull_requests(typed, tenant, problems).assign(
            tenant_id=fixed or _tenants(typed, tenant_from, warehouse.tenants(), problems)
        )

    layout = Layout(
        table=tables.pull_requests,
        key="pull_request",
        columns=COLUMNS if tenant is None else (replace(_REPOSITORY, required=False), *COLUMNS[1:]),
        finish=finish,
        fallback=fixed or UNKNOWN_TENANT,
        enrich=derive_keys,
    )
    return import_file(warehouse, path, layout, timezone=timezone, shift_to=shift_to, progress=progress, label=label)


def _pull_requests(typed: pd.DataFrame, instead_of_repository: str | None, problems: Problems) -> pd.DataFrame:
    number = typed["number"]
    problems.add(number.notna() & ((number % 1 != 0) | (number >= 2**53)), "number is not a whole number")
    repository = typed["repository"] if "repository" in typed else pd.Series(None, index=typed.index, dtype="str")
    prefix = repository.fillna(instead_of_repository or "")
    key = prefix + "#" + number.where(problems.good, 0).astype("int64").astype("str")
    problems.add(key.str.len() > MAX_LEVEL, f"pull_request is longer than {MAX_LEVEL} characters")
    closings = [name for name in ("closed_at", "merged_at") if name in typed]
    result = typed.drop(columns=["number", *closings]).assign(pull_request=key)
    if closings:
        result["closed_at"] = typed[closings].min(axis=1)
        problems.add(result["closed_at"] < typed["created_at"], "closed_at is before created_at")
    return result.rename(columns=lambda name: name.removesuffix(_AT_OPENING))


def _tenants(
    typed: pd.DataFrame, tenant_from: TenantFrom | None, known: Sequence[str], problems: Problems
) -> pd.Series:
    """The tenant of each row; UNKNOWN_TENANT if the repository does not give a valid tenant id."""
    repository = typed["repository"]
    # "a/b/c", "a/b.c" and "a.b/c" would all give the tenant "a.b.c".
    form = r"[^/]+/.+" if tenant_from == "owner" else r"[^/.]+/[^/]+"
    owner_and_name = repository.str.fullmatch(form).fillna(False).astype(bool)
    problems.add(~owner_and_name, "repository is not owner/name, which gives the tenant", repository)
    owner_or_both = repository.str.partition("/")[0] if tenant_from == "owner" else repository.str.replace("/", ".")
    accepted = usable_tenants(owner_or_both.dropna().unique(), known)
    possible = owner_and_name & owner_or_both.isin(accepted)
    problems.add(~possible, "repository does not give a valid tenant id", repository)
    return owner_or_both.where(possible, UNKNOWN_TENANT)


def derive_keys(record: dict[str, Any]) -> dict[str, Any]:
    """Keys derived from the nested parts of an object, if present: repository, kind of author, review counts.

    >>> derive_keys({"url": "https://github.com/acme/web/pull/7"})
    {'repository': 'acme/web'}
    """
    derived: dict[str, Any] = {}
    page = record.get("html_url") or record.get("url")
    if isinstance(page, str) and "/pull/" in page:
        derived["repository"] = "/".join(page.partition("/pull/")[0].split("/")[-2:])
    author = record.get("author")
    if isinstance(author, dict) and isinstance(author.get("is_bot"), bool):
        derived["author_kind"] = "Bot" if author["is_bot"] else "User"
    return derived | review_counts(record)
