"""Records champion aliases that a person moved in MLflow."""

from __future__ import annotations

import datetime as dt

import dagster as dg

from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.work.context import Clients
from ml_pipeline.work.deployment.registry_sync import follow_aliases


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Records a champion alias that a person moved in MLflow, and starts the rollback watch.",
)
def registry_sync(context: dg.SensorEvaluationContext, installation: Installation) -> dg.SkipReason:
    followed = follow_aliases(Clients(installation.settings()), dt.datetime.now(dt.UTC))
    for deployment in followed:
        context.log.info(f"tenant {deployment.tenant}, model {deployment.model}: {deployment.reason}")
    return dg.SkipReason(f"{len(followed)} aliases had been moved by hand.")
