"""The files and metrics that are registered with a fitted model: signature, test predictions, profile, hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from ml_pipeline.lifecycle.versions import SpecFingerprint
from ml_pipeline.monitoring.profiles.profile import profile
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.reporting.card import Origin, card
from ml_pipeline.training.reporting.importance import importance
from ml_pipeline.training.reporting.plots import Tried, picture
from ml_pipeline.training.trained import Trained
from ml_pipeline.work.training.search import search_metrics, write_search

TEST_PREDICTIONS = "test_predictions.parquet"
PROFILE = "profile.bin"
IMPORTANCE = "importance.json"
CARD = "card.md"
PLOTS = "plots.png"
DESCRIPTION = "MLmodel"


def write_files(
    folder: Path, spec: ModelSpec, trained: Trained, rows: pd.DataFrame, origin: Origin, plots: bool
) -> None:
    """Writes all files of a version into ``folder``, which is created if absent.

    ``rows`` are its training rows; drift reports later need only their profile. ``plots`` adds plots, the only file
    that takes tens of milliseconds.
    """
    trained.model.save(folder)
    trained.test_predictions.to_parquet(folder / TEST_PREDICTIONS, index=False)
    made = trained.test_predictions.rename(columns={"event_time": "predicted_at"})[["predicted_at", "value"]]
    (folder / PROFILE).write_bytes(profile(spec, rows, made).to_bytes())
    (folder / IMPORTANCE).write_text(json.dumps(importance(trained.model), indent=1) + "\n", encoding="utf-8")
    searched = None if trained.search is None else trained.search.sentence()
    (folder / CARD).write_text(card(spec, trained, rows, origin, searched), encoding="utf-8")
    if plots:
        result = trained.search.result if trained.search else None
        trials = () if result is None else result.trials
        tried = [Tried(trial.number, trial.mean) for trial in trials if trial.mean is not None]
        (folder / PLOTS).write_bytes(picture(spec, trained, tried))
    write_search(folder, trained)
    (folder / DESCRIPTION).write_text(_ml_model(spec), encoding="utf-8")


def read_files(folder: Path) -> tuple[FittedModel, pd.DataFrame]:
    """The fitted model, and its predictions for the test part from before it was refitted on that part."""
    return FittedModel.load(folder), pd.read_parquet(folder / TEST_PREDICTIONS)


def fingerprint_of(spec: ModelSpec) -> SpecFingerprint:
    """Hashes that decide the semantic version: of source, label and features, and of the whole specification.

    Feature selection and the use of feedback change how a model is trained, not what it predicts; the first hash
    leaves them out.
    """
    label = spec.label.model_dump_json(exclude={"feedback"})
    asked = spec.source.model_dump_json() + label + spec.features.model_dump_json(exclude={"selection"})
    return SpecFingerprint(hashlib.sha256(asked.encode()).hexdigest(), spec.hash)


def logged_metrics(trained: Trained) -> dict[str, float]:
    """Metrics for MLflow, without those that have no value; those of the baseline are ``baseline_<name>``."""
    metrics = {name: value for name, value in trained.metrics.items() if value is not None}
    baseline = {f"baseline_{name}": value for name, value in trained.baseline_metrics.items() if value is not None}
    skill = {} if trained.skill is None else {"skill": trained.skill}
    rows = {f"rows_{name}": float(count) for name, count in trained.rows.items()}
    return metrics | baseline | skill | rows | search_metrics(trained)


def comparison(trained: Trained) -> list[tuple[str, Any, Any]]:
    """Rows (metric, version, baseline) of the comparison on Dagster's page, the slices last."""
    shared = [name for name in trained.metrics if name in trained.baseline_metrics and name != "count"]
    table = [(name, trained.metrics[name], trained.baseline_metrics[name]) for name in shared]
    return table + [
        (f"mae of {level} ({part['count']})", part["mae"], part["baseline_mae"])
        for level, part in trained.slices.items()
    ]


def _ml_model(spec: ModelSpec) -> str:
    """MLflow's description of the files, with the signature that its pages show."""
    import mlflow
    import yaml
    from mlflow.types import ColSpec, DataType, Schema

    columns = spec.feature_columns
    kinds = dict.fromkeys(columns.numeric, DataType.double) | dict.fromkeys(
        (*columns.categorical, *columns.text), DataType.string
    )
    inputs = Schema([ColSpec(kind, name, required=False) for name, kind in kinds.items()])
    outputs = Schema([ColSpec(DataType.double, name) for name in ("value", "lower", "upper", "baseline", "confidence")])
    signature = {"inputs": json.dumps(inputs.to_dict()), "outputs": json.dumps(outputs.to_dict()), "params": None}
    content = {"flavors": {"ml_pipeline": {"loader": "ml_pipeline.training.fitted_model"}}, "signature": signature}
    return yaml.safe_dump(content | {"mlflow_version": mlflow.__version__, "artifact_path": "model"})
