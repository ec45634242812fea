"""The walk through time: rows are predicted by the weighted experts, and matured outcomes move the weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ml_pipeline.training.online.timeline import Asked
from ml_pipeline.training.online.weights import Weights, gains

DECIMALS = 12  # of probabilities: a row that is predicted alone gets the same as among others
SCALE_OUTCOMES = 200  # the newest known outcomes whose mean absolute deviation is the scale of the gains


@dataclass(frozen=True, eq=False)
class Forecasts:
    """What the experts say about each row.

    ``cumulative`` is float64 (rows, experts, values); ``awake`` says which experts made a forecast (rows, experts).
    """

    cumulative: np.ndarray
    awake: np.ndarray

    @classmethod
    def of(cls, probabilities: list[np.ndarray]) -> Forecasts:
        """From the experts' probabilities (rows, values), NaN where an expert sleeps."""
        stacked = np.stack(probabilities, axis=1)
        awake = ~np.isnan(stacked[:, :, 0])
        cumulative = np.minimum(np.cumsum(np.where(awake[:, :, None], stacked, 0), axis=2), 1.0)
        cumulative[:, :, -1] = 1.0
        return cls(cumulative, awake)


@dataclass(frozen=True, eq=False)
class Walked:
    """Mixture of each row (rows, values), the experts' weights in it (rows, experts), and the weights afterwards."""

    mixture: np.ndarray
    share: np.ndarray
    weights: Weights


def walk(
    weights: Weights, forecasts: Forecasts, grid: np.ndarray, asked: Asked, order: np.ndarray, until: int
) -> Walked:
    """Predict rows and learn from their outcomes, night by night.

    Each night, the weights first learn from the outcomes that became known, then the rows that arrived are predicted.

    Parameters
    ----------
    weights
        State before the first night.
    forecasts
        What the experts say about each row.
    grid
        Values of the distributions, ascending.
    asked
        The rows with their nights and outcomes.
    order
        Positions of the rows to learn from, in the order in which their outcomes became known. A row whose outcome was
        known when it arrived teaches nothing, because no forecast came before it.
    until
        The last night: the weights afterwards include what was known then.
    """
    mixture, share = np.empty((len(asked.night), len(grid))), np.empty(forecasts.awake.shape)
    order = order[asked.outcome_night[order] > asked.night[order]]
    ordered_nights, gaps = asked.outcome_night[order], np.diff(grid)
    by_night = np.argsort(asked.night, kind="stable")
    nights, starts = np.unique(asked.night[by_night], return_index=True)
    learnt = 0

    def learn(weights: Weights, night: int) -> tuple[Weights, int]:
        known = int(np.searchsorted(ordered_nights, night, side="right"))
        for row in order[learnt:known]:
            happened = np.arange(len(grid)) >= asked.position[row]
            gained = gains(forecasts.cumulative[row], mixture[row], forecasts.awake[row], happened, gaps)
            weights = weights.updated(gained / asked.scale[row])
        return weights, known

    for night, rows in zip(nights, np.split(by_night, starts[1:]), strict=True):
        weights, learnt = learn(weights, night)
        share[rows] = weights.among(forecasts.awake[rows])
        mixture[rows] = (share[rows][:, :, None] * forecasts.cumulative[rows]).sum(axis=1).round(DECIMALS)
    return Walked(mixture, share, learn(weights, until)[0])


def scales(labels: np.ndarray, before: int = 0) -> np.ndarray:
    """For each label from position ``before`` on, the scale of the gains that it gives.

    It is the mean absolute deviation from the median of the newest 200 labels up to it, 1 where they are all equal.
    """
    found = np.ones(len(labels) - before)
    for number in range(before, len(labels)):
        newest = labels[max(number + 1 - SCALE_OUTCOMES, 0) : number + 1]
        found[number - before] = np.abs(newest - np.median(newest)).mean() or 1.0
    return found
