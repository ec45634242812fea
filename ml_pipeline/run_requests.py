"""The assets, configuration and tags of a Dagster run that trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg

from ml_pipeline.work.retraining.decide import Approved
from ml_pipeline.work.training.task import FEATURES, MODEL, PREDICTIONS


def retraining_request(approved: Approved) -> dg.RunRequest:
    """The run of an approved retraining: one tenant and model, with the trigger and its scores as tags.

    The decision is the run's key: Dagster launches one run however often it is requested.
    """
    return dg.RunRequest(
        run_key=str(approved.decision_id),
        partition_key=approved.tenant,
        asset_selection=training_keys([approved.model]),
        run_config=retraining_config(approved),
        tags=approved.tags,
    )


def retraining_config(approved: Approved, as_of: str = "") -> dict[str, Any]:
    """The run configuration of an approved retraining; an empty ``as_of`` means the current time."""
    config = {"decision": str(approved.decision_id), "action": approved.action, "as_of": as_of}
    return {"ops": {f"{approved.model}_training": {"config": config}}}


def training_keys(models: Sequence[str]) -> list[dg.AssetKey]:
    """The assets that one training of the models materializes."""
    return [dg.AssetKey([model, step]) for model in models for step in (FEATURES, MODEL, PREDICTIONS)]
