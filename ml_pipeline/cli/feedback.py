"""``ml-pipeline feedback``: what somebody says to a prediction, or a file of it."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ml_pipeline.cli.common import (
    by_option,
    checked_spec,
    json_option,
    model_option,
    output,
    prepared,
    print_json,
    tenant_option,
)

if TYPE_CHECKING:
    from ml_pipeline.settings import Settings
    from ml_pipeline.specs import ModelSpec

VERDICTS = ("accepted", "corrected", "rejected")  # of features.feedback, which is not imported to parse a command line


@click.command("feedback")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@tenant_option
@model_option
@click.option("--entity", help="What the prediction was about.")
@click.option("--verdict", type=click.Choice(VERDICTS))
@click.option("--value", type=float, help="The corrected value, in the unit of the label.")
@click.option("--weight", type=float, default=1.0, show_default=True, help="Beside an outcome, which weighs 1.")
@by_option
@click.option("--at", type=click.DateTime(), help="When it was said (UTC); now unless given.")
@click.option("--timezone", default="UTC", show_default=True, help="Zone of a file's times that name none.")
@json_option
def feedback_command(
    file: Path | None,
    tenant: str,
    model: str,
    entity: str | None,
    verdict: str | None,
    value: float | None,
    weight: float,
    by: str,
    at: dt.datetime | None,
    timezone: str,
    as_json: bool,
) -> None:
    """Record that a prediction was accepted, corrected or rejected: one, or each of a CSV FILE.

    The columns of a file are entity_id, verdict, value, weight, given_by, given_at; the first two are required. A row
    without given_by has that of --by. Bad rows are set aside in ml.quarantine and counted.
    """
    of_one = [given is not None for given in (entity, verdict, value)]
    if any(of_one) if file is not None else not all(of_one[:2]):
        raise click.UsageError("Give a FILE, or --entity with --verdict (and --value, if corrected).")
    now = dt.datetime.now(dt.UTC)
    with prepared() as settings:
        spec = checked_spec(settings, tenant, model)
        if file is not None:
            _import(settings, spec, tenant, file, by, timezone, now, as_json)
        else:
            said = {"entity_id": entity, "verdict": verdict, "value": value, "weight": weight, "given_by": by}
            _store(settings, spec, tenant, said | {"given_at": at.replace(tzinfo=dt.UTC) if at else now}, now, as_json)
    if not spec.label.feedback and not as_json:
        output.say(f"Kept, but not trained on: label.feedback of {model} is off.")


def _import(
    settings: Settings,
    spec: ModelSpec,
    tenant: str,
    file: Path,
    by: str,
    timezone: str,
    now: dt.datetime,
    as_json: bool,
) -> None:
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.feedback import import_feedback

    summary = import_feedback(Warehouse(settings), spec, tenant, file, given_by=by, timezone=timezone, now=now)
    if as_json:
        print_json(asdict(summary))
        return
    stored = f"{summary.file}: {summary.rows_loaded:,} of {summary.rows_read:,} stored"
    output.say(f"{stored}, {summary.quarantined:,} set aside")
    for reason, count in summary.reasons.items():
        output.say(f"  {count} {reason}")


def _store(settings: Settings, spec: ModelSpec, tenant: str, said: dict, now: dt.datetime, as_json: bool) -> None:
    from ml_pipeline.resources.warehouse import Warehouse
    from ml_pipeline.work.feedback import store_one

    stored = store_one(Warehouse(settings), spec, tenant, **said, now=now)
    if as_json:
        print_json(stored)
        return
    what = f"{stored['verdict']} to {stored['value']:g}" if stored["verdict"] == "corrected" else stored["verdict"]
    about = f"version {stored['version']} predicted {stored['predicted']:.3g}"
    output.say(f"{tenant} {spec.name} {stored['entity_id']}: {what}; {about}.")
