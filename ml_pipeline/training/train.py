"""Training of one version: model selection on the validation part, evaluation on the test part, fit on all rows."""

from __future__ import annotations

import time
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
from ml_pipeline.training.search.parameters import NO_CONTEXT, SearchReport, TrainingContext, selection_stability, tuned
from ml_pipeline.training.selection.ensembles import MEDIAN
from ml_pipeline.training.selection.latency import within_latency
from ml_pipeline.training.selection.model_selection import (
    POOLED,
    PRIOR,
    LearningPoint,
    SelectionResult,
    baselines,
    failures,
    fit_again,
    select_model,
)
from ml_pipeline.training.selection.predictors import Baseline, Predictor, Scale
from ml_pipeline.training.splits import Split, time_split


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
    stability: float | None = None  # of the feature selection over folds of the train part; None without one


def train(
    spec: ModelSpec,
    frame: pd.DataFrame,
    as_of: datetime,
    seed: int | None = None,
    context: TrainingContext = NO_CONTEXT,
) -> Trained:
    """Train one version.

    1. Split the rows in time into train, validation and test.
    2. If ``training.search`` is set, search parameters and preprocessing on train
       (:func:`~ml_pipeline.training.search.parameters.tuned`).
    3. Fit the candidates on train and select one, or the ensemble, on held-out rows
       (:func:`~ml_pipeline.training.selection.model_selection.select_model`).
    4. Refit it on the rows known when the test part began, and evaluate it and the baseline on the test part.
    5. Refit it on all rows, with a prediction interval from the test residuals.

    Members that are too slow for ``training.latency_ms`` are left out of steps 4 and 5.

    Parameters
    ----------
    spec
        The model.
    frame
        Matured rows of a feature frame: the training window that the caller chose.
    as_of
        Aware time; every label must be known by then.
    seed
        Seed of all fits, by default ``training.seed``.
    context
        Worker processes and earlier gains for the parameter search, and the pooled baseline.

    Returns
    -------
    Trained
        The version fitted on all rows, with metrics of step 4.

    Raises
    ------
    TrainingError
        If there are fewer than ``spec.training.min_rows`` rows, a row is not matured, or its label was not known at
        ``as_of``.
    """
    check_rows(spec, frame, as_of)
    split = time_split(frame, spec.training.validation_share, spec.training.test_share)
    return train_on_split(spec, frame, split, seed, context)


def train_on_split(
    spec: ModelSpec,
    frame: pd.DataFrame,
    split: Split,
    seed: int | None = None,
    context: TrainingContext = NO_CONTEXT,
) -> Trained:
    """:func:`train` with a given ``split``, such as a published one, and without checks of the rows."""
    started = time.perf_counter()
    seed = spec.training.seed if seed is None else seed
    train_rows, validation, test, known = (
        frame.iloc[positions] for positions in (split.train, split.validation, split.test, split.refit)
    )
    fitting, searched = tuned(spec, train_rows, validation, seed, context)
    selection = select_model(fitting, train_rows, validation, seed, context.pooled)
    notes = _notes(selection, split) + ([searched.sentence()] if searched else [])
    whole = refit(spec, selection, frame, seed, fitting, context.pooled)
    if spec.training.latency_ms is not None:
        selection, whole, latency_notes = within_latency(selection, whole, frame, spec.training.latency_ms)
        notes += latency_notes
    judged = with_interval(
        spec, refit(spec, selection, known, seed, fitting, context.pooled), validation, selection.predictor
    )
    final = with_interval(spec, whole, test, judged.predictor)
    alike = selection_stability(fitting, train_rows, seed) if spec.features.selection else None
    counts = {"all": len(frame), "train": len(train_rows), "validation": len(validation), "test": len(test)}
    if alike is not None:
        always = ", ".join(name for name, share in alike.frequency.items() if share == 1)
        notes.append(f"stability of the selected features over folds: {alike.value:.2f}; always selected: {always}")
    trained = judged_version(spec, final, judged, test, selection.candidates, counts, notes)
    metric = spec.headline_metric
    last_point = LearningPoint(len(known), trained.metrics[metric], trained.baseline_metrics[metric])
    return replace(
        trained,
        seconds=time.perf_counter() - started,
        learning_curve=[*selection.curve, last_point] if selection.curve else [],
        search=searched,
        stability=alike.value if alike else None,
    )


def judged_version(
    spec: ModelSpec,
    final: FittedModel,
    judged: FittedModel,
    test: pd.DataFrame,
    candidates: list[dict[str, Any]],
    rows: dict[str, int],
    notes: list[str],
) -> Trained:
    """``final`` with the evaluation of ``judged``, the same model fitted without the ``test`` rows.

    The caller adds the ``seconds`` that both fits took.
    """
    outcomes = test[["entity_id", "event_time", "label_time", "label"]]
    predictions = pd.concat([outcomes, judged.predict(test)], axis=1).reset_index(drop=True)
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


def refit(
    spec: ModelSpec,
    selection: SelectionResult,
    rows: pd.DataFrame,
    seed: int,
    fitting: ModelSpec | None = None,
    pooled: float | None = None,
) -> FittedModel:
    """The selected candidate fitted on ``rows``, with weights and calibration of the selection, without an interval.

    ``fitting`` is the specification to fit with if a search changed it; the version is registered under ``spec``.
    ``pooled`` is the same value as in the model selection.
    """
    simple = baselines(spec, rows, pooled)
    baseline = next(iter(simple.values()))
    predictor: Predictor = simple.get(selection.selected, baseline)
    if not isinstance(selection.predictor, Baseline):
        predictor = fit_again(fitting or spec, selection.predictor, rows, seed)
    model = FittedModel.of(spec, selection.selected, predictor, baseline=baseline.value)
    is_found = fitting is not None and fitting.training.params != spec.training.params
    return replace(model, params=fitting.training.params) if fitting is not None and is_found else model


def with_interval(spec: ModelSpec, model: FittedModel, held_out: pd.DataFrame, predictor: Predictor) -> FittedModel:
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


def _notes(selection: SelectionResult, split: Split) -> list[str]:
    notes = [
        f"{count} rows left out of {part}: their label was not known when the next part began"
        for part, count in split.purged.items()
        if count
    ]
    notes += [
        f"{part} keeps rows whose label was not known when the next part began, because it would have too few rows"
        for part in split.unpurged
    ]
    notes += failures(selection.candidates)
    return [*notes, selection.reason] if selection.reason else notes
