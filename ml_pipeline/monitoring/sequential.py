"""When a stream of losses began to rise: a test that may be looked at every day, from the history up to that day alone.

Losses are replaced by exponential (Savage) scores of their ranks, so that neither their unit nor a heavy tail matters:
the scores are those of the locally most powerful rank test for a change of scale (Savage 1956), and of a 0/1 error
stream they leave the comparison of two shares. Every day of the history is tried as the first day of the change;
the outcomes since then are compared with those before under the permutation distribution of the score sum, whose tail
is taken from its first three moments (Pearson type III). The largest of these statistics is judged by the tail of
the maximum of a scanned, standardised random walk (James, James and Siegmund 1987, Biometrika 74, 71-83), which gives
the chance that a day on which nothing has changed shows as much. A day's chance held below ``a`` means at most
``a`` reported quiet days per stream-day, however often one looks, and no state from one day to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from ml_pipeline.monitoring.metrics import Floats

MIN_OUTCOMES = 20
MAX_LAG = 6  # days over which neighbouring days' means may move together
ALMOST_SYMMETRIC = 1e-3  # skewness below which the normal distribution's tail is taken
_OVERSHOOT = 0.583  # of a discrete random walk over a boundary, in steps (Siegmund 1985, 4.40)


@dataclass(frozen=True)
class Rise:
    """The most likely rise of the mean loss, and how often chance alone would show as much; all JSON-safe."""

    alarm: bool
    p_value: float  # chance that a day on which nothing changed shows at least this evidence
    since: date | None  # first day of the most likely change; None where nothing can be compared
    z: float  # its statistic, in standard deviations of the permutation distribution
    before: int  # outcomes before it
    after: int  # outcomes from it on
    overdispersion: float  # variance of a day's mean over what independent outcomes would give, at least 1


NOTHING_TO_COMPARE = Rise(False, 1.0, None, 0.0, 0, 0, 1.0)


def rise(
    losses: Floats,
    days: NDArray[np.datetime64],
    *,
    false_alarms: float = 0.001,
    min_outcomes: int = MIN_OUTCOMES,
    first: date | None = None,
) -> Rise:
    """Whether the losses have risen since some day, as it can be said at the end of the last one.

    Days on which outcomes come in worse together (a day effect, or neighbouring days alike) widen the permutation
    distribution: by the variance of the day means before the change, with Bartlett weights up to a week's distance.

    Parameters
    ----------
    losses : array of float
        Non-negative, finite, in the order of ``days``.
    days : array of datetime64[D]
        Day of each loss, not falling.
    false_alarms : float
        Share of quiet days on which an alarm may be given: 0.001 is one per 1,000 stream-days.
    min_outcomes : int
        Least outcomes on either side of a change.
    first : date or None
        Earliest day that may be the first of the change.

    >>> quiet = np.tile([1.0, 2.0, 3.0, 4.0, 5.0], 100)
    >>> days = np.datetime64("2025-01-01") + np.arange(500) // 10
    >>> rise(quiet, days).alarm
    False
    >>> rise(np.where(np.arange(500) < 450, quiet, 2 * quiet), days).since
    datetime.date(2025, 2, 15)
    """
    if len(losses) < 2 * min_outcomes or losses.min() == losses.max():
        return NOTHING_TO_COMPARE
    scores = savage_scores(losses)
    start = days[0].astype("datetime64[D]")
    day = (days.astype("datetime64[D]") - start).astype(np.intp)
    count, total, squares = (
        np.bincount(day, weights).astype(float) for weights in (np.ones(len(day)), scores, scores**2)
    )
    n, n_before = len(losses), np.cumsum(count)[:-1]
    n_after = n - n_before
    allowed = (n_before >= min_outcomes) & (n_after >= min_outcomes) & (count[1:] > 0)
    if first is not None:
        allowed &= np.arange(1, len(count)) >= (np.datetime64(first, "D") - start).astype(int)
    if not allowed.any():
        return NOTHING_TO_COMPARE
    at = np.flatnonzero(allowed)
    inflation, freedom = (values[at] for values in _overdispersion(count, total, squares))
    variance = n_before[at] * n_after[at] / (n * (n - 1)) * squares.sum()
    third = n_before[at] * n_after[at] * (n_before - n_after)[at] / (n * (n - 1.0) * (n - 2)) * (scores**3).sum()
    z = -np.cumsum(total)[at] / np.sqrt(variance * inflation)
    tails = _pearson_tail(_normal_for_t(z, freedom), third / variance**1.5)
    best = int(np.argmin(tails))
    p_value = _scanned(float(tails[best]), n_before[at] / n)
    return Rise(
        alarm=p_value <= false_alarms,
        p_value=p_value,
        since=(start + at[best] + 1).astype(object),
        z=float(z[best]),
        before=int(n_before[at[best]]),
        after=int(n_after[at[best]]),
        overdispersion=float(inflation[best]),
    )


def savage_scores(values: Floats) -> Floats:
    """Expected order statistics of the standard exponential at each value's rank, less 1; ties share their mean.

    >>> savage_scores(np.array([1.0, 2.0])).tolist()
    [-0.5, 0.5]
    """
    n = len(values)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    expected = np.cumsum(1 / np.arange(n, 0, -1)) - 1
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    counts = np.diff(np.append(starts, n))
    scores = np.empty(n)
    scores[order] = np.repeat(np.add.reduceat(expected, starts) / counts, counts)
    return scores


def _overdispersion(count: Floats, total: Floats, squares: Floats) -> tuple[Floats, Floats]:
    """For a change before each day but the first: the long-run variance of the day sums over that of independent
    outcomes (at least 1), and the degrees of freedom with which it is known (infinite at 1).

    Deviations are from the mean of the side of the change that the day is on: the change itself counts for none.
    """
    before, after = _Side(count, total, squares), _Side(count[::-1], total[::-1], squares[::-1])
    spread, bandwidth = np.zeros(len(count) - 1), 0.0
    for lag in range(min(MAX_LAG, len(count) - 1) + 1):
        weight = 1 - lag / (MAX_LAG + 1)
        bandwidth += weight**2 * (1 if lag == 0 else 2)
        spread += (1 if lag == 0 else 2) * weight * (before.products(lag) + after.products(lag)[::-1])
    within = before.within + after.within[::-1]
    # Deviations from a mean of which the day is a part are too small by its share; so are those of the outcomes.
    free = (before.free_days + after.free_days[::-1]) / float(np.count_nonzero(count))
    ratio: Floats = spread / np.where(within > 0, within, 1.0) / np.maximum(free, 0.05)
    inflation = np.where(within > 0, np.maximum(ratio, 1.0), 1.0)
    days = max(int(np.count_nonzero(count)) - 2, 1) / bandwidth
    return inflation, days * (inflation / np.maximum(inflation - 1, 1e-9)) ** 2


class _Side:
    """The days before each day but the first, and their deviations from their own mean."""

    def __init__(self, count: Floats, total: Floats, squares: Floats) -> None:
        self.count, self.total = count, total
        n, sums = np.cumsum(count)[:-1], np.cumsum(total)[:-1]
        self.mean = sums / n
        self.within = np.cumsum(squares)[:-1] - n * self.mean**2
        self.free_days = np.cumsum(count > 0)[:-1] - 1.0

    def products(self, lag: int) -> Floats:
        """Sum of the products of deviations ``lag`` days apart."""
        c, t = self.count, self.total

        def pairs(left: Floats, right: Floats) -> Floats:
            return np.cumsum(np.append(np.zeros(lag), left[lag:] * right[: len(right) - lag]))[:-1]

        return pairs(t, t) - self.mean * (pairs(t, c) + pairs(c, t)) + self.mean**2 * pairs(c, c)


def _normal_for_t(z: Floats, freedom: Floats) -> Floats:
    """The normal quantile with the tail that ``z`` has in Student's t (Wallace 1959, within 0.01 at 10 degrees)."""
    return np.sign(z) * np.sqrt(freedom * np.log1p(z**2 / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)


def _pearson_tail(z: Floats, skewness: Floats) -> Floats:
    """Upper tail of the Pearson type III distribution with mean 0, variance 1 and the skewness given."""
    from scipy.special import gammainc, gammaincc, ndtr

    skewed = np.abs(skewness) >= ALMOST_SYMMETRIC
    shape = 4 / np.where(skewed, skewness, 1.0) ** 2
    right = skewness > 0
    argument = np.maximum(shape + np.where(right, z, -z) * np.sqrt(shape), 0.0)
    tail = np.where(right, gammaincc(shape, argument), gammainc(shape, argument))
    return np.where(skewed, tail, ndtr(-z))


def _scanned(tail: float, shares: Floats) -> float:
    """Chance that the largest of the standardised statistics has a tail as small as ``tail``.

    ``shares`` are the parts of the outcomes that lie before each candidate. On the scale of their log-odds the
    statistics are a stationary process, whose crossings are counted, thinned by the overshoot of its steps.
    """
    from scipy.special import ndtri

    height = -float(ndtri(tail))
    if not np.isfinite(height):
        return 0.0 if height > 0 else 1.0
    if height <= 0:
        return 1.0
    steps = np.diff(np.log(shares / (1 - shares)))
    crossings = (steps * np.exp(-_OVERSHOOT * height * np.sqrt(steps))).sum() * height / 2
    density = np.exp(-(height**2) / 2) / np.sqrt(2 * np.pi)
    return float(min(1.0, tail + density * crossings))
