"""Weights of experts by Bernstein online aggregation (BOA, Wintenberger 2017) on the gradient of the CRPS.

BOA has no parameter to tune. The use of the gradient of the CRPS for distributions is by Berrisch and Ziel (2021), that
of experts that sometimes make no forecast by Gaillard, Stoltz and van Erven (2014).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Weights:
    """State of the aggregation: three float64 per expert.

    ``regret`` is the sum of each expert's gains over the mixture, less their second-order correction; ``squares`` the
    sum of the squared gains, ``largest`` the largest absolute gain. Gains are in units of the labels' scale.
    """

    regret: np.ndarray
    squares: np.ndarray
    largest: np.ndarray

    @classmethod
    def equal(cls, experts: int) -> Weights:
        """The start: equal weights."""
        return cls(np.zeros(experts), np.zeros(experts), np.zeros(experts))

    def among(self, awake: np.ndarray) -> np.ndarray:
        """The weight of each expert, with 0 for those that sleep: shape of ``awake``, booleans (..., experts)."""
        score = np.where(awake, self._rate() * self.regret, -np.inf)
        weight = np.exp(score - score.max(axis=-1, keepdims=True))
        return np.asarray(weight / weight.sum(axis=-1, keepdims=True))

    def updated(self, gains: np.ndarray) -> Weights:
        """The state after one outcome; ``gains`` is the gain of each expert over the mixture, 0 for a sleeping one."""
        largest = np.maximum(self.largest, np.abs(gains))
        squares = self.squares + gains**2
        after = Weights(self.regret, squares, largest)
        return Weights(self.regret + gains - after._rate() * gains**2, squares, largest)

    def _rate(self) -> np.ndarray:
        """Learning rate of each expert; 0 before its first gain."""
        seen = self.largest > 0
        largest, squares = np.where(seen, self.largest, 1.0), np.where(seen, self.squares, 1.0)
        rate = np.minimum(1 / (2 * largest), np.sqrt(np.log(len(self.regret)) / squares))
        return np.where(seen, rate, 0.0)


def gains(
    experts: np.ndarray, mixture: np.ndarray, awake: np.ndarray, happened: np.ndarray, gaps: np.ndarray
) -> np.ndarray:
    """Gain of each expert over the mixture for one outcome: the linearised difference of their CRPS.

    Parameters
    ----------
    experts
        Cumulative probabilities, float64 (experts, values).
    mixture
        Cumulative probabilities of the mixture, float64 (values).
    awake
        Whether each expert made a forecast.
    happened
        Whether the outcome is at most each value.
    gaps
        Distances between neighbouring values, float64 (values - 1).
    """
    gradient = 2 * (mixture - happened)[:-1] * gaps
    return np.where(awake, (mixture - experts)[:, :-1] @ gradient, 0.0)
