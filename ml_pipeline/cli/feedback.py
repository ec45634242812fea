"""``ml-pipeline feedback``: feedback of a person on one prediction, or a file of feedback."""

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
    pass

VERDICTS = ("accepted", "corrected", "rejected")  # as in features.feedback, which would be slow to import here


@click.command("feedback")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@tenant_option
@model_option
@click.option("--entity", help="Entity of the prediction.")
@click.option("--verdict", type=click.Choice(VERDICTS))
@click.option("--value", type=float, help="The corrected value, in the unit of the label.")
@click.option("--weight", type=float, default=1.0, show_default=True, help="Weight in training; an outcome has 1.")
@by_option
@click.option("--at", type=click.DateTime(), help="Time of the feedback (UTC); default: now.")
@click.option("--timezone", default="UTC", show_default=True, help="Time zone of a file's times without offset.")
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

    The columns of a file are entity_id, verdict, value, weight, given_by, given_at; the first two are required. Rows
    without given_by get that of --by. Invalid rows are stored in ml.quarantine and counted.
    """
    of_one = [given is not None for given in (entity, verdict, value)]
    if any(of_one) if file is not None else not all(of_one[:2]):
        raise click.UsageError("Give a FILE, or --entity with --verdict (and --value, if corrected).")
    now = dt.datetime.now(dt.UTC)
    with prepared() as settings:
        from ml_pipeline.resources.warehouse import Warehouse
        from ml_pipeline.work.feedback import FeedbackRecord, import_feedback, store_one

        spec, warehouse = checked_spec(settings, tenant, model), Warehouse(settings)
        if file is not None:
            summary = import_feedback(warehouse, spec, tenant, file, given_by=by, timezone=timezone, now=now)
            stored = f"{summary.file}: {summary.rows_loaded:,} of {summary.rows_read:,} stored"
            reasons = [f"  {count} {reason}" for reason, count in summary.reasons.items()]
            result, lines = asdict(summary), [f"{stored}, {summary.quarantined:,} quarantined", *reasons]
        else:
            given_at = at.replace(tzinfo=dt.UTC) if at else now
            record = FeedbackRecord(str(entity), given_at, by, str(verdict), value, weight)
            result = store_one(warehouse, spec, tenant, record, now)
            what = (
                f"{result['verdict']} to {result['value']:g}" if result["verdict"] == "corrected" else result["verdict"]
            )
            about = f"version {result['version']} predicted {result['predicted']:.3g}"
            lines = [f"{tenant} {model} {result['entity_id']}: {what}; {about}."]
    if as_json:
        print_json(result)
        return
    if not spec.label.feedback:
        lines.append(f"Stored, but not used in training: label.feedback of {model} is off.")
    for line in lines:
        output.say(line)
