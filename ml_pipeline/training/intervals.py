"""Prediction intervals by split conformal prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ml_pipeline.training.predictors import Scale, from_scale, to_scale


@dataclass(frozen=True)
class Interval:
    """What is added to a prediction on ``scale`` to get the ends of its interval."""

    scale: Scale
    below: float
    above: float

    def around(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end in the reported unit, per value."""
        centre = to_scale(value, self.scale)
        return from_scale(centre + self.below, self.scale), from_scale(centre + self.above, self.scale)


def conformal_interval(label: np.ndarray, value: np.ndarray, coverage: float, scale: Scale) -> Interval:
    """Interval that covers a new label with probability ``coverage``, from predictions of rows not trained on.

    Split conformal prediction with one quantile of the signed residuals at each end (Lei et al. 2018; Romano et al.
    2019 for the two tails apart): distribution-free, and exact when the rows to come are exchangeable with these, which
    a drift breaks. On the log scale the width grows with the prediction. With too few rows for the exact quantile
    (19 for 0.9) the extreme residual stands in, and the interval is too narrow.

    >>> labels = np.arange(1.0, 20.0)
    >>> conformal_interval(labels, np.full(19, 10.0), coverage=0.9, scale="identity")
    Interval(scale='identity', below=-9.0, above=9.0)
    """
    residuals = np.sort(to_scale(label, scale) - to_scale(value, scale))
    rows = len(residuals)
    rank = max(math.floor((rows + 1) * (1 - coverage) / 2 + 1e-9), 1)
    return Interval(scale, below=float(residuals[rank - 1]), above=float(residuals[rows - rank]))
