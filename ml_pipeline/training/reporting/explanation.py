"""Why a version predicts what it predicts: each feature's contribution to each prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ml_pipeline.specs.names import own_feature
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.selection.model_selection import PRIOR
from ml_pipeline.training.selection.predictors import (
    Baseline,
    Ensemble,
    Member,
    Scale,
    from_scale,
    middle,
    offset_of,
    to_scale,
    wanted,
)
from ml_pipeline.training.selection.probability_calibration import Calibration

OFFSET, CALIBRATION, RANGE = "offset", "calibration", "range"


@dataclass(frozen=True, eq=False)
class _Explained:
    """A member's answer per row: where it starts from, and what each column adds (float64, rows x columns).

    Both are in the reported unit, or in log odds.
    """

    names: tuple[str, ...]
    start: np.ndarray
    added: np.ndarray


def contributions(model: FittedModel, frame: pd.DataFrame) -> pd.DataFrame:
    """What each feature adds to each prediction: a row per row of the feature frame, same index, float64.

    A row sums, to the rounding of the boosters' single precision, to the prediction: the ``value`` of
    ``model.predict`` in the reported unit for a regression, its log odds for a binary model. Columns:

    - ``offset``: what is answered before any feature speaks. It holds the members' offsets (the median of the training
      labels, or the row's own ``history_recent_median``) and what their learners add on average; a constant is all
      offset.
    - One for each feature of the specification, 0 where nothing of it is used: the words of a text, the levels of a
      category and the flag of missing values are summed. ``is_outlier``, which stems from all numbers, is by itself.
    - The name of a candidate that explains no single prediction (the trees of scikit-learn), where it is a member: all
      that it adds to its offset, unattributed.
    - ``calibration``: what an isotonic calibration adds to the log odds. The other methods are linear in them, so each
      contribution has their slope, and their intercept is in the offset.
    - ``range``, only where a value is moved to an end of the label's range: by how much.

    Boosters give the Shapley values of their trees (Lundberg et al. 2020), linear models those of a linear function:
    the coefficient times the departure from the training mean. Members combine as their answers do: in a weighted
    median the one or two of the middle, interpolated, else all by weight. What a member on the log scale adds in the
    reported unit is shared out in proportion to the contributions in logarithms, so one factor a row turns these into
    those. A contribution says what the model makes of a value, not what would happen if the value were changed.
    """
    predictor, columns = model.predictor, _Columns(len(frame))
    if isinstance(predictor, Baseline):
        value = np.full(len(frame), predictor.value)
        columns.add(OFFSET, _log_odds(value) if in_log_odds(model) else value)
    else:
        _add_members(columns, predictor, frame)
        if predictor.calibration is not None:
            _calibrate(columns, predictor.calibration)
    if not in_log_odds(model):
        _move_into_range(columns, model)
    return pd.DataFrame(columns.values, index=frame.index)


def in_log_odds(model: FittedModel) -> bool:
    """Whether the model's contributions are in log odds: it answers with a probability."""
    predictor = model.predictor
    return model.candidate == PRIOR if isinstance(predictor, Baseline) else predictor.is_classifier


def words(model: FittedModel, frame: pd.DataFrame) -> list[dict[str, float]]:
    """Of each row's text the terms that the linear members weigh, with what each adds to the prediction.

    They are a part of the feature ``text``, which also holds the terms that the row lacks and what other members make
    of the text. Empty without a linear member that reads text.
    """
    found: list[dict[str, float]] = [{} for _ in range(len(frame))]
    ensemble = model.predictor
    if isinstance(ensemble, Baseline) or "linear" not in ensemble.preprocessors:
        return found
    preprocessor = ensemble.preprocessors["linear"]
    if preprocessor.vectorizer is None:
        return found
    terms = preprocessor.vectorizer.get_feature_names_out()
    slope = 1.0 if ensemble.calibration is None else ensemble.calibration.slope
    matrices = ensemble.matrices(frame)
    present = matrices["linear"][:, -len(terms) :].tocoo()  # a text's columns are the last
    for member, share in zip(ensemble.members, _shares(ensemble, frame, matrices).T, strict=True):
        if member.candidate == "linear":
            added = _explained(member, ensemble, frame, matrices).added[:, -len(terms) :]
            for row, term in zip(present.row.tolist(), present.col.tolist(), strict=True):
                name, amount = str(terms[term]), float(slope * share[row] * added[row, term])
                found[row][name] = found[row].get(name, 0.0) + amount
    return found


