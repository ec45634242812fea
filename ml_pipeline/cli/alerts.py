"""``ml-pipeline alerts``, ``acknowledge`` and ``prune``."""

from __future__ import annotations

import datetime as dt
import getpass
import json
import sys
from collections.abc import Sequence
from typing import Any

import click

SHOWN_LENGTH = 8  # of an id: enough to name it

json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


@click.command("alerts")
@click.option("--tenant", "tenants", multiple=True, help="Only this tenant; may be repeated.")
@click.option("--model", "models", multiple=True, help="Only this model; may be repeated.")
@click.option("--open", "only_open", is_flag=True, help="Only those that nobody has acknowledged.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1), help="At most so many, newest first.")
@json_option
def alerts_command(tenants: Sequence[str], models: Sequence[str], only_open: bool, limit: int, as_json: bool) -> None:
    """Alerts, newest first: what happened, who was told, who has seen it."""
    from ml_pipeline.cli.common import console, output, prepared
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.alerts.raising import list_alerts

    with prepared() as settings:
        warehouse = Warehouse(settings)
        _check(warehouse, settings, tenants, models)
        found = list_alerts(warehouse, tenants=tenants, models=models, only_open=only_open, limit=limit)
    if as_json:
        print(json.dumps(found, indent=1, default=str))
        return
    if not found:
        output.print("No open alerts." if only_open else "No alerts.")
        return
    output.print(_table(found))
    if any(alert["acknowledged_at"] is None for alert in found):
        console.say("Acknowledge one: ml-pipeline acknowledge --tenant TENANT ID --note '...'")


def _table(alerts: Sequence[dict[str, Any]]) -> Any:
    from rich.text import Text

    from ml_pipeline.cli.common import Rows

    table = Rows()
    for name in ("id", "as of (UTC)", "tenant", "model", "level", "kind", "seen"):
        table.add_column(name, no_wrap=True)
    for name in ("what", "told", "acknowledged"):
        table.add_column(name)
    colours = {"CRITICAL": "bold red", "HIGH": "red", "MEDIUM": "yellow"}
    for alert in alerts:
        level = alert["level"] if alert["escalated_at"] is None else f"{alert['level']} (escalated)"
        colour = colours.get(alert["level"], "")
        cells = (
            str(alert["alert_id"])[:SHOWN_LENGTH],
            f"{alert['as_of']:%Y-%m-%d %H:%M}",
            alert["tenant_id"],
            alert["model"],
            Text(level, colour),
            alert["kind"],
            str(alert["occurrences"]),
            alert["message"],
            _deliveries(alert["deliveries"]),
            _acknowledged(alert),
        )
        table.add_row(*cells)
    return table


def _deliveries(deliveries: Sequence[dict[str, Any]]) -> str:
    """The newest delivery of each channel: what was sent, what is tried, and why it failed."""
    newest = {delivery["channel"]: delivery for delivery in deliveries}
    parts = []
    for channel, delivery in sorted(newest.items()):
        error = delivery["last_error"] if delivery["state"] != "sent" else None
        parts.append(f"{channel} {delivery['state']}" + (f": {error}" if error else ""))
    return ", ".join(parts) or "nobody: not news when it was found"


def _acknowledged(alert: dict[str, Any]) -> str:
    if alert["acknowledged_at"] is None:
        return ""
    note = f": {alert['acknowledged_note']}" if alert["acknowledged_note"] else ""
    return f"{alert['acknowledged_by']}, {alert['acknowledged_at']:%Y-%m-%d %H:%M}{note}"


@click.command("acknowledge")
@click.argument("alert", required=False, metavar="[ALERT_ID]")
@click.option("--tenant", required=True)
@click.option("--model", help="With --all: every open alert of this model.")
@click.option("--all", "everything", is_flag=True, help="Every open alert of the tenant, or of the --model.")
@click.option("--note", help="What was found, for whoever looks next.")
@click.option("--by", default=getpass.getuser, help="Who; otherwise the user of this machine.")
@json_option
def acknowledge_command(
    alert: str | None, tenant: str, model: str | None, everything: bool, note: str | None, by: str, as_json: bool
) -> None:
    """Say that you have seen an alert: it does not escalate any more. The beginning of its id is enough."""
    from ml_pipeline.cli.common import output, prepared
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.alerts.raising import NoSuchAlert, acknowledge

    if (alert is None) == (not everything):
        raise click.UsageError("name one alert by its id (ml-pipeline alerts --open shows them), or give --all")
    if alert is not None and model is not None:
        raise click.UsageError("--model goes with --all; an alert is named by its id alone")
    with prepared() as settings:
        warehouse = Warehouse(settings)
        _check(warehouse, settings, [tenant], [] if model is None else [model])
        try:
            now = dt.datetime.now(dt.UTC)
            done = acknowledge(warehouse, tenant, by=by, now=now, alert=alert, model=model, note=note)
        except NoSuchAlert as error:
            raise click.ClickException(str(error)) from error
    if as_json:
        print(json.dumps({"acknowledged": done}))
    elif done:
        output.say(f"Acknowledged: {', '.join(done)}")
    else:
        output.print("Nothing to do: it was acknowledged before." if alert else "Nothing to do: no open alerts.")


def _check(warehouse: Any, settings: Any, tenants: Sequence[str], models: Sequence[str]) -> None:
    """Unknown names are answered with the known ones; alerts of runs for no tenant have names of their own."""
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
@click.option("--tenant", "tenants", multiple=True, help="Only this tenant; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Count what would go, and delete nothing.")
@json_option
def prune_command(tenants: Sequence[str], dry_run: bool, as_json: bool) -> None:
    """Delete what has been kept long enough: features of predictions, predictions, snapshots, alerts, log rows.

    The ages are settings (ML_PIPELINE_..._RETENTION_DAYS). Ctrl-C is safe: the next pruning deletes the rest.
    """
    from ml_pipeline.cli.common import Rows, console, output, prepared, progress_bar
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
            with dagster_instance(settings):  # makes Dagster's tables where there are none yet
                before = now - dt.timedelta(days=settings.event_retention_days)
                counts["Dagster log rows"] = prune_events(settings.database_url, before)
    if as_json:
        print(json.dumps({"dry_run": dry_run, "counts": counts, "failures": done.failures}))
    else:
        table = Rows("would go" if dry_run else "deleted", "")
        for name, count in counts.items():
            table.add_row(name, f"{count:,}")
        output.print(table)
        for tenant, error in done.failures.items():
            console.say(f"Failed: tenant {tenant}: {error}")
    if done.failures:
        sys.exit(1)
