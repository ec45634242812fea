"""The commands of every day: import, run, status, promote, rollback, doctor, demo, up; and the others, gathered."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ml_pipeline.cli.alerts import acknowledge_command, alerts_command, prune_command
from ml_pipeline.cli.common import (
    Group,
    Rows,
    check_model_and_tenant,
    chosen_models,
    chosen_tenants,
    console,
    json_option,
    model_option,
    output,
    prepared,
    progress_bar,
    recover_and_tell,
    tenant_option,
    usable_specs,
)
from ml_pipeline.cli.feedback import feedback_command
from ml_pipeline.cli.loop import explain_command, retrain_command, set_command
from ml_pipeline.cli.prediction import explain_prediction_command
from ml_pipeline.cli.replay import replay_command
from ml_pipeline.settings import Settings
from ml_pipeline.specs import Specs, load_specs


@click.group(cls=Group)
@click.version_option(package_name="ml-pipeline")
def main() -> None:
    """A machine-learning model per tenant: trained, watched, promoted and rolled back."""


@main.group("import")
def import_() -> None:
    """Load an export. Bad rows are set aside in ml.quarantine and counted."""


shift_option = click.option(
    "--shift-to-today",
    is_flag=True,
    help="Move each tenant's times so that its newest is yesterday or a little before.",
)
timezone_option = click.option("--timezone", default="UTC", show_default=True, help="Zone of times that name none.")
files_argument = click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))


@import_.command("jira")
@files_argument
@click.option("--tenant", help="The tenant; otherwise the name of each file.")
@shift_option
@timezone_option
@json_option
def import_jira_command(
    files: tuple[Path, ...], tenant: str | None, shift_to_today: bool, timezone: str, as_json: bool
):
    """Issues from Jira CSV exports, plain or gzip."""
    from ml_pipeline.importers import import_jira

    def load(settings: Settings, file: Path, label: str):
        from ml_pipeline.resources.warehouse import Warehouse

        warehouse, shift = Warehouse(settings), _shift(shift_to_today)
        return import_jira(warehouse, file, tenant, timezone=timezone, shift_to=shift, label=label)

    _import(files, load, as_json, tenant_of_name=tenant is None)


@import_.command("github")
@files_argument
@click.option("--tenant", help="The tenant of all rows.")
@click.option("--tenant-from", type=click.Choice(["owner", "repository"]), help="Take the tenant from each row.")
@shift_option
@timezone_option
@json_option
def import_github_command(
    files: tuple[Path, ...], tenant: str | None, tenant_from: Any, shift_to_today: bool, timezone: str, as_json: bool
):
    """Pull requests from CSV or JSON Lines, plain or gzip."""
    from ml_pipeline.importers import import_github

    def load(settings: Settings, file: Path, label: str):
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
        output.print_json(json.dumps([asdict(summary) for summary in summaries]))
    elif summaries:
        output.print(_import_table(summaries))
    for failure in failures:
        console.say(("Error:", "red"), f" {failure}")
    if failures:
        sys.exit(1)


def _import_table(summaries: Sequence[Any]) -> Rows:
    table = Rows("file", "tenants", "rows", "loaded", "quarantined", "why")
    for summary in summaries:
        tenants = summary.tenants[0] if len(summary.tenants) == 1 else str(len(summary.tenants))
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.reasons.items())
        counts = (summary.rows_read, summary.rows_loaded, summary.quarantined)
        table.add_row(str(summary.file), tenants, *(f"{count:,}" for count in counts), reasons)
    return table


@main.command()
@tenant_option
@model_option
@click.option(
    "--as-of", default="", help="Stand at 'latest' (each tenant's newest row), a date or a time instead of now."
)
@click.option(
    "--days",
    type=click.IntRange(0, 3650),
    default=1,
    show_default=True,
    help="Days of metrics and drift up to yesterday; none with --as-of.",
)
@click.option("--reports-only", is_flag=True, help="Only metrics and reports of the days; nothing is trained.")
@json_option
def run(
    tenants: tuple[str, ...], models: tuple[str, ...], as_of: str, days: int, reports_only: bool, as_json: bool
) -> None:
    """Features, models, predictions, metrics and drift of every tenant, through Dagster."""
    from ml_pipeline.work.context import parse_as_of

    if as_of:
        parse_as_of(as_of)
        if reports_only:
            raise click.UsageError("--reports-only looks at days up to yesterday: leave --as-of out.")
    with prepared() as settings:
        failures = run_pipeline(settings, tenants, models, as_of, days, trains=not reports_only)
        show_status(settings, load_specs(settings.specs), tenants, models, as_json)
    for failure in failures[:20]:
        console.say(("Failed:", "red"), f" {failure}")
    if failures:
        console.print(
            "The others are not touched by these. Correct the cause and run again: what is done is not done twice."
        )
        sys.exit(1)


def run_pipeline(
    settings: Settings,
    only_tenants: Sequence[str],
    only_models: Sequence[str],
    as_of: str,
    days: int,
    *,
    trains: bool = True,
) -> list[str]:
    """The whole main job; returns the errors of the tenants that failed."""
    from ml_pipeline import launch, partitions
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.context import Clients

    models = chosen_models(usable_specs(settings), only_models)
    Clients(settings).deployer.reconcile(older_than=dt.timedelta(minutes=5))
    everyone = Warehouse(settings).tenants()
    tenants = chosen_tenants(everyone, only_tenants)
    if not tenants:
        raise click.ClickException(
            "There are no tenants. Import some: ml-pipeline import jira FILE, or try `ml-pipeline demo`."
        )
    total, failures = len(tenants) * len(models), []
    with launch.dagster_instance(settings) as instance:
        recover_and_tell(instance, Warehouse(settings))
        known = launch.add_partitions(instance, everyone)
        if trains:
            with progress_bar("Training and predicting", total) as advance:
                failures += launch.train(instance, known, tenants, models, as_of, advance).failures
        yesterday = partitions.today() - dt.timedelta(days=1)
        since = max(partitions.days.start.date(), yesterday - dt.timedelta(days=days - 1))
        if as_of:
            console.print("Metrics and drift are kept for the days up to yesterday; with --as-of they are left out.")
        elif days > 0:
            with progress_bar(f"Metrics and drift, {(yesterday - since).days + 1} days", total) as advance:
                failures += launch.monitor(instance, known, tenants, models, since, yesterday, advance).failures
    return failures


@main.command()
@tenant_option
@model_option
@json_option
def status(tenants: tuple[str, ...], models: tuple[str, ...], as_json: bool) -> None:
    """Every tenant x model: version, metric against the baseline, health, drift, and why."""
    with prepared() as settings:
        show_status(settings, usable_specs(settings), tenants, models, as_json)


def show_status(
    settings: Settings, specs: Specs, only_tenants: Sequence[str], only_models: Sequence[str], as_json: bool
) -> None:
    from ml_pipeline.resources.registry import Registry
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.fleet import fleet_status

    warehouse = Warehouse(settings)
    chosen = {name: specs[name] for name in chosen_models(specs, only_models)}
    rows = fleet_status(warehouse, Registry(settings), chosen, chosen_tenants(warehouse.tenants(), only_tenants))
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    table = Rows()
    for name in ("tenant", "model", "version", "rows", "metric", "baseline", "skill", "health", "drift"):
        table.add_column(
            name, no_wrap=True, justify="right" if name in ("rows", "baseline", "skill", "health") else "left"
        )
    has_business = any(row.business for row in rows)
    if has_business:
        table.add_column("business (constant)")
    table.add_column("why")
    for row in rows:
        version = "" if row.version is None else f"{row.version} {row.alias}"
        metric = "" if row.value is None else f"{row.metric} {row.value:.3g}"
        baseline = "" if row.baseline_value is None else f"{row.baseline_value:.3g}"
        skill = "" if row.skill is None else f"{row.skill:+.0%}"
        health = "" if row.health is None else f"{row.health:.0f}"
        cells = [row.tenant, row.model, version, str(row.rows or 0), metric, baseline, skill, health, row.drift or ""]
        if has_business:
            cells.append(
                "; ".join(
                    f"{name} {_against(found)}" for name, found in row.business.items() if found["value"] is not None
                )
            )
        table.add_row(*cells, row.reason.partition(" (")[0])
    output.print(table)


def _against(found: Mapping[str, float | None]) -> str:
    value, baseline = (
        "-" if number is None else f"{number:.3g}" for number in (found["value"], found["baseline_value"])
    )
    return f"{value} ({baseline})"


@main.command()
@click.option("--tenant", required=True)
@click.option("--model", required=True)
@click.option("--version", required=True, type=int)
@click.option("--reason", default="promoted by hand", show_default=True)
def promote(tenant: str, model: str, version: int, reason: str) -> None:
    """Make a version the champion by hand."""
    from ml_pipeline.work.context import Clients
    from ml_pipeline.work.deployment.deployer import PROMOTE_BY_HAND

    with prepared() as settings:
        check_model_and_tenant(settings, tenant, model)
        now = dt.datetime.now(dt.UTC)
        done = Clients(settings).deployer.deploy(
            tenant, model, version, action=PROMOTE_BY_HAND, reason=reason, as_of=now
        )
        output.say(_moved(done))


@main.command()
@click.option("--tenant", required=True)
@click.option("--model", required=True)
@click.option("--to", type=int, help="The version to return to; otherwise the one that served before.")
@click.option("--reason", default="rolled back by hand", show_default=True)
def rollback(tenant: str, model: str, to: int | None, reason: str) -> None:
    """Return to an earlier version."""
    from ml_pipeline.work.context import Clients

    with prepared() as settings:
        check_model_and_tenant(settings, tenant, model)
        now = dt.datetime.now(dt.UTC)
        done = Clients(settings).deployer.roll_back(tenant, model, to=to, reason=reason, as_of=now)
        output.say(_moved(done))


def _moved(deployment: Any) -> str:
    if deployment.replaced == deployment.version:
        return f"{deployment.tenant} {deployment.model}: version {deployment.version} serves already."
    before = "no version" if deployment.replaced is None else f"version {deployment.replaced}"
    return f"{deployment.tenant} {deployment.model}: version {deployment.version} serves now, before it {before}."


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check settings, database, MLflow, the artifact store, and each model against its table."""
    from ml_pipeline.doctor import examine

    with prepared() as settings:
        findings = examine(settings)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            mark = ("ok  ", "green") if finding.ok else ("bad ", "red")
            mark = ("warn", "yellow") if finding.warning else mark
            output.say(mark, f" {finding.what}: {finding.detail}")
    if not all(finding.ok for finding in findings):
        sys.exit(1)


@main.command()
def relocate() -> None:
    """After a move or a restore elsewhere: let MLflow's pages find the files too."""
    from ml_pipeline.resources import relocation

    with prepared() as settings:
        count = relocation.relocate(settings)
    output.print(f"MLflow finds the files of {count} models under {settings.artifacts} now.")


@main.command()
def demo() -> None:
    """Four simulated tenants: trained, watched for twelve weeks, retrained, one of them rolled back."""
    from ml_pipeline.demo.run import run_demo

    run_demo()


@main.command()
def up() -> None:
    """Dagster UI, daemon and MLflow UI until Ctrl-C."""
    from ml_pipeline.up import serve
    from ml_pipeline.web import exposure_warning

    with prepared() as settings:
        if warning := exposure_warning(settings):
            console.print(warning, style="bold yellow")
        serve(settings, console)


for command in (
    set_command,
    explain_command,
    explain_prediction_command,
    retrain_command,
    feedback_command,
    replay_command,
    alerts_command,
    acknowledge_command,
    prune_command,
):
    main.add_command(command)
