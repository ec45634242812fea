"""Backtest with rolling origins: out-of-sample predictions for past entities by models trained at regular times."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ml_pipeline.features.temporal.windows import training_window
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.online.fit import fit_mixture
from ml_pipeline.training.selection.model_selection import select_model
from ml_pipeline.training.splits import known_before, oldest_first, time_split
from ml_pipeline.training.trained import with_interval

CALIBRATION_SHARE = 0.2
_EPOCH = pd.Timestamp("1970-01-01", tz="UTC")
_COLUMNS = ["entity_id", "event_time", "predicted_at", "value", "lower", "upper", "baseline", "origin_time"]


def origin(event_time: pd.Timestamp, every_days: int) -> pd.Timestamp:
    """Last point at or before ``event_time`` on a grid of ``every_days`` days that starts on 1970-01-01 in UTC.

    The grid is fixed, so that the predictions for a day do not depend on the requested range of days.

    >>> origin(pd.Timestamp("2020-01-31 12:00", tz="UTC"), 28)
    Timestamp('2020-01-23 00:00:00+0000', tz='UTC')
    """
    step = pd.Timedelta(days=every_days)
    return _EPOCH + (event_time - _EPOCH) // step * step


def rolling_origin(spec: ModelSpec, frame: pd.DataFrame, start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    """Backtest predictions for the entities of all origins whose period overlaps [start, end).

    At each origin, the rows of the training window whose label was known are split in time. The model is fitted on the
    older four fifths; the newest fifth selects between model and baseline and gives the prediction interval. It is not
    refitted on the newest fifth, so these predictions are slightly worse than those of a trained version. A mixture is
    fitted as in a training. All entities
    from one origin to the next, open or matured, are predicted at their event time.

    Parameters
    ----------
    spec
        The model.
    frame
        Feature frame of the tenant.
    start, end
        Aware times.

    Returns
    -------
    DataFrame
        Oldest first, with the columns entity_id, event_time, predicted_at (equal to the event time), value, lower,
        upper, baseline (in the reported unit, or probabilities) and origin_time. Origins with fewer than
        ``spec.training.min_rows`` known labels have no rows.
    """
    step = pd.Timedelta(days=spec.monitoring.backtest_days)
    moment = origin(start, spec.monitoring.backtest_days)
    parts = []
    while moment < end:
        entities = frame[(frame["event_time"] >= moment) & (frame["event_time"] < moment + step)]
        model = _fit_at(spec, frame, moment) if len(entities) else None
        if model is not None:
            keys = entities[["entity_id", "event_time"]].assign(predicted_at=entities["event_time"], origin_time=moment)
            parts.append(pd.concat([keys, model.predict(entities, frame)], axis=1)[_COLUMNS])
        moment += step
    return pd.concat(parts, ignore_index=True) if parts else _no_predictions(frame)


def _fit_at(spec: ModelSpec, frame: pd.DataFrame, moment: pd.Timestamp) -> FittedModel | None:
    known = frame[(frame["state"] == "matured") & (frame["label_time"] < moment)]
    rows, _ = training_window(spec, known, moment)
    if len(rows) < spec.training.min_rows:
        return None
    baseline = float(rows["label"].median() if spec.task == "regression" else rows["label"].mean())
    if spec.training.is_mixture:
        split = time_split(rows, spec.training.validation_share, spec.training.test_share)
        fitted = fit_mixture(spec, rows, split, moment, spec.training.seed)
        return FittedModel.of(spec, spec.training.ensemble, fitted.mixture, baseline)
    order = oldest_first(rows)
    first_held_out = len(rows) - round(len(rows) * CALIBRATION_SHARE)
    held_out = rows.iloc[order[first_held_out:]]
    train_rows = rows.iloc[known_before(rows, order[:first_held_out], held_out["event_time"].iloc[0])]
    selection = select_model(spec, train_rows, held_out, spec.training.seed)
    return with_interval(
        spec, FittedModel.of(spec, selection.selected, selection.predictor, baseline), held_out, selection.predictor
    )


def _no_predictions(frame: pd.DataFrame) -> pd.DataFrame:
    times = frame["event_time"].iloc[:0]
    numbers = {name: np.empty(0) for name in ("value", "lower", "upper", "baseline")}
    columns = {"entity_id": frame["entity_id"].iloc[:0], "event_time": times, "predicted_at": times, **numbers}
    return pd.DataFrame(columns | {"origin_time": times}).reset_index(drop=True)
