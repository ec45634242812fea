"""Out-of-sample predictions for the past: what versions trained at regular origins would have predicted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ml_pipeline.features.temporal.windows import training_window
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.selection.model_selection import select_model
from ml_pipeline.training.splits import known_before, oldest_first
from ml_pipeline.training.train import with_interval

CALIBRATION_SHARE = 0.2
_EPOCH = pd.Timestamp("1970-01-01", tz="UTC")
_COLUMNS = ["entity_id", "event_time", "predicted_at", "value", "lower", "upper", "baseline", "origin_time"]


def origin(event_time: pd.Timestamp, every_days: int) -> pd.Timestamp:
    """Last point at or before ``event_time`` on the grid of every ``every_days`` days since 1970-01-01, UTC.

    The grid is absolute, so that a day's predictions do not depend on which days are asked for together.

    >>> origin(pd.Timestamp("2020-01-31 12:00", tz="UTC"), 28)
    Timestamp('2020-01-23 00:00:00+0000', tz='UTC')
    """
    step = pd.Timedelta(days=every_days)
    return _EPOCH + (event_time - _EPOCH) // step * step


def rolling_origin(spec: ModelSpec, frame: pd.DataFrame, start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    """Predictions for the entities of every origin's interval that touches [start, end).

    At each origin, the training window's rows whose label was known before it are cut in time: the older four fifths
    are trained on, the newest fifth chooses between booster and constant and gives the interval. One fit an origin:
    nothing is refitted on the newest fifth, so these predictions are slightly worse than a version's would have been.
    All entities from the origin to the next are scored, open or matured, at their event time.

    ``frame`` is a feature frame; ``start`` and ``end`` are aware times. Returns entity_id, event_time, predicted_at
    (the event time), value, lower, upper, baseline, origin_time, oldest first. An origin with fewer than
    ``spec.training.min_rows`` known labels gives no rows.
    """
    step = pd.Timedelta(days=spec.monitoring.backtest_days)
    moment = origin(start, spec.monitoring.backtest_days)
    parts = []
    while moment < end:
        entities = frame[(frame["event_time"] >= moment) & (frame["event_time"] < moment + step)]
        model = _fit_at(spec, frame, moment) if len(entities) else None
        if model is not None:
            parts.append(_scored(model, entities, moment))
        moment += step
    return pd.concat(parts, ignore_index=True) if parts else _no_predictions(frame)


def _fit_at(spec: ModelSpec, frame: pd.DataFrame, moment: pd.Timestamp) -> FittedModel | None:
    known = frame[(frame["state"] == "matured") & (frame["label_time"] < moment)]
    rows, _ = training_window(spec, known, moment)
    if len(rows) < spec.training.min_rows:
        return None
    order = oldest_first(rows)
    first_held_out = len(rows) - round(len(rows) * CALIBRATION_SHARE)
    held_out = rows.iloc[order[first_held_out:]]
    train_rows = rows.iloc[known_before(rows, order[:first_held_out], held_out["event_time"].iloc[0])]
    selection = select_model(spec, train_rows, held_out, spec.training.seed)
    baseline = float(rows["label"].median() if spec.task == "regression" else rows["label"].mean())
    return with_interval(
        spec, FittedModel.of(spec, selection.winner, selection.predictor, baseline), held_out, selection.predictor
    )


def _scored(model: FittedModel, entities: pd.DataFrame, moment: pd.Timestamp) -> pd.DataFrame:
    return pd.concat([entities[["entity_id", "event_time"]], model.predict(entities)], axis=1).assign(
        predicted_at=entities["event_time"], origin_time=moment
    )[_COLUMNS]


def _no_predictions(frame: pd.DataFrame) -> pd.DataFrame:
    times = frame["event_time"].iloc[:0]
    numbers = {name: np.empty(0) for name in ("value", "lower", "upper", "baseline")}
    columns = {"entity_id": frame["entity_id"].iloc[:0], "event_time": times, "predicted_at": times, **numbers}
    return pd.DataFrame(columns | {"origin_time": times}).reset_index(drop=True)
