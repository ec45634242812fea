"""The command line: the group of all commands, and those that run, serve and deploy."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ml_pipeline.cli.alerts import acknowledge_command, alerts_command, prune_command
from ml_pipeline.cli.common import (
    EXIT_CODES,
    Group,
    check_model_and_tenant,
    chosen_models,
    chosen_tenants,
    console,
    failed,
    json_option,
    model_option,
    models_option,
    output,
    prepared,
    print_json,
    progress_bar,
    recover_and_tell,
    tenant_option,
    tenants_option,
    usable_specs,
)
from ml_pipeline.cli.completion import completion_command
from ml_pipeline.cli.feedback import feedback_command
from ml_pipeline.cli.importing import import_group
from ml_pipeline.cli.loop import explain_command, retrain_command, set_command, unset_command
from ml_pipeline.cli.prediction import explain_prediction_command
from ml_pipeline.cli.replay import replay_command
from ml_pipeline.cli.status import Selection, show_status, status_command

if TYPE_CHECKING:
    from ml_pipeline.settings import Settings


@click.group(cls=Group, epilog=EXIT_CODES)
@click.version_option(package_name="ml-pipeline")
def main() -> None:
    """Train, monitor, promote and roll back one machine-learning model per tenant and prediction task."""


SHOWN_FAILURES = 20


@main.command()
@tenants_option
@models_option
@click.option(
    "--as-of", default="", help="As-of time instead of now: 'latest' (each tenant's newest row), a date or a time."
)
@click.option(
    "--days",
    type=click.IntRange(0, 3650),
    default=1,
    show_default=True,
    help="Days of metrics and drift up to yesterday; not used with --as-of.",
)
@click.option("--reports-only", is_flag=True, help="Only metrics and drift reports; no training.")
@json_option
def run(
    tenants: tuple[str, ...], models: tuple[str, ...], as_of: str, days: int, reports_only: bool, as_json: bool
) -> None:
    """Train, predict, and compute metrics and drift for every tenant, through Dagster.

    Prints the status of these models at the end.
    """
    from ml_pipeline.specs import load_specs
    from ml_pipeline.work.context import parse_as_of

    if as_of:
        parse_as_of(as_of)
        if reports_only:
            raise click.UsageError("--reports-only covers days up to yesterday: leave --as-of out.")
    with prepared() as settings:
        failures = run_pipeline(settings, tenants, models, as_of, days, trains=not reports_only)
        show_status(settings, load_specs(settings.specs), tenants, models, as_json, Selection(sort="state"))
    for failure in failures[: None if as_json else SHOWN_FAILURES]:
        failed(failure, as_json)
    if failures:
        if not as_json:
            more = len(failures) - SHOWN_FAILURES
            console.print(
                (f"And {more} more. " if more > 0 else "")
                + "The others are done. Correct the cause and run again: finished work is not repeated."
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
    """Runs the whole pipeline; returns the errors of the tenants that failed."""
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
            console.print("With --as-of, metrics and drift are left out: they are computed for days up to yesterday.")
        elif days > 0:
            with progress_bar(f"Metrics and drift, {(yesterday - since).days + 1} days", total) as advance:
                failures += launch.monitor(instance, known, tenants, models, since, yesterday, advance).failures
    return failures


@main.command()
@tenant_option
@model_option
@click.option("--version", required=True, type=int, help="Number of the version in MLflow.")
@click.option("--reason", default="promoted by hand", show_default=True, help="Reason, stored with the decision.")
@json_option
def promote(tenant: str, model: str, version: int, reason: str, as_json: bool) -> None:
    """Make a version the champion."""
    from ml_pipeline.work.context import Clients
    from ml_pipeline.work.deployment.deployer import PROMOTE_BY_HAND

    with prepared() as settings:
        check_model_and_tenant(settings, tenant, model)
        now = dt.datetime.now(dt.UTC)
        done = Clients(settings).deployer.deploy(
            tenant, model, version, action=PROMOTE_BY_HAND, reason=reason, as_of=now
        )
        _show_deployment(done, as_json)


@main.command()
@tenant_option
@model_option
@click.option("--to", type=int, help="The version to return to; default: the one that served before.")
@click.option("--reason", default="rolled back by hand", show_default=True, help="Reason, stored with the decision.")
@json_option
def rollback(tenant: str, model: str, to: int | None, reason: str, as_json: bool) -> None:
    """Return to an earlier version."""
    from ml_pipeline.work.context import Clients

    with prepared() as settings:
        check_model_and_tenant(settings, tenant, model)
        now = dt.datetime.now(dt.UTC)
        done = Clients(settings).deployer.roll_back(tenant, model, to=to, reason=reason, as_of=now)
        _show_deployment(done, as_json)


def _show_deployment(done: Any, as_json: bool) -> None:
    if as_json:
        print_json({name: getattr(done, name) for name in ("tenant", "model", "version", "replaced")})
        return
    whose = f"{done.tenant} {done.model}"
    if done.replaced == done.version:
        output.say(f"{whose}: version {done.version} is the champion already.")
        return
    before = "no version" if done.replaced is None else f"version {done.replaced}"
    output.say(f"{whose}: version {done.version} serves now; before it, {before} served.")


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check settings, database, MLflow, the artifact store, and each model against its table."""
    from ml_pipeline.doctor import examine

    with prepared() as settings:
        findings = examine(settings)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = ("ok  ", "green") if finding.ok else ("bad ", "red")
            mark = ("warn", "yellow") if finding.warning else mark
            output.say(mark, f" {finding.what}: {finding.detail}")
    if not all(finding.ok for finding in findings):
        sys.exit(1)


@main.command()
@json_option
def relocate(as_json: bool) -> None:
    """Correct the places of files in MLflow's tables, after a move or a restore elsewhere."""
    from ml_pipeline.resources import relocation

    with prepared() as settings:
        count = relocation.relocate(settings)
    if as_json:
        print_json({"models": count, "artifacts": settings.artifacts})
    else:
        output.say(f"MLflow finds the files of {count} models under {settings.artifacts} now.")


@main.command()
def demo() -> None:
    """Simulate seven weeks of four tenants: train, monitor, retrain, and roll one of the models back."""
    from ml_pipeline.cli.demo import run_demo

    run_demo()


@main.command()
def up() -> None:
    """Serve the Dagster UI, its daemon and the MLflow UI until Ctrl-C."""
    from ml_pipeline.up import serve
    from ml_pipeline.web import exposure_warning

    with prepared() as settings:
        if warning := exposure_warning(settings):
            console.print(warning, style="bold yellow")
        serve(settings, console)


for command in (
    import_group,
    status_command,
    set_command,
    unset_command,
    explain_command,
    explain_prediction_command,
    retrain_command,
    feedback_command,
    replay_command,
    alerts_command,
    acknowledge_command,
    prune_command,
    completion_command,
):
    main.add_command(command)
