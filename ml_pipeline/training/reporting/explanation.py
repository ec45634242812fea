"""Explanation of predictions: the contribution of each feature to each prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ml_pipeline.specs.names import own_feature
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.online.explanation import OFFSET, expert_contributions
from ml_pipeline.training.online.mixture import Mixture
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

CALIBRATION, RANGE = "calibration", "range"


@dataclass(frozen=True, eq=False)
class _Explained:
    """A member's prediction per row: its start value, and what each column adds (float64, rows x columns).

    Both are in the reported unit, or in log odds for a binary model.
    """

    names: tuple[str, ...]
    start: np.ndarray
    added: np.ndarray


def contributions(model: FittedModel, frame: pd.DataFrame, history: pd.DataFrame | None = None) -> pd.DataFrame:
    """What each feature adds to each prediction, one row per row of the feature frame, with its index, float64.

    Each row sums to the prediction, up to the single-precision rounding of the boosters: to ``value`` of
    ``model.predict`` for a regression or a mixture, to its log odds for another binary model. Columns:

    - ``offset``: the prediction before any feature is considered. It contains the members' offsets (the median of the
      training labels, or the row's own ``history_recent_median``) and the average output of their learners. For a
      baseline it is the whole prediction.
    - One per feature of the specification, 0 if the model does not use it. The words of a text, the levels of a
      category and the missing-value flag are summed. ``is_outlier`` has its own column, because it depends on all
      numeric features.
    - The name of a member that cannot explain single predictions (scikit-learn's trees): everything it adds to its
      offset.
    - ``calibration``: what an isotonic calibration adds to the log odds. Other methods are linear in the log odds:
      their slope multiplies each contribution and their intercept is part of the offset.
    - ``expert:<name>``, for a mixture instead of the features: weight of the expert, times the distance of its own
      prediction from the offset, which is that of the training labels. ``experts:together`` is the rest: the median of
      a mixture is not the mean of the medians.
    - ``range``: the shift of values clipped to the label's range, only if there are any.

    Boosters give the Shapley values of their trees (Lundberg et al. 2020), linear models the coefficient times the
    distance from the training mean. Members are combined in the same way as their predictions: a weighted median takes
    the one or two members in the middle, a weighted mean all members. For a member on the log scale, the effect in the
    reported unit is distributed in proportion to the contributions on the log scale. A contribution describes how the
    model uses a value, not what would happen if the value changed.

    Parameters
    ----------
    model
        The version.
    frame
        Feature frame with the entities to explain.
    history
        As for ``model.predict``.

    Raises
    ------
    ValueError
        If the frame lacks a column that the version was trained with.
    """
    predictor, columns = model.predictor, _Columns(len(frame))
    if isinstance(predictor, Baseline):
        value = np.full(len(frame), predictor.value)
        columns.add(OFFSET, _log_odds(value) if in_log_odds(model) else value)
    elif isinstance(predictor, Mixture):
        for name, amount in expert_contributions(predictor, frame, history).items():
            columns.add(name, amount)
    else:
        columns.add_members(predictor, frame)
        if predictor.calibration is not None:
            columns.calibrate(predictor.calibration)
    if not in_log_odds(model):
        columns.move_into_range(model)
    return pd.DataFrame(columns.values, index=frame.index)


def in_log_odds(model: FittedModel) -> bool:
    """Whether the contributions are in log odds, because the model predicts a probability."""
    predictor = model.predictor
    if isinstance(predictor, Baseline):
        return model.candidate == PRIOR
    return isinstance(predictor, Ensemble) and predictor.is_classifier


def words(model: FittedModel, frame: pd.DataFrame) -> list[dict[str, float]]:
    """For each row, the terms in its text that linear members use, with what each adds to the prediction.

    They are a part of the contribution of the feature ``text``, which also includes terms that the row lacks and the
    effect of the text in other members. Empty without a linear member that uses text.
    """
    found: list[dict[str, float]] = [{} for _ in range(len(frame))]
    ensemble = model.predictor
    if not isinstance(ensemble, Ensemble) or "linear" not in ensemble.preprocessors:
        return found
    preprocessor = ensemble.preprocessors["linear"]
    if preprocessor.vectorizer is None:
        return found
    terms = preprocessor.vectorizer.get_feature_names_out()
    slope = 1.0 if ensemble.calibration is None else ensemble.calibration.slope
    matrices = ensemble.matrices(frame)
    present = matrices["linear"][:, -len(terms) :].tocoo()  # the text columns are the last
    for member, share in zip(ensemble.members, _shares(ensemble, frame, matrices).T, strict=True):
        if member.candidate == "linear":
            added = _explained(member, ensemble, frame, matrices).added[:, -len(terms) :]
            for row, term in zip(present.row.tolist(), present.col.tolist(), strict=True):
                name, amount = str(terms[term]), float(slope * share[row] * added[row, term])
                found[row][name] = found[row].get(name, 0.0) + amount
    return found


class _Columns:
    """Named columns that start at 0 and accumulate amounts."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.values: dict[str, np.ndarray] = {OFFSET: np.zeros(rows)}

    def add(self, name: str, amount: np.ndarray | float) -> None:
        self.values[name] = self.values.get(name, np.zeros(self.rows)) + amount

    @property
    def total(self) -> np.ndarray:
        return np.asarray(np.sum(list(self.values.values()), axis=0))

    def add_members(self, ensemble: Ensemble, frame: pd.DataFrame) -> None:
        features = {name for preprocessor in ensemble.preprocessors.values() for name in preprocessor.columns.all}
        for preprocessor in ensemble.preprocessors.values():
            for name in preprocessor.columns.all:
                self.add(name, 0.0)
        matrices = ensemble.matrices(frame)
        for member, share in zip(ensemble.members, _shares(ensemble, frame, matrices).T, strict=True):
            if share.any():
                explained = _explained(member, ensemble, frame, matrices)
                self.add(OFFSET, share * explained.start)
                for name, added in zip(explained.names, explained.added.T, strict=True):
                    self.add(own_feature(name, features), share * added)

    def calibrate(self, calibration: Calibration) -> None:
        total = self.total
        if calibration.method == "isotonic":
            self.add(CALIBRATION, _log_odds(calibration.probability(total)) - total)
            return
        self.values = {name: calibration.slope * amount for name, amount in self.values.items()}
        self.add(OFFSET, calibration.intercept)

    def move_into_range(self, model: FittedModel) -> None:
        total = self.total
        moved = np.clip(total, model.at_least, model.at_most) - total
        if moved.any():
            self.add(RANGE, moved)


def _shares(ensemble: Ensemble, frame: pd.DataFrame, matrices: Mapping[str, Any]) -> np.ndarray:
    """Share of each member's value in each row's prediction: float64, rows x members, rows summing to 1."""
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
    """Effect in the reported unit of one unit on the member's scale.

    ``total`` is the sum of the contributions, ``reached`` the part that is added to ``start``, smaller if the ceiling
    limits it. On the log scale the result is the slope of the secant, or of the tangent if the contributions cancel.
    """
    slope = np.exp(start) if scale == "log" else np.ones_like(start)
    gained = slope * np.expm1(reached) if scale == "log" else reached
    effect: np.ndarray = np.divide(gained, total, out=slope, where=total != 0)
    return effect


def _log_odds(probability: np.ndarray) -> np.ndarray:
    from scipy.special import logit

    return np.asarray(logit(probability))
