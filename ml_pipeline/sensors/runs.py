"""Runs whose process died are marked as failed, and give their places back."""

from __future__ import annotations

import dagster as dg

from ml_pipeline.recovery import recover, run_ids
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import load_settings


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Marks runs whose process died as failed, settles what asked for them, and clears what they left.",
)
def run_recovery(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    done = recover(context.instance, Warehouse(load_settings()))
    if done.runs:
        context.log.warning(f"The process of {run_ids(done.runs)} died; they are marked as failed.")
    return dg.SkipReason(f"Ended or cleared: {done}.")
