"""Marks runs whose process died as failed, so that they free their place in the queue."""

from __future__ import annotations

import dagster as dg

from ml_pipeline.recovery import recover, run_ids
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.warehouse import Warehouse


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Marks runs whose process died as failed, closes their retraining decisions, and removes their files.",
)
def run_recovery(context: dg.SensorEvaluationContext, installation: Installation) -> dg.SkipReason:
    done = recover(context.instance, Warehouse(installation.settings()))
    if done.runs:
        context.log.warning(f"The process of {run_ids(done.runs)} died; they are marked as failed.")
    return dg.SkipReason(f"Cleaned up: {done}.")
