"""What is too old goes, every day."""

import datetime as dt

import dagster as dg

from ml_pipeline.display import code, markdown, printable
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.work.retention import prune

SHOWN_FAILURES = 20


@dg.op(description="Deletes what has been kept long enough; an interrupted run is taken up by the next.")
def delete_what_is_too_old(context: dg.OpExecutionContext, installation: Installation) -> None:
    done = prune(installation.settings(), now=dt.datetime.now(dt.UTC))
    context.log.info(f"Deleted: {done}")
    context.add_output_metadata({name: count for name, count in done.counts.items() if count})
    if done.failures:
        named = list(done.failures.items())[:SHOWN_FAILURES]
        shown = [f"- {code(tenant)}: {markdown(error)}" for tenant, error in named]
        first = printable(": ".join(named[0]))
        raise dg.Failure(
            f"{len(done.failures)} tenants could not be pruned; the others were. First: {first}",
            metadata={"tenants": dg.MetadataValue.md("\n".join(shown))},
            allow_retries=False,
        )


@dg.job(name="retention", description="Keeps predictions, snapshots and alerts from growing without end.")
def retention_job() -> None:
    delete_what_is_too_old()


daily_retention = dg.ScheduleDefinition(
    name="daily_retention",
    job=retention_job,
    cron_schedule="0 4 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
