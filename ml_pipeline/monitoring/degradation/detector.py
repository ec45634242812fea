"""Sequential test for a rise of the loss, valid when repeated every day, computed from the history up to that day.

Losses are replaced by exponential (Savage) scores of their ranks, so that their unit and heavy tails do not matter.
These are the scores of the locally most powerful rank test for a change of scale (Savage 1956); for 0/1 losses the test
compares two shares. Every day of the history is a candidate for the first day of the change. The outcomes since then
are compared with those before by the permutation distribution of the score sum, whose tail is approximated from its
first three moments (Pearson type III).

Two detectors share the false alarm rate. The first sums, over all candidate days, the likelihood ratio of a rise of
unknown size against no rise: a Shiryaev-Roberts e-detector with a mixture over sizes (Pollak 1987; Shin, Ramdas and
Rinaldo 2022). It grows by 1 per quiet day on average, so alarms at a value of ``A`` are on average at least ``A`` quiet
days apart. The second tests the last two days only, so that a sudden rise does not compete with all earlier candidate
days; it uses the probability that a scanned, standardised random walk is as large (James, James and Siegmund 1987).
Both depend only on the history up to the day; no state is kept between days.

If predictions are given, half of each detector's rate is spent on ranks among outcomes with similar predictions (van
Elteren 1960). Large predictions have large errors; without this spread, a change of the outcomes for the same inputs is
detected much sooner. The ranks among all outcomes detect changes of the predictions themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml_pipeline.monitoring.drift.design_effects import student_to_normal
from ml_pipeline.stats import Floats

MIN_OUTCOMES = 20
RECENT_DAYS = 2
MAX_LAG = 6  # days over which the daily means may be autocorrelated
MOST_AFTER = 2.0  # largest number of outcomes after a change, as a multiple of those before it
STRATUM_ROWS, MAX_STRATA = 100, 8
RECENT_SHARE = 0.5  # share of the false alarm rate for changes in the last two days
TYPICAL_RISE = 0.25  # scale of the half-normal mixture over sizes, in standard deviations of one outcome
ALMOST_SYMMETRIC = 1e-3  # skewness below which the normal tail is used
_OVERSHOOT = 0.583  # mean overshoot of a discrete random walk over a boundary, in steps (Siegmund 1985, 4.40)


@dataclass(frozen=True)
class Rise:
    """The most likely rise of the mean loss and its false alarm rate."""

    alarm: bool
    rate: float  # upper bound of false alarms per quiet day at a threshold that this evidence just reaches
    since: date | None  # first day of the most likely change; None if no comparison is possible
    z: float  # test statistic, in standard deviations of the permutation distribution
    before: int  # outcomes before the change
    after: int  # outcomes since the change
    given_prediction: bool  # whether the evidence is strongest among outcomes with similar predictions
    overdispersion: float  # variance of a daily mean divided by that of independent outcomes, at least 1


NOTHING_TO_COMPARE = Rise(False, 1.0, None, 0.0, 0, 0, False, 1.0)


def rise(
    losses: Floats,
    days: NDArray[np.datetime64],
    predictions: Floats | None = None,
    *,
    false_alarms: float = 0.0005,
    recent_share: float = RECENT_SHARE,
    min_outcomes: int = MIN_OUTCOMES,
    first: date | None = None,
) -> Rise:
    """Test whether the losses have risen since some day, with the data up to the end of the last day.

    Correlated outcomes (a day effect, or similar neighbouring days) widen the permutation distribution: by the variance
    of the daily means on either side of the change, with Bartlett weights up to a distance of a week (one day for the
    detector of the last two days).

    Parameters
    ----------
    losses : array of float
        Non-negative, finite, in the order of ``days``.
    days : array of datetime64[D]
        Day of each loss, ascending.
    predictions : array of float, optional
        Prediction for each loss, finite.
    false_alarms : float
        Rate of false alarms: 0.0005 is one in 2,000 quiet days of one model.
    recent_share : float
        Share of this rate for changes in the last two days, from 0 to less than 1.
    min_outcomes : int
        Smallest number of outcomes on either side of a change; after it there are at most twice as many as before.
    first : date or None
        Earliest candidate for the first day of the change.

    >>> quiet = np.tile([1.0, 2.0, 3.0, 4.0, 5.0], 100)
    >>> days = np.datetime64("2025-01-01") + np.arange(500) // 10
    >>> rise(quiet, days).alarm
    False
    >>> rise(np.where(np.arange(500) < 450, quiet, 2 * quiet), days).since
    datetime.date(2025, 2, 15)
    """
    n = len(losses)
    if n < 2 * min_outcomes or losses.min() == losses.max():
        return NOTHING_TO_COMPARE
    start = days[0].astype("datetime64[D]")
    day = (days.astype("datetime64[D]") - start).astype(np.intp)
    count = np.bincount(day).astype(float)
    before = np.cumsum(count)[:-1]
    allowed = (before >= min_outcomes) & (n - before >= min_outcomes) & (count[1:] > 0)
    allowed &= n - before <= MOST_AFTER * before
    if first is not None:
        allowed &= np.arange(1, len(count)) >= (np.datetime64(first, "D") - start).astype(int)
    candidates = np.flatnonzero(allowed)
    if not len(candidates):
        return NOTHING_TO_COMPARE
    recent = candidates[candidates >= len(count) - 1 - RECENT_DAYS]
    part_of_rate = {True: recent_share if len(recent) else 0.0}
    part_of_rate[False] = 1 - part_of_rate[True]
    strata = [np.zeros(n, dtype=np.intp)] if predictions is None else _strata(predictions)
    found = []
    for groups in strata:
        scores = _Scores(losses, day, groups)
        if part_of_rate[True]:
            found.append((part_of_rate[True], _recent_rise(scores, recent, before / n)))
        found.append((part_of_rate[False], _any_rise(scores, candidates, before)))
    part, clearest = min(found, key=lambda item: item[1].rate / item[0])
    rate = min(1.0, len(strata) * clearest.rate / part)
    return Rise(
        alarm=rate <= false_alarms,
        rate=rate,
        since=(start + clearest.at + 1).astype(object),
        z=clearest.z,
        before=int(before[clearest.at]),
        after=n - int(before[clearest.at]),
        given_prediction=clearest.given_prediction,
        overdispersion=clearest.overdispersion,
    )


def _strata(predictions: Floats) -> list[NDArray[np.intp]]:
    """One stratum of all outcomes and, if there are enough, strata of similar predictions of about equal size."""
    n = len(predictions)
    together = np.zeros(n, dtype=np.intp)
    groups = min(n // STRATUM_ROWS, MAX_STRATA)
    if groups < 2:
        return [together]
    edges = np.unique(np.quantile(predictions, np.arange(1, groups) / groups))
    return [together, np.searchsorted(edges, predictions).astype(np.intp)]


class _Scores:
    """Scores within the strata, their sums by day, and the moments of their sums since each candidate day."""

    def __init__(self, losses: Floats, day: NDArray[np.intp], strata: NDArray[np.intp]) -> None:
        groups = np.unique(strata)
        self.losses, self.given_prediction = losses, len(groups) > 1
        scores = np.empty(len(losses))
        days = int(day[-1]) + 1
        self.variance, self.third = np.zeros(days - 1), np.zeros(days - 1)
        for group in groups:
            members = np.flatnonzero(strata == group)
            scores[members] = savage_scores(losses[members])
            n = float(len(members))
            if n >= 3:
                before = np.cumsum(np.bincount(day[members], minlength=days))[:-1]
                pairs = before * (n - before) / (n * (n - 1))
                self.variance += pairs * (scores[members] ** 2).sum()
                self.third += pairs * (2 * before - n) / (n - 2) * (scores[members] ** 3).sum()
        self.count, self.total, self.squares = (
            np.bincount(day, weights, days).astype(float) for weights in (np.ones(len(day)), scores, scores**2)
        )


class _Clearest(NamedTuple):
    """The candidate with the strongest evidence, as its last day before the change, and the false alarm rate."""

    at: int
    rate: float
    z: float
    given_prediction: bool
    overdispersion: float


def _recent_rise(scores: _Scores, candidates: NDArray[np.intp], shares: Floats) -> _Clearest:
    z, tails, inflation = _standardised(scores, candidates, RECENT_DAYS - 1)
    best = int(np.argmin(tails))
    rate = _scanned(float(tails[best]), shares[candidates])
    return _Clearest(int(candidates[best]), rate, float(z[best]), scores.given_prediction, float(inflation[best]))


def _any_rise(scores: _Scores, candidates: NDArray[np.intp], before: Floats) -> _Clearest:
    """Shiryaev-Roberts detector: the sum of the candidates' likelihood ratios, whose reciprocal is the rate."""
    from scipy.special import log_ndtr, ndtri

    z, tails, inflation = _standardised(scores, candidates, MAX_LAG)
    normal = -ndtri(np.clip(tails, 1e-300, 1 - 1e-15))
    n = float(len(scores.losses))
    size = before[candidates] * (n - before[candidates]) / n / inflation
    # The likelihood ratio exp(d z sqrt(size) - d^2 size / 2), with d mixed over a half-normal distribution.
    spread = 1 / (size + TYPICAL_RISE**-2)
    mean = normal * np.sqrt(size) * spread
    logs = np.log(2 * np.sqrt(spread) / TYPICAL_RISE) + mean**2 / spread / 2 + log_ndtr(mean / np.sqrt(spread))
    best = int(np.argmax(logs))
    total = float(logs[best] + np.log(np.exp(logs - logs[best]).sum()))
    return _Clearest(
        int(candidates[best]),
        float(min(1.0, np.exp(-total))),
        float(z[best]),
        scores.given_prediction,
        float(inflation[best]),
    )


