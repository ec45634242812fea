"""Calibration drift: probabilities and intervals compared with the outcomes of a window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ml_pipeline.stats import Floats

TOLERANCE = 0.05  # gap that is ignored: 5 points of the share of positives, or of coverage


@dataclass(frozen=True)
class Calibration:
    """Expected and observed share or coverage in a window; every field is a JSON value."""

    kind: Literal["positive_share", "interval_coverage"]
    outcomes: int
    expected: float
    observed: float
    p_value: float  # probability of such a gap beyond the tolerance if the predictions are calibrated
    drifted: bool


def of_probabilities(label: Floats, probability: Floats, false_alarms: float) -> Calibration | None:
    """Two-sided test of the mean probability against the share of ones (calibration in the large).

    The number of ones is a sum of independent trials with unequal probabilities. Its normal approximation with
    continuity correction is compared with the nearer end of the tolerance around the expected number.
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
    """One-sided binomial test of interval coverage below the nominal coverage minus the tolerance."""
    from scipy.special import bdtr

    known = np.isfinite(lower) & np.isfinite(upper)
    n = int(known.sum())
    if not n:
        return None
    inside = int(((lower <= label) & (label <= upper))[known].sum())
    p_value = float(bdtr(inside, n, max(nominal - TOLERANCE, 0.0)))
    return Calibration("interval_coverage", n, nominal, inside / n, p_value, p_value <= false_alarms)
