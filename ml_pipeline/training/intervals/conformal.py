"""Prediction intervals by split conformal prediction, and the probability that an outcome is near its prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ml_pipeline.training.selection.predictors import Scale, from_scale, to_scale

MOST_RESIDUALS = 400
NEAR = 0.2  # an outcome is near its prediction if it differs by at most this share of the prediction


@dataclass(frozen=True)
class Interval:
    """Offsets that are added to a prediction on ``scale`` to get the ends of its interval."""

    scale: Scale
    below: float
    above: float

    def around(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end of the interval around each value, in the reported unit."""
        centre = to_scale(value, self.scale)
        return from_scale(centre + self.below, self.scale), from_scale(centre + self.above, self.scale)


def residuals_of(label: np.ndarray, value: np.ndarray, scale: Scale) -> np.ndarray:
    """Label minus prediction on ``scale``, float64 per row."""
    residuals: np.ndarray = to_scale(label, scale) - to_scale(value, scale)
    return residuals


def conformal_interval(residuals: np.ndarray, coverage: float, scale: Scale) -> Interval:
    """Interval that covers a new label with probability ``coverage``, from residuals of rows not trained on.

    Split conformal prediction with one quantile of the signed residuals at each end (Lei et al. 2018; separate tails
    after Romano et al. 2019). It needs no distribution assumption and is exact if new rows are exchangeable with these
    rows, which does not hold under drift. On the log scale the width grows with the prediction. With fewer rows than
    the exact quantile needs (19 for 0.9), the extreme residual is used and the interval is too narrow.

    >>> conformal_interval(np.arange(-9.0, 10.0), coverage=0.9, scale="identity")
    Interval(scale='identity', below=-9.0, above=9.0)
    """
    ordered = np.sort(residuals)
    rows = len(ordered)
    rank = max(math.floor((rows + 1) * (1 - coverage) / 2 + 1e-9), 1)
    return Interval(scale, below=float(ordered[rank - 1]), above=float(ordered[rows - rank]))


def kept_residuals(residuals: np.ndarray) -> tuple[float, ...]:
    """The residuals in ascending order; if there are more than 400, 400 evenly spaced ones including both extremes."""
    ordered = np.sort(residuals)
    if len(ordered) > MOST_RESIDUALS:
        ordered = ordered[np.linspace(0, len(ordered) - 1, MOST_RESIDUALS).round().astype(int)]
    return tuple(ordered.tolist())


def near_share(value: np.ndarray, residuals: np.ndarray, scale: Scale) -> np.ndarray:
    """Estimated probability that the outcome is within 20% of each prediction.

    It is the share of the ascending ``residuals`` with which the outcome would be that near. As for the interval, the
    residuals represent the distribution of new residuals: the result is one minus the conformal p-value of a larger
    error, without the correction for small samples (Vovk et al. 2005). It differs between predictions, because 20% of a
    prediction is a different distance on ``scale``.

    >>> near_share(np.array([1.0, 10.0]), np.array([-3.0, -1.0, 0.0, 1.0]), "identity").tolist()
    [0.25, 0.75]
    """
    centre, reach = to_scale(value, scale), NEAR * np.abs(value)
    rounding = 1e-12 * (1 + np.abs(centre))
    first = np.searchsorted(residuals, to_scale(value - reach, scale) - centre - rounding, side="left")
    after = np.searchsorted(residuals, to_scale(value + reach, scale) - centre + rounding, side="right")
    share: np.ndarray = (after - first) / len(residuals)
    return share