def _standardised(scores: _Scores, candidates: NDArray[np.intp], lags: int) -> tuple[Floats, Floats, Floats]:
    """For each candidate, the score sum in standard deviations, its tail probability, and the overdispersion."""
    inflation, freedom = (
        values[candidates] for values in _overdispersion(scores.count, scores.total, scores.squares, lags)
    )
    variance = scores.variance[candidates]
    varies = variance > 1e-12  # equal losses cannot rise
    safe = np.where(varies, variance, 1.0)
    z = np.where(varies, -np.cumsum(scores.total)[candidates] / np.sqrt(safe * inflation), 0.0)
    skewness = np.where(varies, scores.third[candidates] / safe**1.5, 0.0)
    return z, _pearson_tail(student_to_normal(z, freedom), skewness), inflation


def savage_scores(values: Floats) -> Floats:
    """Expected order statistics of the standard exponential at each value's rank, minus 1; ties get their mean.

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


def _overdispersion(count: Floats, total: Floats, squares: Floats, lags: int) -> tuple[Floats, Floats]:
    """Overdispersion and its degrees of freedom for a change before each day except the first.

    The overdispersion is the long-run variance of the daily sums divided by that of independent outcomes, at least 1;
    at 1 the degrees of freedom are infinite. Deviations are from the mean of the day's side of the change, so that the
    change itself does not count.
    """
    before, after = _Side(count, total, squares), _Side(count[::-1], total[::-1], squares[::-1])
    spread, bandwidth = np.zeros(len(count) - 1), 0.0
    for lag in range(min(lags, len(count) - 1) + 1):
        weight = 1 - lag / (lags + 1)
        bandwidth += weight**2 * (1 if lag == 0 else 2)
        spread += (1 if lag == 0 else 2) * weight * (before.products(lag) + after.products(lag)[::-1])
    within = before.within + after.within[::-1]
    # Deviations from a mean that includes the day are too small by the day's share; the same holds for outcomes.
    free = (before.free_days + after.free_days[::-1]) / float(np.count_nonzero(count))
    ratio: Floats = spread / np.where(within > 0, within, 1.0) / np.maximum(free, 0.05)
    inflation = np.where(within > 0, np.maximum(ratio, 1.0), 1.0)
    days = max(int(np.count_nonzero(count)) - 2, 1) / bandwidth
    return inflation, days * (inflation / np.maximum(inflation - 1, 1e-9)) ** 2


class _Side:
    """The days before each day except the first, and their deviations from their mean."""

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


def _pearson_tail(z: Floats, skewness: Floats) -> Floats:
    """Upper tail of the Pearson type III distribution with mean 0, variance 1 and the given skewness."""
    from scipy.special import gammainc, gammaincc, ndtr

    skewed = np.abs(skewness) >= ALMOST_SYMMETRIC
    shape = 4 / np.where(skewed, skewness, 1.0) ** 2
    right = skewness > 0
    argument = np.maximum(shape + np.where(right, z, -z) * np.sqrt(shape), 0.0)
    tail = np.where(right, gammaincc(shape, argument), gammainc(shape, argument))
    return np.asarray(np.where(skewed, tail, ndtr(-z)))


def _scanned(tail: float, shares: Floats) -> float:
    """Probability that the largest of the standardised statistics has a tail probability of at most ``tail``.

    ``shares`` are the shares of the outcomes before each candidate. On the scale of their log odds the statistics are a
    stationary process; its boundary crossings are counted with a correction for the overshoot of discrete steps.
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
