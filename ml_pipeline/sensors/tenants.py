"""Adds a partition for each new tenant."""

from __future__ import annotations

import dagster as dg

from ml_pipeline import partitions
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.warehouse import Warehouse


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds a partition for every tenant of source.tenants that has none.",
)
def new_tenants(context: dg.SensorEvaluationContext, installation: Installation) -> dg.SensorResult | dg.SkipReason:
    known = set(context.instance.get_dynamic_partitions(str(partitions.tenants.name)))
    added = [tenant for tenant in Warehouse(installation.settings()).tenants() if tenant not in known]
    if not added:
        return dg.SkipReason(f"All {len(known)} tenants have partitions.")
    return dg.SensorResult(dynamic_partitions_requests=[partitions.tenants.build_add_request(added)])
