"""What Dagster loads."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from ml_pipeline import partitions
from ml_pipeline.assets.factory import monitoring_assets, training_assets
from ml_pipeline.jobs import rollback_job
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.sensors.deployments import cut_off_deployments
from ml_pipeline.sensors.registry_sync import registry_sync
from ml_pipeline.sensors.retraining import retraining
from ml_pipeline.sensors.schedules import fresh_predictions, nightly, prune, prune_job
from ml_pipeline.sensors.tenants import new_tenants
from ml_pipeline.settings import load_settings
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.work.training import PREDICTIONS


def definitions(specs: Mapping[str, ModelSpec], installation: Installation) -> dg.Definitions:
    """Assets, jobs, schedules and sensors of the models given."""
    trained = [training_assets(spec) for spec in specs.values()]
    monitored = [monitoring_assets(spec) for spec in specs.values()]
    train = dg.define_asset_job(
        "train",
        dg.AssetSelection.assets(*trained),
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
        dg.AssetSelection.assets(*monitored),
        partitions_def=partitions.tenant_days,
        description="Daily metrics, then drift, of a rectangle of tenants x days.",
    )
    return dg.Definitions(
        assets=[*trained, *monitored],
        jobs=[train, predict, monitor, rollback_job, prune_job],
        schedules=[nightly, fresh_predictions, prune],
        sensors=[new_tenants, cut_off_deployments, retraining, registry_sync],
        resources={"installation": installation},
        executor=dg.in_process_executor,
    )


defs = definitions(load_specs(load_settings().specs), Installation())
