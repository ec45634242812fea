"""Jira's CSV export into ``source.issues``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pandas as pd

from ml_pipeline.importers.checking import Problems
from ml_pipeline.importers.flow import Layout, import_file
from ml_pipeline.importers.mapping import Column
from ml_pipeline.importers.summary import ImportSummary, check_tenant, tenant_of_file
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse

COLUMNS = (
    Column("issue_key", "level", ("Issue key", "Key"), required=True),
    Column("issue_type", "level", ("Issue Type", "Type")),
    Column("team", "level", ("Team", "Custom field (Team)", "Team Name")),
    Column("reporter", "level", ("Reporter",)),
    Column("priority", "level", ("Priority",)),
    Column("created_at", "time", ("Created", "Created Date"), required=True),
    Column("started_at", "time", ("Actual start", "Custom field (Actual start)")),
    Column("estimated_at", "time", ("Estimated",)),
    Column("resolved_at", "time", ("Resolved", "Resolution Date")),
    Column(
        "story_points",
        "number",
        ("Story Points", "Custom field (Story Points)", "Story point estimate", "Custom field (Story point estimate)"),
    ),
    Column("summary", "text", ("Summary", "Title")),
    Column("description", "text", ("Description",)),
)


def import_jira(
    warehouse: Warehouse,
    path: Path,
    tenant: str | None = None,
    *,
    timezone: str = "UTC",
    shift_to: pd.Timestamp | datetime | None = None,
    progress: Callable[[int], None] | None = None,
    label: str | None = None,
) -> ImportSummary:
    """Loads a CSV export (plain or gzip) as issues of one tenant; the same file twice gives the same rows.

    Parameters
    ----------
    warehouse : Warehouse
    path : Path
    tenant : str, optional
        The file's name without suffixes unless given.
    timezone : str
        Of the times that carry no offset.
    shift_to : time with zone, optional
        Moves all times of the tenant by the same whole number of weeks, such that the newest is in the seven days up to
        ``shift_to``. The file is read twice then.
    progress : callable, optional
        Is told the number of rows done so far, after each chunk.
    label : str, optional
        The file's name in the summary, in ``ml.quarantine`` and in errors; its own name unless given. See
        ``files.file_labels``, for files of one name.

    Returns
    -------
    ImportSummary
        With the rows that were set aside in ``ml.quarantine``, counted by reason.

    Raises
    ------
    ImportFailed
        If the file is missing, its header lacks a required column, it cannot be read to its end (the rows before are
        loaded then), no row is usable, or the tenant's id or the time zone is no good.
    """
    tenant_id = check_tenant(tenant) if tenant is not None else tenant_of_file(path)

    def finish(issues: pd.DataFrame, problems: Problems) -> pd.DataFrame:
        if "resolved_at" in issues:
            problems.add(issues["resolved_at"] < issues["created_at"], "resolved_at is before created_at")
        return issues.assign(tenant_id=tenant_id)

    layout = Layout(tables.issues, "issue_key", COLUMNS, finish, fallback=tenant_id)
    return import_file(warehouse, path, layout, timezone=timezone, shift_to=shift_to, progress=progress, label=label)
