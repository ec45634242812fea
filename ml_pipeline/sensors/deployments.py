"""Finishes or undoes promotions and rollbacks whose process died."""

from __future__ import annotations

import datetime as dt

import dagster as dg

from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.work.context import Clients

# A deployment takes well under a second; the process of one that is older than this has died.
RECOVER_AFTER = dt.timedelta(minutes=5)


@dg.sensor(
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Finishes or undoes deployments whose process died between two steps; the alias in MLflow decides.",
)
def deployment_recovery(context: dg.SensorEvaluationContext, installation: Installation) -> dg.SkipReason:
    settled = Clients(installation.settings()).deployer.reconcile(older_than=RECOVER_AFTER)
    for deployment, outcome in settled:
        context.log.warning(
            f"tenant {deployment.tenant}, model {deployment.model}: the {deployment.action} of version "
            f"{deployment.version} was interrupted and is now {outcome}"
        )
    return dg.SkipReason(f"{len(settled)} deployments had been interrupted.")
