"""What Dagster loads."""

from __future__ import annotations

import dagster as dg

from ml_pipeline import partitions
from ml_pipeline.assets.factory import monitoring_assets, training_assets
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.settings import load_settings
from ml_pipeline.specs import load_specs

specs = load_specs(load_settings().specs)

training = [training_assets(spec) for spec in specs.values()]
monitoring = [monitoring_assets(spec) for spec in specs.values()]

train_job = dg.define_asset_job(
    "train",
    dg.AssetSelection.assets(*training),
    partitions_def=partitions.tenants,
    description="Features, model and predictions.",
)
monitor_job = dg.define_asset_job(
    "monitor",
    dg.AssetSelection.assets(*monitoring),
    partitions_def=partitions.tenant_days,
    description="Daily metrics, then drift.",
)

defs = dg.Definitions(
    assets=[*training, *monitoring],
    jobs=[train_job, monitor_job],
    resources={"installation": Installation()},
    executor=dg.in_process_executor,
)
