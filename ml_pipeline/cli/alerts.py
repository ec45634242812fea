"""``ml-pipeline alerts``, ``acknowledge`` and ``prune``."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from typing import Any

import click

from ml_pipeline.cli.common import (
    Rows,
    by_option,
    console,
    failed,
    json_option,
    models_option,
    output,
    prepared,
    print_json,
    progress_bar,
    tenant_option,
    tenants_option,
)
from ml_pipeline.cli.completion import complete_models
from ml_pipeline.display import printable

SHOWN_LENGTH = 8  # characters of an id, which usually identify an alert


@click.command("alerts")
@tenants_option
@models_option
@click.option("--open", "only_open", is_flag=True, help="Only alerts that nobody has acknowledged.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="Maximum number of alerts.")
@json_option
def alerts_command(tenants: Sequence[str], models: Sequence[str], only_open: bool, limit: int, as_json: bool) -> None:
    """List alerts, newest first, with their deliveries and acknowledgements."""
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.alerts.acknowledging import list_alerts

    with prepared() as settings:
        warehouse = Warehouse(settings)
        _check(warehouse, settings, tenants, models)
        found = list_alerts(warehouse, tenants=tenants, models=models, only_open=only_open, limit=limit)
    if as_json:
        print_json(found)
        return
    if not found:
        output.print("No open alerts." if only_open else "No alerts.")
        return
    for alert in found:
        _print(alert)
    if len(found) == limit:
        output.say(f"Only the newest {limit} are shown. Show more with --limit")
    if any(alert["acknowledged_at"] is None for alert in found):
        console.say("Acknowledge one: ml-pipeline acknowledge --tenant TENANT ID --note '...'")


COLOURS = {"CRITICAL": "bold red", "HIGH": "red", "MEDIUM": "yellow"}


def _print(alert: dict[str, Any]) -> None:
    """Prints the alert in one line, and below it, indented, its message and its deliveries."""
    from rich.padding import Padding

    level = alert["level"] if alert["escalated_at"] is None else f"{alert['level']} (escalated)"
    seen = "" if alert["occurrences"] == 1 else f", {alert['occurrences']} times"
    head = f"{str(alert['alert_id'])[:SHOWN_LENGTH]}  {alert['as_of']:%Y-%m-%d %H:%M}  "
    what = f"  {alert['tenant_id']} {alert['model']}: {alert['kind']}{seen}"
    output.say(head, (level, COLOURS.get(alert["level"], "")), what)
    sent = _deliveries(alert["deliveries"])
    if alert["acknowledged_at"] is not None:
        note = f": {alert['acknowledged_note']}" if alert["acknowledged_note"] else ""
        sent += f"; acknowledged by {alert['acknowledged_by']}, {alert['acknowledged_at']:%Y-%m-%d %H:%M}{note}"
    for line in (alert["message"], sent):
        output.print(Padding(printable(line), (0, 0, 0, SHOWN_LENGTH + 2), expand=False))


def _deliveries(deliveries: Sequence[dict[str, Any]]) -> str:
    """The newest delivery of each channel, with its state and its error."""
    newest = {delivery["channel"]: delivery for delivery in deliveries}
    parts = []
    for channel, delivery in sorted(newest.items()):
        error = delivery["last_error"] if delivery["state"] != "sent" else None
        parts.append(f"{channel} {delivery['state']}" + (f": {error}" if error else ""))
    return "sent: " + (", ".join(parts) or "to nobody, because it was about a time too long ago")


@click.command("acknowledge")
@click.argument("alert", required=False, metavar="[ALERT_ID]")
@tenant_option
@click.option("--model", help="With --all: every open alert of this model.", shell_complete=complete_models)
@click.option("--all", "everything", is_flag=True, help="Every open alert of the tenant, or of the --model.")
@click.option("--note", help="What was found, for the next reader.")
@by_option
@json_option
def acknowledge_command(
    alert: str | None, tenant: str, model: str | None, everything: bool, note: str | None, by: str, as_json: bool
) -> None:
    """Acknowledge an alert, so that it does not escalate. The beginning of its id is enough."""
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.alerts.acknowledging import acknowledge

    if (alert is None) == (not everything):
        raise click.UsageError("Give the id of one alert (ml-pipeline alerts --open lists them), or --all.")
    if alert is not None and model is not None:
        raise click.UsageError("--model needs --all: the id alone identifies an alert.")
    with prepared() as settings:
        warehouse = Warehouse(settings)
        _check(warehouse, settings, [tenant], [] if model is None else [model])
        now = dt.datetime.now(dt.UTC)
        done = acknowledge(warehouse, tenant, by=by, now=now, alert=alert, model=model, note=note)
    if as_json:
        print_json({"acknowledged": done})
    elif done:
        output.say(f"Acknowledged: {', '.join(done)}")
    else:
        output.print("Nothing to do: it is acknowledged already." if alert else "Nothing to do: no open alerts.")


def _check(warehouse: Any, settings: Any, tenants: Sequence[str], models: Sequence[str]) -> None:
    """Refuses unknown names; alerts about no tenant or model have names of their own."""
    from ml_pipeline.specs import load_specs
    from ml_pipeline.work.alerts.run_failures import NO_MODEL
    from ml_pipeline.work.retention import everyone

    specs = load_specs(settings.specs)
    for what, given, known in (
        ("tenant", tenants, everyone(warehouse)),
        ("model", models, [*specs, *(model for model, _ in specs.broken), NO_MODEL]),
    ):
        for name in given:
            if name not in known:
                raise click.BadParameter(f"there is no {what} {name!r}; known are: {', '.join(known[:10])}")


@click.command("prune")
@tenants_option
@click.option("--dry-run", is_flag=True, help="Only count what would be deleted.")
@json_option
def prune_command(tenants: Sequence[str], dry_run: bool, as_json: bool) -> None:
    """Delete data that is too old: features of predictions, predictions, snapshots, alerts, log rows.

    The ages are settings (ML_PIPELINE_..._RETENTION_DAYS). Ctrl-C is safe: the next pruning deletes the rest.
    """
    from ml_pipeline.launch import dagster_instance
    from ml_pipeline.resources.dagster_storage import prune_events
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.retention import everyone, prune

    now = dt.datetime.now(dt.UTC)
    with prepared() as settings:
        warehouse = Warehouse(settings)
        _check(warehouse, settings, tenants, [])
        chosen = list(tenants) or everyone(warehouse)
        with progress_bar("Counting" if dry_run else "Pruning", len(chosen)) as advance:
            done = prune(settings, now=now, tenants=chosen, dry_run=dry_run, announce=advance)
        counts = dict(done.counts)
        if not dry_run and not tenants:
            with dagster_instance(settings):  # creates Dagster's tables if there are none yet
                before = now - dt.timedelta(days=settings.event_retention_days)
                counts["Dagster log rows"] = prune_events(settings.database_url, before)
    if as_json:
        print_json({"dry_run": dry_run, "counts": counts, "failures": done.failures})
    else:
        table = Rows("would be deleted" if dry_run else "deleted", "")
        for name, count in counts.items():
            table.add_row(name, f"{count:,}")
        output.print(table)
    for tenant, error in done.failures.items():
        failed(f"tenant {tenant}: {error}", as_json)
    if done.failures:
        sys.exit(1)
