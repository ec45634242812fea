"""Promotions and rollbacks that were cut off are finished or undone."""

from __future__ import annotations

import datetime as dt

import dagster as dg

from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.work.context import Clients

# A deployment takes well under a second; one older than this has no process any more.
RECOVER_AFTER = dt.timedelta(minutes=5)


@dg.sensor(
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Settles deployments whose process died between its steps; the alias in MLflow is the truth.",
)
def deployment_recovery(context: dg.SensorEvaluationContext, installation: Installation) -> dg.SkipReason:
    settled = Clients(installation.settings()).deployer.reconcile(older_than=RECOVER_AFTER)
    for deployment, outcome in settled:
        context.log.warning(
            f"tenant {deployment.tenant}, model {deployment.model}: the {deployment.action} of version "
            f"{deployment.version} was cut off and is now {outcome}"
        )
    return dg.SkipReason(f"{len(settled)} deployments were cut off.")
