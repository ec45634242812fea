"""Sends alerts that are due, and escalates those that nobody acknowledged in time."""

from __future__ import annotations

import datetime as dt

import dagster as dg

from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.notifier import channels
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.work.alerts.deliver import deliver
from ml_pipeline.work.alerts.raising import escalate


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Sends alerts by webhook, mail and log, retries failures, and escalates unacknowledged alerts.",
)
def alert_delivery(context: dg.SensorEvaluationContext, installation: Installation) -> dg.SkipReason:
    settings = installation.settings()
    warehouse = Warehouse(settings)
    escalated = escalate(warehouse, settings, now=dt.datetime.now(dt.UTC))
    delivered = deliver(warehouse, channels(settings))
    for channel, error in delivered.errors.items():
        context.log.warning(f"{channel}: {error}")
    return dg.SkipReason(f"Deliveries: {delivered}; {escalated} alerts escalated.")
