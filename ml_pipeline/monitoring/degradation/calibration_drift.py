"""Whether probabilities and intervals still mean what they say, on the outcomes of a window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ml_pipeline.monitoring.metrics import Floats

TOLERANCE = 0.05  # a gap that matters to nobody: 5 points of a share of positives, or of coverage


@dataclass(frozen=True)
class Calibration:
    """What was expected of the outcomes of a window and what was observed; every field can go into JSON."""

    kind: Literal["positive_share", "interval_coverage"]
    outcomes: int
    expected: float
    observed: float
    p_value: float  # chance of at least this gap beyond the tolerance if the predictions mean what they say
    drifted: bool


def of_probabilities(label: Floats, probability: Floats, false_alarms: float) -> Calibration | None:
    """Mean probability against the share of ones (calibration in the large), two-sided.

    The count of ones is a sum of independent trials of unequal chances; its normal approximation is taken with a
    continuity correction, against the nearer end of the tolerance around the expected count.
    """
    from scipy.special import ndtr

    n = len(label)
    if not n:
        return None
    expected, observed = float(probability.sum()), float(label.sum())
    spread = float(np.sqrt((probability * (1 - probability)).sum()))
    gap = abs(observed - expected) - TOLERANCE * n - 0.5
    p_value = 1.0 if gap <= 0 else float(2 * ndtr(-gap / spread)) if spread > 0 else 0.0
    return Calibration("positive_share", n, expected / n, observed / n, min(p_value, 1.0), p_value <= false_alarms)


def of_intervals(
    label: Floats, lower: Floats, upper: Floats, nominal: float, false_alarms: float
) -> Calibration | None:
    """Coverage of the prediction intervals against the nominal one less the tolerance (binomial test, too low only)."""
    from scipy.special import bdtr

    known = np.isfinite(lower) & np.isfinite(upper)
    n = int(known.sum())
    if not n:
        return None
    inside = int(((lower <= label) & (label <= upper))[known].sum())
    p_value = float(bdtr(inside, n, max(nominal - TOLERANCE, 0.0)))
    return Calibration("interval_coverage", n, nominal, inside / n, p_value, p_value <= false_alarms)
