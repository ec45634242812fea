"""Predictors: a baseline, or an ensemble that combines the predictions of its members."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from ml_pipeline.features.encoding.preprocessing import Preprocessor
from ml_pipeline.training.learners.base import Learner
from ml_pipeline.training.selection.probability_calibration import Calibration

Scale = Literal["identity", "log"]
Offset = Literal["median", "recent", "none"]
OFFSET_COLUMN = "history_recent_median"


@dataclass(frozen=True)
class Baseline:
    """Predicts the same value for every entity."""

    value: float

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return np.full(len(frame), self.value)


@dataclass(frozen=True)
class Member:
    """One member of an ensemble: its prediction is an offset plus the output of a learner, on ``scale``.

    The offset is the median of the training labels, which is stable, or the row's own ``history_recent_median``, which
    follows a level that changes after training. Without a learner the prediction is the offset. A classifier has no
    offset: its margin is the log odds.
    """

    candidate: str
    offset: Offset
    scale: Scale = "identity"
    learner: Learner | None = None

    @property
    def name(self) -> str:
        return self.candidate if self.offset == "none" else f"{self.candidate} from {self.offset}"


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Weighted members; a single candidate is an ensemble of its own members.

    Regression: the weighted median of the members' values (``combine`` is ``median``), which is robust against one bad
    member, or their weighted mean. Binary: the weighted mean of the log odds, followed by the calibration.

    ``preprocessors`` is keyed by the kind of matrix that a learner takes; ``median`` is the median of the training
    labels. Values above ``ceiling`` are clipped, because a linear model of logarithms can predict huge values for an
    unusual row.
    """

    preprocessors: Mapping[str, Preprocessor]
    members: tuple[Member, ...]
    weights: np.ndarray
    combine: Literal["median", "mean"]
    median: float
    ceiling: float = np.inf
    calibration: Calibration | None = None

    @property
    def is_classifier(self) -> bool:
        return self.members[0].offset == "none"

    @property
    def rounds(self) -> int:
        """Largest number of trees of a member."""
        return max((member.learner.rounds for member in self.members if member.learner is not None), default=1)

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        """One float64 per row, in the reported unit, or a probability."""
        return self.combined(self.member_values(frame))

    def member_values(self, frame: pd.DataFrame) -> np.ndarray:
        """Float64, rows x members: each member's prediction in the reported unit, or its log odds."""
        matrices = self.matrices(frame)
        return np.column_stack([self.value_of(member, frame, matrices) for member in self.members])

    def matrices(self, frame: pd.DataFrame) -> dict[str, Any]:
        """The preprocessed matrices, by the kind of matrix."""
        return {kind: preprocessor.transform(frame) for kind, preprocessor in self.preprocessors.items()}

    def value_of(self, member: Member, frame: pd.DataFrame, matrices: Mapping[str, Any]) -> np.ndarray:
        """One member's column of :meth:`member_values`."""
        departure = 0.0 if member.learner is None else member.learner.margin(matrices[wanted(member)])
        scaled = offset_of(member, frame, self.median) + departure
        return from_scale(np.minimum(scaled, to_scale(np.float64(self.ceiling), member.scale)), member.scale)

    def combined(self, values: np.ndarray) -> np.ndarray:
        """The combined prediction, from the result of :meth:`member_values`."""
        if self.is_classifier:
            return calibrated(self.calibration, values @ self.weights)
        return weighted_median(values, self.weights) if self.combine == "median" else values @ self.weights

    def only(self, positions: Collection[int]) -> Ensemble:
        """The ensemble of the members at these positions, with their relative weights."""
        kept = sorted(positions)
        weights = self.weights[kept]
        members = tuple(self.members[position] for position in kept)
        needed = {wanted(member) for member in members if member.learner is not None}
        preprocessors = {kind: fitted for kind, fitted in self.preprocessors.items() if kind in needed}
        return replace(self, preprocessors=preprocessors, members=members, weights=weights / weights.sum())


Predictor = Baseline | Ensemble


def wanted(member: Member) -> str:
    """The kind of matrix that the member's learner takes."""
    from ml_pipeline.training.learners.base import wants

    return wants(member.candidate)


def offset_of(member: Member, frame: pd.DataFrame, median: float) -> np.ndarray:
    """Offset of a member in each row, on its scale; the median for rows without known outcomes."""
    match member.offset:
        case "none":
            return np.zeros(len(frame))
        case "median":
            return np.full(len(frame), to_scale(np.float64(median), member.scale))
        case "recent":
            return to_scale(frame[OFFSET_COLUMN].fillna(median).to_numpy(dtype="float64"), member.scale)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted median of each row, interpolated between the two values in the middle.

    >>> weighted_median(np.array([[1.0, 2.0, 9.0]]), np.array([1.0, 1.0, 1.0])).tolist()
    [2.0]
    """
    low, high, share = middle(values, weights)
    rows = np.arange(len(values))
    median: np.ndarray = values[rows, low] * (1 - share) + values[rows, high] * share
    return median


def middle(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row, the columns just below and above the weighted median, and the share of the upper one.

    The position of a value is the sum of the weights of smaller values plus half its own weight, as a share of all
    weights; the median is at position one half.
    """
    order = np.argsort(values, axis=1, kind="stable")
    sorted_weights = (weights / weights.sum())[order]
    position = np.cumsum(sorted_weights, axis=1) - sorted_weights / 2
    above = np.clip((position < 0.5).sum(axis=1), 0, values.shape[1] - 1)
    below = np.maximum(above - 1, 0)
    rows = np.arange(len(values))
    start, end = position[rows, below], position[rows, above]
    gap = np.where(end > start, end - start, 1.0)
    share = np.where(end > start, np.clip((0.5 - start) / gap, 0, 1), 1.0)
    return order[rows, below], order[rows, above], share


def calibrated(calibration: Calibration | None, log_odds: np.ndarray) -> np.ndarray:
    """Probabilities from log odds."""
    from scipy.special import expit

    return expit(log_odds) if calibration is None else calibration.probability(log_odds)


def to_scale(values: np.ndarray | np.float64, scale: Scale) -> np.ndarray:
    """Convert values from the reported unit to the scale that a learner predicts."""
    return np.asarray(np.log1p(values) if scale == "log" else values, dtype="float64")


def from_scale(values: np.ndarray, scale: Scale) -> np.ndarray:
    """The inverse of :func:`to_scale`."""
    return np.expm1(values) if scale == "log" else values
