"""The schedules: nightly run, hourly predictions, retention, pruning."""

import datetime as dt
from collections.abc import Iterator

import dagster as dg

from ml_pipeline import partitions
from ml_pipeline.jobs import prune_job, retention_job
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.work.fleet import days_to_monitor

# Larger runs are not faster per tenant, and a run that dies loses less if it is small.
TENANTS_PER_RUN = 1000

RUNNING = dg.DefaultScheduleStatus.RUNNING


def chunks(tenants: list[str]) -> Iterator[tuple[str, str]]:
    """First and last tenant of each run, in partition order."""
    for start in range(0, len(tenants), TENANTS_PER_RUN):
        yield tenants[start], tenants[min(start + TENANTS_PER_RUN, len(tenants)) - 1]


def known_tenants(context: dg.ScheduleEvaluationContext) -> list[str]:
    return list(context.instance.get_dynamic_partitions(str(partitions.tenants.name)))


@dg.schedule(
    job_name="monitor",
    cron_schedule="0 2 * * *",
    execution_timezone="UTC",
    default_status=RUNNING,
    description="Metrics and drift reports of every tenant for yesterday and for missed days.",
)
def nightly(context: dg.ScheduleEvaluationContext, installation: Installation) -> list[dg.RunRequest] | dg.SkipReason:
    tenants = known_tenants(context)
    if not tenants:
        return dg.SkipReason("There are no tenants yet. Import rows with `ml-pipeline import`")
    yesterday = context.scheduled_execution_time.astimezone(dt.UTC).date() - dt.timedelta(days=1)
    window = partitions.days.start.date()
    since = days_to_monitor(Warehouse(installation.settings()), len(tenants), window, yesterday)
    if since is None:
        return dg.SkipReason(f"All days up to {yesterday} have their metrics and reports.")
    return [
        dg.RunRequest(
            run_key=f"nightly {since} {yesterday} {first}",
            tags=partitions.tenant_day_range(tenants, first, last, since, yesterday),
        )
        for first, last in chunks(tenants)
    ]


@dg.schedule(
    job_name="predict",
    cron_schedule="15 * * * *",
    execution_timezone="UTC",
    default_status=RUNNING,
    description="Predicts the entities that were created in the last hour.",
)
def hourly_predictions(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
    tenants = known_tenants(context)
    if not tenants:
        return dg.SkipReason("There are no tenants yet. Import rows with `ml-pipeline import`")
    hour = context.scheduled_execution_time.isoformat()
    return [
        dg.RunRequest(run_key=f"predictions {hour} {first}", tags=partitions.tenant_range(tenants, first, last))
        for first, last in chunks(tenants)
    ]


weekly_event_log_pruning = dg.ScheduleDefinition(
    name="weekly_event_log_pruning",
    job=prune_job,
    cron_schedule="30 3 * * 0",
    execution_timezone="UTC",
    default_status=RUNNING,
)

daily_retention = dg.ScheduleDefinition(
    name="daily_retention",
    job=retention_job,
    cron_schedule="0 4 * * *",
    execution_timezone="UTC",
    default_status=RUNNING,
)
