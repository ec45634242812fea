"""Training of one version: model selection on the validation part, evaluation on the test part, fit on all rows."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime

import pandas as pd

from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.online.train import train_mixture
from ml_pipeline.training.search.parameters import NO_CONTEXT, TrainingContext, selection_stability, tuned
from ml_pipeline.training.selection.latency import latency_notes, within_latency
from ml_pipeline.training.selection.model_selection import (
    LearningPoint,
    SelectionResult,
    baselines,
    failures,
    fit_again,
    select_model,
)
from ml_pipeline.training.selection.predictors import Baseline, Predictor
from ml_pipeline.training.splits import Split, time_split
from ml_pipeline.training.trained import Trained, check_rows, judged_version, with_interval


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
    return train_on_split(spec, frame, split, seed, context, as_of)


def train_on_split(
    spec: ModelSpec,
    frame: pd.DataFrame,
    split: Split,
    seed: int | None = None,
    context: TrainingContext = NO_CONTEXT,
    as_of: datetime | None = None,
) -> Trained:
    """:func:`train` with a given ``split``, such as a published one, and without checks of the rows.

    ``as_of`` is the time of the newest label unless given.
    """
    started = time.perf_counter()
    seed = spec.training.seed if seed is None else seed
    train_rows, validation, test, known = (
        frame.iloc[positions] for positions in (split.train, split.validation, split.test, split.refit)
    )
    fitting, searched = tuned(spec, train_rows, validation, seed, context)
    if spec.training.is_mixture:
        mixed = train_mixture(spec, fitting, frame, split, seed, as_of or frame["label_time"].max())
        notes = [*_purge_notes(split), *([searched.sentence()] if searched else []), *mixed.notes]
        if spec.training.latency_ms is not None:
            notes += latency_notes(mixed.model.predictor, frame, spec.training.latency_ms)
        return replace(mixed, notes=notes, search=searched, seconds=time.perf_counter() - started)
    selection = select_model(fitting, train_rows, validation, seed, context.pooled)
    notes = _notes(selection, split) + ([searched.sentence()] if searched else [])
    whole = refit(spec, selection, frame, seed, fitting, context.pooled)
    if spec.training.latency_ms is not None:
        selection, whole, dropped = within_latency(selection, whole, frame, spec.training.latency_ms)
        notes += dropped
    judged = with_interval(
        spec, refit(spec, selection, known, seed, fitting, context.pooled), validation, selection.predictor
    )
    final = with_interval(spec, whole, test, judged.predictor)
    alike = selection_stability(fitting, train_rows, seed) if spec.features.selection else None
    counts = {"all": len(frame), "train": len(train_rows), "validation": len(validation), "test": len(test)}
    if alike is not None:
        always = ", ".join(name for name, share in alike.frequency.items() if share == 1)
        notes.append(f"stability of the selected features over folds: {alike.value:.2f}; always selected: {always}")
    trained = judged_version(spec, final, judged.predict(test), test, selection.candidates, counts, notes)
    metric = spec.headline_metric
    last_point = LearningPoint(len(known), trained.metrics[metric], trained.baseline_metrics[metric])
    return replace(
        trained,
        seconds=time.perf_counter() - started,
        learning_curve=[*selection.curve, last_point] if selection.curve else [],
        search=searched,
        stability=alike.value if alike else None,
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


def _notes(selection: SelectionResult, split: Split) -> list[str]:
    notes = _purge_notes(split) + failures(selection.candidates)
    return [*notes, selection.reason] if selection.reason else notes


def _purge_notes(split: Split) -> list[str]:
    notes = [
        f"{count} rows left out of {part}: their label was not known when the next part began"
        for part, count in split.purged.items()
        if count
    ]
    return notes + [
        f"{part} keeps rows whose label was not known when the next part began, because it would have too few rows"
        for part in split.unpurged
    ]
