"""Performance of one day: the outcomes that became known on it against the predictions made before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
import pandas as pd

from ml_pipeline.monitoring.metrics import Metrics, evaluate
from ml_pipeline.specs.model_spec import ModelSpec


@dataclass(frozen=True)
class DailyMetrics:
    """One tenant, model and day; every field can go into a database row as it is."""

    outcomes: int
    evaluated: int  # outcomes with a prediction from before their label time
    completeness: float | None  # evaluated / outcomes
    metric: str  # the headline metric of the model
    value: float | None
    baseline_value: float | None  # the same metric of the constant baseline
    skill: float | None  # 1 - value / baseline_value
    version: int | None  # the newest version among the predictions used; 0 is a backtest
    origin: Literal["live", "backtest"]  # backtest when no live prediction was used but backtested ones were
    metrics: Metrics  # all metrics of the task, those of the baseline as baseline_<name>


def daily_metrics(spec: ModelSpec, outcomes: pd.DataFrame, predictions: pd.DataFrame, day: date) -> DailyMetrics:
    """Metrics of the outcomes whose label time falls on ``day`` (UTC, midnight to midnight).

    Of each entity the last prediction made before its label time counts, a live one before any backtested one; shadow
    predictions do not. The result does not depend on the order of the rows given, nor on rows of other days or
    entities: computed afterwards, it equals what that day gave, bit for bit.

    Parameters
    ----------
    outcomes : DataFrame
        ``entity_id`` (unique), ``label_time``, ``label``.
    predictions : DataFrame
        ``entity_id``, ``predicted_at``, ``value``, ``lower``, ``upper``, ``baseline``, ``version``, ``origin``.
    """
    of_day = _of_day(outcomes, day)
    used, entity = _last_before_label(of_day, predictions)
    label = of_day["label"].to_numpy(np.float64)[entity]
    value, lower, upper, baseline = (
        predictions[name].to_numpy(np.float64, na_value=np.nan)[used]
        for name in ("value", "lower", "upper", "baseline")
    )
    metrics = evaluate(spec.task, label, value, lower, upper)
    of_baseline = evaluate(spec.task, label, baseline)
    origins = predictions["origin"].to_numpy(object)[used]
    versions = predictions["version"].to_numpy()[used]
    headline, reference = metrics[spec.headline_metric], of_baseline[spec.headline_metric]
    return DailyMetrics(
        outcomes=len(of_day),
        evaluated=len(used),
        completeness=len(used) / len(of_day) if len(of_day) else None,
        metric=spec.headline_metric,
        value=headline,
        baseline_value=reference,
        skill=1 - headline / reference if headline is not None and reference else None,
        version=int(versions.max()) if len(used) else None,
        origin="backtest" if len(used) and not (origins == "live").any() else "live",
        metrics=metrics | {f"baseline_{name}": number for name, number in of_baseline.items()},
    )


def _of_day(outcomes: pd.DataFrame, day: date) -> pd.DataFrame:
    """The day's outcomes in entity order, so that sums of floats do not depend on the order of the rows given."""
    start = np.datetime64(day, "us")
    time = _times(outcomes["label_time"])
    return outcomes[(time >= start) & (time < start + np.timedelta64(1, "D"))].sort_values("entity_id")


def _last_before_label(outcomes: pd.DataFrame, predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the predictions that count, and of their outcomes, both in the order of the outcomes."""
    entity = pd.Index(outcomes["entity_id"]).get_indexer(predictions["entity_id"])
    origin = predictions["origin"].to_numpy(object)
    predicted = _times(predictions["predicted_at"])
    known = np.append(_times(outcomes["label_time"]), np.datetime64("NaT"))[entity]  # -1, no outcome: NaT, never later
    live = origin == "live"
    candidates = np.flatnonzero((predicted < known) & (live | (origin == "backtest")))
    version = predictions["version"].to_numpy()[candidates]
    order = np.lexsort((version, predicted[candidates], live[candidates], entity[candidates]))
    ordered = candidates[order]
    is_last = np.diff(entity[ordered], append=-1) != 0
    return ordered[is_last], entity[ordered][is_last]


def _times(column: pd.Series) -> np.ndarray:
    return column.dt.tz_localize(None).to_numpy().astype("datetime64[us]")
