"""A trained version whose predictor is a mixture, with its evaluation."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

import pandas as pd

from ml_pipeline.specs import ModelSpec
from ml_pipeline.stats import losses
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.online.fit import FittedMixture, fit_mixture
from ml_pipeline.training.online.mixture import value_of
from ml_pipeline.training.selection.model_selection import PRIOR, baselines, failures
from ml_pipeline.training.splits import Split
from ml_pipeline.training.trained import Trained, judged_version

LEAST_OF_A_CLASS = 10
LEAST_NAMED = 0.01  # weight below which the card does not name an expert


def train_mixture(
    spec: ModelSpec, fitting: ModelSpec, frame: pd.DataFrame, split: Split, seed: int, as_of: datetime
) -> Trained:
    """Train a mixture; its test metrics are those of the walk through the test part.

    Each row of the test part is predicted with the structure fitted before it, and with what was known the night before
    it: as a version predicts that was trained when the test part began.

    Parameters
    ----------
    spec
        The model.
    fitting
        The specification to fit with, if a search changed it.
    frame
        Matured rows of the training window.
    split
        Its parts.
    seed
        Seed of the fits.
    as_of
        Aware time; every label is known by then.
    """
    if spec.task == "binary" and (fewest := _fewest_of_a_class(frame)) < LEAST_OF_A_CLASS:
        return _prior(spec, frame, split, fewest)
    fitted = fit_mixture(fitting, frame, split, as_of, seed)
    test, known = frame.iloc[split.test], frame.iloc[split.refit]
    simple, before = (next(iter(baselines(spec, rows).values())).value for rows in (frame, known))
    final = FittedModel.of(spec, spec.training.ensemble, fitted.mixture, baseline=simple)
    if fitting.training.params != spec.training.params:
        final = replace(final, params=fitting.training.params)
    distributions = fitted.walked.mixture[split.test]
    predicted = replace(final, baseline=before).from_distributions(fitted.mixture.grid, distributions)
    records = _records(spec, frame, fitted)
    trained = judged_version(
        spec, final, predicted.set_axis(test.index), test, records, _counts(frame, split), failures(records)
    )
    return replace(trained, expert_weights=_expert_weights(frame, fitted))


def _expert_weights(frame: pd.DataFrame, fitted: FittedMixture) -> pd.DataFrame:
    names = [name for name, _ in fitted.mixture.named_experts]
    times = frame["event_time"][fitted.held_out]
    return pd.DataFrame(fitted.walked.share[fitted.held_out], index=times, columns=names).sort_index(kind="stable")


def _fewest_of_a_class(frame: pd.DataFrame) -> int:
    positives = int(frame["label"].sum())
    return min(positives, len(frame) - positives)


def _prior(spec: ModelSpec, frame: pd.DataFrame, split: Split, fewest: int) -> Trained:
    """A version that predicts the prior, because one class has too few outcomes to learn from."""
    simple, before = (next(iter(baselines(spec, rows).values())) for rows in (frame, frame.iloc[split.refit]))
    final, judged = (FittedModel.of(spec, PRIOR, one, baseline=one.value) for one in (simple, before))
    test = frame.iloc[split.test]
    note = f"the prior predicts: one class has {fewest} known outcomes, a mixture needs {LEAST_OF_A_CLASS} of either"
    record = {"name": PRIOR, spec.headline_metric: None, "error": None}
    return judged_version(spec, final, judged.predict(test), test, [record], _counts(frame, split), [note])


def _counts(frame: pd.DataFrame, split: Split) -> dict[str, int]:
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    return {"all": len(frame), **{name: len(rows) for name, rows in parts.items()}}


def _records(spec: ModelSpec, frame: pd.DataFrame, fitted: FittedMixture) -> list[dict[str, Any]]:
    """A record per expert, and one of the mixture with the weights of its experts."""
    metric, rows = spec.headline_metric, fitted.held_out
    label = frame["label"].to_numpy(dtype="float64")[rows]
    value = value_of(spec.task, fitted.mixture.grid, fitted.walked.mixture[rows])
    weights = {record.name: round(record.weight, 4) for record in fitted.experts if record.weight >= LEAST_NAMED}
    records = [
        {"name": record.name, metric: record.loss, "crps": record.crps, "error": fitted.errors.get(record.name)}
        for record in fitted.experts
    ]
    error = float(losses(spec.task, label, value).mean())
    return [*records, {"name": spec.training.ensemble, metric: error, "error": None, "weights": weights}]
