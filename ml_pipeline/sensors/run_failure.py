"""Raises an alert for each tenant that failed in a failed run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from ml_pipeline import partitions
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.work.alerts.run_failures import ERRORS, FailedRun, alert_failed_run


@dg.run_failure_sensor(
    name="run_failure",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Raises an alert for each tenant that a failed run lists, or without a list, for each of its tenants.",
)
def run_failure(context: dg.RunFailureSensorContext, installation: Installation) -> None:
    unlisted = alert_failed_run(Warehouse(installation.settings()), failed_run(context))
    if unlisted:
        context.log.warning(f"{len(unlisted)} more tenants failed and got no alert: {', '.join(unlisted)}")


def failed_run(context: dg.RunFailureSensorContext) -> FailedRun:
    """The failed run, read from its event log and its tags."""
    run = context.dagster_run
    record = context.instance.get_run_record_by_id(run.run_id)
    ended = record.end_time if record is not None else None
    return FailedRun(
        run_id=run.run_id,
        job=run.job_name,
        ended_at=dt.datetime.fromtimestamp(ended, dt.UTC) if ended else dt.datetime.now(dt.UTC),
        message=context.failure_event.message or "",
        steps=dict(_failed_steps(context)),
        tenants=partitions.tenants_of(run.tags, context.instance.get_dynamic_partitions(str(partitions.tenants.name))),
    )


def _failed_steps(context: dg.RunFailureSensorContext) -> Iterator[tuple[str, tuple[str, Mapping[str, str]]]]:
    for event in context.get_step_failure_events():
        data = event.step_failure_data
        cause = data.error
        while cause is not None and cause.cause is not None:
            cause = cause.cause
        listed: Any = data.user_failure_data.metadata.get(ERRORS) if data.user_failure_data else None
        yield str(event.step_key), (cause.message if cause else "", listed.value if listed is not None else {})
