"""Performance: outcomes that became known, compared with the predictions made before them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import pandas as pd

from ml_pipeline.monitoring.business_metrics import business_metrics
from ml_pipeline.monitoring.degradation.report import Degradation, degradation
from ml_pipeline.monitoring.metrics import Metrics, evaluate
from ml_pipeline.specs.model_spec import ModelSpec
from ml_pipeline.stats import losses

__all__ = [
    "DailyMetrics",
    "Degradation",
    "daily_metrics",
    "degradation",
    "lacks_predictions",
    "scored_outcomes",
    "window_metrics",
]


@dataclass(frozen=True)
class DailyMetrics:
    """Metrics of one tenant and model over one or several days; every field can be stored in a database row."""

    outcomes: int
    evaluated: int  # outcomes with a prediction from before their label time
    completeness: float | None  # evaluated / outcomes
    metric: str  # the headline metric of the model
    value: float | None
    baseline_value: float | None  # the same metric of the baseline
    skill: float | None  # 1 - value / baseline_value
    version: int | None  # the newest version among the predictions used; 0 for a backtest
    origin: Literal["live", "backtest"]  # "backtest" if only backtested predictions were used
    metrics: Metrics  # technical and business metrics, baseline_<name> for the baseline, `standard_error` of value


def daily_metrics(spec: ModelSpec, outcomes: pd.DataFrame, predictions: pd.DataFrame, day: date) -> DailyMetrics:
    """:func:`window_metrics` of one day."""
    return window_metrics(spec, outcomes, predictions, day, day)


def window_metrics(
    spec: ModelSpec, outcomes: pd.DataFrame, predictions: pd.DataFrame, first: date, last: date
) -> DailyMetrics:
    """Metrics of the outcomes whose label time falls on ``first`` to ``last``, both included (UTC days).

    For each entity, the last live prediction made before its label time is used; without one, the last backtested
    prediction. Shadow predictions are ignored. The result does not depend on the order of rows, or on rows of other
    days or entities: a later computation for the same days gives the same result bit for bit.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    outcomes : DataFrame
        ``entity_id`` (unique), ``label_time``, ``label``.
    predictions : DataFrame
        ``entity_id``, ``predicted_at``, ``value``, ``lower``, ``upper``, ``baseline``, ``version``, ``origin``.
    """
    entities, label_time, label = _matured(outcomes, first, last)
    used, entity = _last_before_label(entities, label_time, predictions)
    value, lower, upper, baseline = (
        predictions[name].to_numpy(np.float64, na_value=np.nan)[used]
        for name in ("value", "lower", "upper", "baseline")
    )
    label = label[entity]
    metrics = evaluate(spec.task, label, value, lower, upper) | business_metrics(spec, label, value, baseline)
    of_baseline = evaluate(spec.task, label, baseline) | business_metrics(spec, label, baseline, baseline)
    origins = predictions["origin"].to_numpy(object)[used]
    versions = predictions["version"].to_numpy()[used]
    loss = losses(spec.task, label, value)
    standard_error = float(loss.std(ddof=1) / np.sqrt(len(loss))) if len(loss) > 1 else None
    headline, reference = metrics[spec.headline_metric], of_baseline[spec.headline_metric]
    return DailyMetrics(
        outcomes=len(entities),
        evaluated=len(used),
        completeness=len(used) / len(entities) if len(entities) else None,
        metric=spec.headline_metric,
        value=headline,
        baseline_value=reference,
        skill=1 - headline / reference if headline is not None and reference else None,
        version=int(versions.max()) if len(used) else None,
        origin="backtest" if len(used) and not (origins == "live").any() else "live",
        metrics=metrics
        | {f"baseline_{name}": number for name, number in of_baseline.items()}
        | {"standard_error": standard_error},
    )


def lacks_predictions(report: DailyMetrics, needed: float) -> bool:
    """Whether the share of outcomes with a prediction is significantly below ``needed`` (binomial test at 5%).

    For example, one outcome without a prediction is not significant; five, if half is needed, are.
    """
    from scipy.special import bdtr

    return report.outcomes > 0 and bool(bdtr(report.evaluated, report.outcomes, needed) <= 0.05)


def scored_outcomes(
    task: Literal["regression", "binary"], outcomes: pd.DataFrame, predictions: pd.DataFrame
) -> pd.DataFrame:
    """One row per matured outcome with a prediction made before it, with the prediction and its loss.

    :func:`window_metrics` describes which prediction is used. Outcomes without a label or a time, and predictions
    without a finite value, are left out. If an entity has several outcomes, the one known first is used, and the
    smallest of those known at the same time, so that the result is reproducible.

    Parameters
    ----------
    task : {"regression", "binary"}
        Determines the loss: absolute error, or squared error of a probability.
    outcomes, predictions : DataFrame
        As in :func:`window_metrics`; ``event_time`` of the outcomes is kept if present.

    Returns
    -------
    DataFrame
        ``entity_id``, ``label_time``, ``label``, ``predicted_at``, ``value``, ``lower``, ``upper``, ``baseline``,
        ``version``, ``origin``, ``loss``, ``baseline_loss`` (not finite if the baseline is not) and, if given,
        ``event_time``; sorted by label time and entity.
    """
    known = outcomes[outcomes["label"].notna() & outcomes["label_time"].notna()]
    known = known.sort_values(["label_time", "entity_id", "label"]).drop_duplicates("entity_id")
    made = predictions[np.isfinite(predictions["value"].to_numpy(np.float64, na_value=np.nan))]
    used, entity = _last_before_label(known["entity_id"].to_numpy(object), _times(known["label_time"]), made)
    kept = [name for name in ("entity_id", "label_time", "label", "event_time") if name in known]
    scored = known[kept].iloc[entity].reset_index(drop=True)
    names = ["predicted_at", "value", "lower", "upper", "baseline", "version", "origin"]
    scored[names] = made[names].iloc[used].reset_index(drop=True)
    label = scored["label"].to_numpy(np.float64)
    for name, prediction in (("loss", "value"), ("baseline_loss", "baseline")):
        scored[name] = losses(task, label, scored[prediction].to_numpy(np.float64, na_value=np.nan))
    return scored


def _matured(outcomes: pd.DataFrame, first: date, last: date) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entity, label time and label of the days' outcomes, sorted by entity, because float sums depend on order."""
    start, end = np.datetime64(first, "us"), np.datetime64(last, "us") + np.timedelta64(1, "D")
    time = _times(outcomes["label_time"])
    matured = np.flatnonzero((time >= start) & (time < end))
    entities = outcomes["entity_id"].to_numpy(object)[matured]
    order = np.argsort(entities)
    return entities[order], time[matured][order], outcomes["label"].to_numpy(np.float64)[matured][order]


def _last_before_label(
    entities: np.ndarray, label_time: np.ndarray, predictions: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the predictions to use and of their entities, in the order of the entities."""
    position = {entity: at for at, entity in enumerate(entities)}
    entity = np.array([position.get(name, -1) for name in predictions["entity_id"].to_numpy(object)], dtype=np.intp)
    origin = predictions["origin"].to_numpy(object)
    predicted = _times(predictions["predicted_at"])
    known = np.append(label_time, np.datetime64("NaT"))[entity]  # -1 (no outcome) gives NaT
    live = origin == "live"
    candidates = np.flatnonzero((predicted < known) & (live | (origin == "backtest")))
    version = predictions["version"].to_numpy()[candidates]
    order = np.lexsort((version, predicted[candidates], live[candidates], entity[candidates]))
    ordered = candidates[order]
    is_last = np.diff(entity[ordered], append=-1) != 0
    return ordered[is_last], entity[ordered][is_last]


def _times(column: pd.Series) -> np.ndarray:
    return np.asarray(column.array.as_unit("us").asi8.view("datetime64[us]"))
