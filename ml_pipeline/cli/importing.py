"""``ml-pipeline import``: loads exports of other systems into the source tables."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ml_pipeline.cli.common import Rows, failed, json_option, output, prepared, print_json, progress_bar

if TYPE_CHECKING:
    from ml_pipeline.importers import ImportSummary
    from ml_pipeline.settings import Settings


@click.group("import")
def import_group() -> None:
    """Load an export. Invalid rows are stored in ml.quarantine and counted."""


shift_option = click.option(
    "--shift-to-today",
    is_flag=True,
    help="Move each tenant's times by whole weeks, so that the newest is in the week up to yesterday.",
)
timezone_option = click.option(
    "--timezone", default="UTC", show_default=True, help="Time zone of times without offset."
)
files_argument = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))


@import_group.command("jira")
@files_argument
@click.option("--tenant", help="The tenant; default: the name of each file.")
@shift_option
@timezone_option
@json_option
def import_jira_command(
    files: tuple[Path, ...], tenant: str | None, shift_to_today: bool, timezone: str, as_json: bool
) -> None:
    """Load issues from Jira CSV exports, plain or gzip."""
    from ml_pipeline.importers import import_jira

    def load(settings: Settings, file: Path, label: str) -> ImportSummary:
        from ml_pipeline.resources.warehouse import Warehouse

        warehouse, shift = Warehouse(settings), _shift(shift_to_today)
        return import_jira(warehouse, file, tenant, timezone=timezone, shift_to=shift, label=label)

    _import(files, load, as_json, tenant_of_name=tenant is None)


@import_group.command("github")
@files_argument
@click.option("--tenant", help="The tenant of all rows.")
@click.option("--tenant-from", type=click.Choice(["owner", "repository"]), help="Take the tenant from each row.")
@shift_option
@timezone_option
@json_option
def import_github_command(
    files: tuple[Path, ...], tenant: str | None, tenant_from: Any, shift_to_today: bool, timezone: str, as_json: bool
) -> None:
    """Load pull requests from CSV or JSON Lines, plain or gzip."""
    from ml_pipeline.importers import import_github

    def load(settings: Settings, file: Path, label: str) -> ImportSummary:
        from ml_pipeline.resources.warehouse import Warehouse

        chosen = {"tenant": tenant, "tenant_from": tenant_from, "shift_to": _shift(shift_to_today)}
        return import_github(Warehouse(settings), file, timezone=timezone, label=label, **chosen)

    _import(files, load, as_json, tenant_of_name=tenant is None and tenant_from is None)


def _shift(wanted: bool) -> dt.datetime | None:
    return dt.datetime.now(dt.UTC) - dt.timedelta(days=1) if wanted else None


def _import(
    files: Sequence[Path], load: Callable[[Settings, Path, str], Any], as_json: bool, *, tenant_of_name: bool
) -> None:
    from ml_pipeline.importers import ImportFailed
    from ml_pipeline.importers.files import file_labels, refuse_files_of_one_tenant

    if tenant_of_name:
        refuse_files_of_one_tenant(files)
    summaries, failures = [], []
    with prepared() as settings, progress_bar("Importing", len(files)) as advance:
        for file, label in zip(files, file_labels(files), strict=True):
            try:
                summaries.append(load(settings, file, label))
            except ImportFailed as error:
                failures.append(str(error))
            advance(file)
    if as_json:
        print_json([asdict(summary) for summary in summaries])
    elif summaries:
        output.print(_import_table(summaries))
    for failure in failures:
        failed(failure, as_json)
    if failures:
        sys.exit(1)


def _import_table(summaries: Sequence[Any]) -> Rows:
    table = Rows()
    for name in ("file", "tenants"):
        table.add_column(name, overflow="fold")
    for name in ("rows", "loaded", "quarantined"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why")
    for summary in summaries:
        tenants = summary.tenants[0] if len(summary.tenants) == 1 else str(len(summary.tenants))
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.reasons.items())
        counts = (summary.rows_read, summary.rows_loaded, summary.quarantined)
        table.add_row(str(summary.file), tenants, *(f"{count:,}" for count in counts), reasons)
    return table
