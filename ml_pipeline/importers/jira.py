"""Import of Jira's CSV export into ``source.issues``."""

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
    """Load a CSV export (plain or gzip) as issues of one tenant; repeating an import changes nothing.

    Parameters
    ----------
    warehouse : Warehouse
        Where the rows are loaded.
    path : Path
        The export.
    tenant : str, optional
        Default: the name of the file without suffixes.
    timezone : str
        Time zone of times without an offset.
    shift_to : time with zone, optional
        Moves all times of the tenant by a whole number of weeks, so that the newest is in the seven days up to
        ``shift_to``. The file is then read twice.
    progress : callable, optional
        Called after each chunk with the number of rows so far.
    label : str, optional
        Name of the file in the summary, in ``ml.quarantine`` and in errors; default: its own name. See
        :func:`ml_pipeline.importers.files.file_labels` for several files with the same name.

    Returns
    -------
    ImportSummary
        Counts of the import, with the rows in ``ml.quarantine`` by reason.

    Raises
    ------
    ImportFailed
        If the file is missing, its header lacks a required column, it cannot be read to its end (the rows before are
        then loaded), all rows are invalid, or the tenant id or the time zone is invalid.
    """
    tenant_id = check_tenant(tenant) if tenant is not None else tenant_of_file(path)

    def finish(issues: pd.DataFrame, problems: Problems) -> pd.DataFrame:
        if "resolved_at" in issues:
            problems.add(issues["resolved_at"] < issues["created_at"], "resolved_at is before created_at")
        return issues.assign(tenant_id=tenant_id)

    layout = Layout(tables.issues, "issue_key", COLUMNS, finish, fallback=tenant_id)
    return import_file(warehouse, path, layout, timezone=timezone, shift_to=shift_to, progress=progress, label=label)
