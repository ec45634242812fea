"""What Dagster loads."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from ml_pipeline import partitions
from ml_pipeline.assets.factory import monitoring_assets, training_assets
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.sensors.deployments import cut_off_deployments
from ml_pipeline.sensors.schedules import fresh_predictions, nightly, prune, prune_job
from ml_pipeline.sensors.tenants import new_tenants
from ml_pipeline.settings import load_settings
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.work.training import PREDICTIONS


def definitions(specs: Mapping[str, ModelSpec], installation: Installation) -> dg.Definitions:
    """Assets, jobs, schedules and sensors of the models given."""
    training = [training_assets(spec) for spec in specs.values()]
    monitoring = [monitoring_assets(spec) for spec in specs.values()]
    train = dg.define_asset_job(
        "train",
        dg.AssetSelection.assets(*training),
        partitions_def=partitions.tenants,
        description="Features, model and predictions of a range of tenants.",
    )
    predict = dg.define_asset_job(
        "predict",
        dg.AssetSelection.assets(*([name, PREDICTIONS] for name in specs)),
        partitions_def=partitions.tenants,
        description="Predictions of a range of tenants.",
    )
    monitor = dg.define_asset_job(
        "monitor",
        dg.AssetSelection.assets(*monitoring),
        partitions_def=partitions.tenant_days,
        description="Daily metrics, then drift, of a rectangle of tenants x days.",
    )
    return dg.Definitions(
        assets=[*training, *monitoring],
        jobs=[train, predict, monitor, prune_job],
        schedules=[nightly, fresh_predictions, prune],
        sensors=[new_tenants, cut_off_deployments],
        resources={"installation": installation},
        executor=dg.in_process_executor,
    )


defs = definitions(load_specs(load_settings().specs), Installation())
