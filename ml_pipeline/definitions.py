"""The definitions that Dagster loads."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping

import dagster as dg

from ml_pipeline.assets.factory import monitoring_assets, training_assets
from ml_pipeline.assets.lineage import external_assets
from ml_pipeline.display import markdown
from ml_pipeline.jobs import OTHER_JOBS, asset_jobs
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.folders import hide_new_files
from ml_pipeline.sensors.alert_delivery import alert_delivery
from ml_pipeline.sensors.deployments import deployment_recovery
from ml_pipeline.sensors.registry_sync import registry_sync
from ml_pipeline.sensors.retraining import retraining
from ml_pipeline.sensors.rollback_watch import rollback_watch
from ml_pipeline.sensors.run_failure import run_failure
from ml_pipeline.sensors.runs import run_recovery
from ml_pipeline.sensors.schedules import daily_retention, hourly_predictions, nightly, weekly_event_log_pruning
from ml_pipeline.sensors.tenants import new_tenants
from ml_pipeline.settings import load_settings
from ml_pipeline.specs import BrokenSpec, ModelSpec, Specs, load_specs


def definitions(specs: Mapping[str, ModelSpec], installation: Installation) -> dg.Definitions:
    """Dagster's definitions for the models: assets, jobs, schedules and sensors."""
    broken = specs.broken if isinstance(specs, Specs) else ()
    trained = [training_assets(spec) for spec in specs.values()]
    monitored = [monitoring_assets(spec) for spec in specs.values()]
    return dg.Definitions(
        assets=[*external_assets(specs.values()), *trained, *monitored, *broken_assets(broken)],
        jobs=[*asset_jobs(specs), *OTHER_JOBS],
        schedules=[nightly, hourly_predictions, daily_retention, weekly_event_log_pruning],
        sensors=[
            new_tenants,
            retraining,
            rollback_watch,
            registry_sync,
            deployment_recovery,
            run_recovery,
            alert_delivery,
            run_failure,
        ],
        resources={"installation": installation},
        executor=dg.in_process_executor,
    )


def broken_assets(broken: Iterable[BrokenSpec]) -> list[dg.AssetSpec]:
    """One asset for each model whose file is wrong; its description contains the error, and no run materializes it.

    The model's data are kept: after a correction of the file, its assets return with all their partitions.
    """
    said: dict[str, list[str]] = {}
    for model, error in broken:
        logging.getLogger(__name__).warning("model %s is left out: %s", model, error)
        said.setdefault(re.sub(r"[^A-Za-z0-9_]", "_", model), []).append(error)
    return [
        dg.AssetSpec(
            [model, "broken_specification"],
            description="This model is left out until its file is corrected; the other models are not affected.\n\n"
            + "\n\n".join(map(markdown, errors)),
            group_name=model,
        )
        for model, errors in said.items()
    ]


hide_new_files()  # for the processes in which Dagster runs this code
defs = definitions(load_specs(load_settings().specs), Installation())
