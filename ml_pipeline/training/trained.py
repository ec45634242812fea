"""``Trained``: a trained version with its evaluation on rows that the evaluated fit did not know."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from ml_pipeline.monitoring.business_metrics import business_metrics
from ml_pipeline.monitoring.metrics import evaluate
from ml_pipeline.specs import ModelSpec
from ml_pipeline.specs.names import feature_name
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.intervals.conformal import conformal_interval, kept_residuals, residuals_of
from ml_pipeline.training.online.mixture import Mixture
from ml_pipeline.training.search.parameters import SearchReport
from ml_pipeline.training.selection.ensembles import MEDIAN
from ml_pipeline.training.selection.model_selection import POOLED, PRIOR, LearningPoint
from ml_pipeline.training.selection.predictors import Baseline, Predictor, Scale


class TrainingError(ValueError):
    """The model cannot be trained on the rows; the message names the model, the value and the remedy."""


@dataclass(frozen=True)
class Trained:
    """A trained version with its evaluation. The metrics come from a fit without the test part."""

    model: FittedModel
    candidate: str
    metrics: dict[str, Any]
    baseline_metrics: dict[str, Any]
    skill: float | None
    candidates: list[dict[str, Any]]
    rows: dict[str, int]
    slices: dict[str, dict[str, Any]]
    test_predictions: pd.DataFrame = field(repr=False)
    notes: list[str]
    seconds: float = 0.0
    learning_curve: list[LearningPoint] = field(default_factory=list)
    search: SearchReport | None = None
    expert_weights: pd.DataFrame | None = None  # of a mixture: a row per held-out event time, a column per expert
    stability: float | None = None  # of the feature selection over folds of the train part; None without one


def check_rows(spec: ModelSpec, frame: pd.DataFrame, as_of: datetime) -> None:
    """Raise :class:`TrainingError` if there are too few rows, or a label was not known at ``as_of``."""
    if len(frame) < spec.training.min_rows:
        raise TrainingError(
            f"{spec.name}: {len(frame)} matured rows, training.min_rows is {spec.training.min_rows}. "
            "Wait for more labels or lower training.min_rows"
        )
    known = (frame["state"] == "matured") & (frame["label_time"] <= pd.Timestamp(as_of))
    if not known.all():
        entity = frame.loc[~known, "entity_id"].iloc[0]
        raise TrainingError(
            f"{spec.name}: {(~known).sum()} of {len(frame)} rows have no label known at {as_of.isoformat()}, the first "
            f"is {entity!r}. Pass the rows of the feature frame whose state is 'matured' at that time"
        )
    if spec.training.target == "log" and frame["label"].min() <= -1:
        raise TrainingError(
            f"{spec.name}: a label is {frame['label'].min()}, for which training.target 'log' is undefined. "
            "Set label.above to 0 or use target 'identity'"
        )


def judged_version(
    spec: ModelSpec,
    final: FittedModel,
    predicted: pd.DataFrame,
    test: pd.DataFrame,
    candidates: list[dict[str, Any]],
    rows: dict[str, int],
    notes: list[str],
) -> Trained:
    """``final`` with its evaluation on the ``test`` rows.

    ``predicted`` has the columns of :meth:`FittedModel.predict` for them, from the same model fitted without them. The
    caller adds the ``seconds`` that both fits took.
    """
    outcomes = test[["entity_id", "event_time", "label_time", "label"]]
    predictions = pd.concat([outcomes, predicted], axis=1).reset_index(drop=True)
    metrics, baseline_metrics = (_evaluate(spec, predictions, column) for column in ("value", "baseline"))
    headline = baseline_metrics[spec.headline_metric]
    return Trained(
        model=final,
        candidate=final.candidate,
        metrics=metrics,
        baseline_metrics=baseline_metrics,
        skill=1 - metrics[spec.headline_metric] / headline if headline else None,
        candidates=candidates,
        rows=rows,
        slices=_slices(spec, test, predictions),
        test_predictions=predictions,
        notes=notes,
    )


def with_interval(
    spec: ModelSpec, model: FittedModel, held_out: pd.DataFrame, predictor: Predictor | Mixture
) -> FittedModel:
    """``model`` with the interval from the residuals of ``predictor`` on ``held_out``; binary models have no interval.

    ``predictor`` must be fitted without the rows of ``held_out``.
    """
    if spec.task == "binary":
        return model
    value = replace(model, predictor=predictor, interval=None).predict(held_out)["value"].to_numpy()
    return _with_residuals(spec, model, held_out["label"].to_numpy(), value)


def _with_residuals(spec: ModelSpec, model: FittedModel, label: np.ndarray, value: np.ndarray) -> FittedModel:
    scale: Scale = "log" if spec.label.above is not None and spec.label.above >= 0 else "identity"
    residuals = residuals_of(label, value, scale)
    interval = conformal_interval(residuals, spec.training.interval, scale)
    return replace(model, interval=interval, residuals=kept_residuals(residuals))


def baseline_instead(spec: ModelSpec, trained: Trained) -> Trained:
    """A version that predicts the baseline which ``trained`` was compared with; ``trained`` itself if it does already.

    Its metrics and its interval come from the baseline's predictions on the test part.
    """
    if isinstance(trained.model.predictor, Baseline) and trained.candidate != POOLED:
        return trained
    test, name = trained.test_predictions, MEDIAN if spec.task == "regression" else PRIOR
    model = FittedModel.of(spec, name, Baseline(trained.model.baseline), trained.model.baseline)
    if spec.task == "regression":
        model = _with_residuals(spec, model, test["label"].to_numpy(), test["baseline"].to_numpy())
    predictions = test.assign(value=test["baseline"], lower=np.nan, upper=np.nan, confidence=np.nan)
    searched = None if trained.search is None else trained.search.sentence()
    notes = [note for note in trained.notes if note != searched]
    return replace(
        trained,
        model=model,
        candidate=name,
        metrics=trained.baseline_metrics,
        skill=0.0,
        slices={},
        learning_curve=[],
        test_predictions=predictions,
        notes=[*notes, f"{name} instead of {trained.candidate}, which was not better"],
        search=None,
        stability=None,
    )


def _evaluate(spec: ModelSpec, predictions: pd.DataFrame, column: str) -> dict[str, Any]:
    ends = (predictions["lower"].to_numpy(), predictions["upper"].to_numpy()) if column == "value" else (None, None)
    label, prediction = predictions["label"].to_numpy(), predictions[column].to_numpy()
    return evaluate(spec.task, label, prediction, *ends) | business_metrics(
        spec, label, prediction, predictions["baseline"]
    )


def _slices(spec: ModelSpec, rows: pd.DataFrame, predictions: pd.DataFrame) -> dict[str, dict[str, Any]]:
    if spec.training.slice_by is None or spec.task == "binary":
        return {}
    column = feature_name(spec.training.slice_by)
    if column not in rows:
        return {}
    levels = rows[column].astype(object).where(rows[column].notna(), "missing").astype(str).to_numpy()
    slices = {}
    for level in sorted(set(levels)):
        part = predictions[levels == level]
        errors = {name: float((part[name] - part["label"]).abs().mean()) for name in ("value", "baseline")}
        slices[level] = {"count": len(part), "mae": errors["value"], "baseline_mae": errors["baseline"]}
    return slices