class _Columns:
    """Named columns that start at 0 and are added to."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.values: dict[str, np.ndarray] = {OFFSET: np.zeros(rows)}

    def add(self, name: str, amount: np.ndarray | float) -> None:
        self.values[name] = self.values.get(name, np.zeros(self.rows)) + amount

    @property
    def total(self) -> np.ndarray:
        return np.sum(list(self.values.values()), axis=0)


def _add_members(columns: _Columns, ensemble: Ensemble, frame: pd.DataFrame) -> None:
    features = {name for preprocessor in ensemble.preprocessors.values() for name in preprocessor.columns.all}
    for preprocessor in ensemble.preprocessors.values():
        for name in preprocessor.columns.all:
            columns.add(name, 0.0)
    matrices = ensemble.matrices(frame)
    for member, share in zip(ensemble.members, _shares(ensemble, frame, matrices).T, strict=True):
        if share.any():
            explained = _explained(member, ensemble, frame, matrices)
            columns.add(OFFSET, share * explained.start)
            for name, added in zip(explained.names, explained.added.T, strict=True):
                columns.add(own_feature(name, features), share * added)


def _shares(ensemble: Ensemble, frame: pd.DataFrame, matrices: Mapping[str, Any]) -> np.ndarray:
    """How much of each member's value is in each row's answer: float64, rows x members, rows summing to 1."""
    shape = (len(frame), len(ensemble.members))
    if ensemble.is_classifier or ensemble.combine == "mean":
        return np.broadcast_to(ensemble.weights, shape)
    values = np.column_stack([ensemble.value_of(member, frame, matrices) for member in ensemble.members])
    low, high, share = middle(values, ensemble.weights)
    shares, rows = np.zeros(shape), np.arange(len(frame))
    shares[rows, low] += 1 - share
    shares[rows, high] += share
    return shares


def _explained(member: Member, ensemble: Ensemble, frame: pd.DataFrame, matrices: Mapping[str, Any]) -> _Explained:
    start = offset_of(member, frame, ensemble.median)
    names: tuple[str, ...] = ()
    added = np.zeros((len(frame), 0))
    if member.learner is not None:
        matrix = matrices[wanted(member)]
        found = member.learner.contributions(matrix)
        if found is None:
            names, added = (member.candidate,), member.learner.margin(matrix)[:, None]
        else:
            names, added = ensemble.preprocessors[wanted(member)].features, found[:, :-1]
            start = start + found[:, -1]
    ceiling = to_scale(np.float64(ensemble.ceiling), member.scale)
    beyond = np.maximum(start - ceiling, 0)
    start = start - beyond
    total = added.sum(axis=1)
    reached = np.minimum(total + beyond, ceiling - start)
    factor = _reported_per_unit(start, total, reached, member.scale)
    return _Explained(names, from_scale(start, member.scale), added * factor[:, None])


def _reported_per_unit(start: np.ndarray, total: np.ndarray, reached: np.ndarray, scale: Scale) -> np.ndarray:
    """What one unit of the member's scale adds in the reported unit.

    On the way from ``start`` it is ``reached`` that is added of ``total``, which is less where the ceiling cuts it off.
    On the log scale that is the slope of a secant, and of the tangent where the contributions cancel out.
    """
    slope = np.exp(start) if scale == "log" else np.ones_like(start)
    gained = slope * np.expm1(reached) if scale == "log" else reached
    return np.divide(gained, total, out=slope, where=total != 0)


def _calibrate(columns: _Columns, calibration: Calibration) -> None:
    total = columns.total
    if calibration.method == "isotonic":
        columns.add(CALIBRATION, _log_odds(calibration.probability(total)) - total)
        return
    columns.values = {name: calibration.slope * amount for name, amount in columns.values.items()}
    columns.add(OFFSET, calibration.intercept)


def _move_into_range(columns: _Columns, model: FittedModel) -> None:
    total = columns.total
    moved = np.clip(total, model.at_least, model.at_most) - total
    if moved.any():
        columns.add(RANGE, moved)


def _log_odds(probability: np.ndarray) -> np.ndarray:
    from scipy.special import logit

    return logit(probability)
