"""Jobs that a person starts on Dagster's Launchpad."""

import datetime as dt

import dagster as dg

from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.work.context import Clients


class RollbackConfig(dg.Config):
    """Whose model returns to which version."""

    tenant: str
    model: str
    to: int = 0  # 0: the version that served before
    reason: str = "rolled back by hand in Dagster"


@dg.op(description="Makes an earlier version the champion again; the one that served is marked as rolled back.")
def return_to_version(context: dg.OpExecutionContext, config: RollbackConfig, installation: Installation) -> None:
    done = Clients(installation.settings()).deployer.roll_back(
        config.tenant, config.model, to=config.to or None, reason=config.reason, as_of=dt.datetime.now(dt.UTC)
    )
    context.log.info(f"{done.tenant} {done.model}: version {done.version} serves, before it {done.replaced}")
    context.add_output_metadata({"version": done.version, "before": done.replaced or 0, "reason": done.reason})


@dg.job(
    name="rollback",
    description="Returns one tenant's model to an earlier version: name tenant and model on the Launchpad.",
)
def rollback_job() -> None:
    return_to_version()
