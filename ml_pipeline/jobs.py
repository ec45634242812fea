"""All jobs: those that materialize assets, and rollback, retention and pruning."""

import datetime as dt
from collections.abc import Iterable

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from ml_pipeline.assets.reporting import metadata
from ml_pipeline.display import code, markdown, printable
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.dagster_storage import prune_events
from ml_pipeline.work.context import Clients
from ml_pipeline.work.monitoring.task import STEPS as MONITORING_STEPS
from ml_pipeline.work.retention import prune
from ml_pipeline.work.training.task import PREDICTIONS
from ml_pipeline.work.training.task import STEPS as TRAINING_STEPS

SHOWN_FAILURES = 20


def asset_jobs(models: Iterable[str]) -> list[UnresolvedAssetJobDefinition]:
    """``train``, ``predict`` and ``monitor`` over the assets of the models."""
    names = list(models)
    return [
        dg.define_asset_job(
            "train",
            _assets(names, TRAINING_STEPS),
            description="Features, model and predictions of a range of tenants.",
        ),
        dg.define_asset_job(
            "predict",
            _assets(names, [PREDICTIONS]),
            description="Predictions of a range of tenants.",
        ),
        dg.define_asset_job(
            "monitor",
            _assets(names, MONITORING_STEPS),
            description="Daily metrics, then drift, of a rectangle of tenants x days.",
        ),
    ]


def _assets(models: Iterable[str], steps: Iterable[str]) -> dg.AssetSelection:
    steps = list(steps)
    return dg.AssetSelection.assets(*([model, step] for model in models for step in steps))


class RollbackConfig(dg.Config):
    """The tenant's model to roll back, and the version to return to."""

    tenant: str
    model: str
    to: int = 0  # 0: the previous champion
    reason: str = "rolled back by a person in Dagster"


@dg.op(description="Makes an earlier version the champion; the current champion is marked as rolled back.")
def return_to_version(context: dg.OpExecutionContext, config: RollbackConfig, installation: Installation) -> None:
    done = Clients(installation.settings()).deployer.roll_back(
        config.tenant, config.model, to=config.to or None, reason=config.reason, as_of=dt.datetime.now(dt.UTC)
    )
    context.log.info(f"{done.tenant} {done.model}: version {done.version} serves, before it {done.replaced}")
    context.add_output_metadata(
        metadata({"version": done.version, "before": done.replaced or 0, "reason": done.reason})
    )


@dg.job(
    name="rollback",
    description="Rolls one tenant's model back to an earlier version: enter tenant and model on the Launchpad.",
)
def rollback_job() -> None:
    return_to_version()


@dg.op(
    description="Deletes data that are older than their retention time; after an interruption, the next run continues."
)
def delete_what_is_too_old(context: dg.OpExecutionContext, installation: Installation) -> None:
    done = prune(installation.settings(), now=dt.datetime.now(dt.UTC))
    context.log.info(f"Deleted: {done}")
    context.add_output_metadata(metadata({name: count for name, count in done.counts.items() if count}))
    if done.failures:
        named = list(done.failures.items())[:SHOWN_FAILURES]
        shown = [f"- {code(tenant)}: {markdown(error)}" for tenant, error in named]
        first = printable(": ".join(named[0]))
        raise dg.Failure(
            f"Old data of {len(done.failures)} tenants could not be deleted; the others are done. First: {first}",
            metadata=metadata({"tenants": dg.MetadataValue.md("\n".join(shown))}),
            allow_retries=False,
        )


@dg.job(name="retention", description="Deletes predictions, snapshots and alerts after their retention time.")
def retention_job() -> None:
    delete_what_is_too_old()


@dg.op(description="Deletes the log rows of old runs; keeps materializations and checks.")
def prune_old_events(context: dg.OpExecutionContext, installation: Installation) -> None:
    settings = installation.settings()
    before = dt.datetime.now(dt.UTC) - dt.timedelta(days=settings.event_retention_days)
    context.log.info(f"Deleted {prune_events(settings.database_url, before)} log rows from before {before.date()}")


@dg.job(name="prune", description="Deletes the log rows of old Dagster runs.")
def prune_job() -> None:
    prune_old_events()


OTHER_JOBS = (rollback_job, prune_job, retention_job)
