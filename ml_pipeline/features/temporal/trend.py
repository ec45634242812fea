"""Trend of the outcomes known before each entity: slopes, their fit, and level changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from ml_pipeline.features.temporal.history import DAY
from ml_pipeline.features.temporal.ranges import Groups, Moments, Range, range_moments

FEWEST = 3  # outcomes needed for a slope, or for each mean in a comparison
CHANGE_DAYS, CHANGE_OUTCOMES = 30, 20
ALLOWANCE, LARGEST = 0.5, 4.0


def trend(
    groups: Groups,
    codes: np.ndarray,
    terms: np.ndarray,
    known_at: np.ndarray,
    known_since: Callable[[int], Range],
) -> dict[str, np.ndarray]:
    """Columns ``specs.temporal.TREND_PARTS`` of each entity.

    - ``slope_*``: least-squares slope per day over the last 30 days, 90 days or the whole past; ``fit_*`` its R^2, 0 if
      all outcomes are equal. Both are NaN with fewer than 3 outcomes or with one distinct time.
    - ``change_*``: Welch's statistic of the last 30 days against the 60 before, and of the last 20 outcomes against the
      20 before; NaN with fewer than 3 outcomes on a side, or if neither side varies.
    - ``cusum_*``: cumulative sum of the standardised outcomes beyond half a standard deviation, upward or downward
      (Page 1954); 0 without a shift.

    Parameters
    ----------
    groups, codes
        Known outcomes grouped by level, in the order in which they became known, and the level of each entity.
    terms, known_at
        Value of each known outcome on the scale of the target, and the int64 microseconds at which it became known.
    known_since
        Returns the outcomes that became known in the last so many days before each entity; all for 0.
    """
    month, quarter, everything = (known_since(days) for days in (CHANGE_DAYS, 90, 0))
    before = everything.end
    recent = Range(np.maximum(before - CHANGE_OUTCOMES, 0), before)
    earlier = Range(np.maximum(before - 2 * CHANGE_OUTCOMES, 0), recent.first)
    month_before = Range(quarter.first, month.first)
    columns: dict[str, np.ndarray] = {}
    lines = range_moments(groups, codes, terms, [month, quarter, everything], known_at / DAY)
    for name, line in zip(("30d", "90d", "all"), lines, strict=True):
        columns[f"slope_{name}"], columns[f"fit_{name}"] = _slope(line)
    late, early, old = range_moments(groups, codes, terms, [recent, earlier, month_before])
    columns["change_30d"] = _welch(lines[0], old)
    columns["change_20"] = _welch(late, early)
    last = np.where(before > 0, groups.start[codes] + before - 1, -1)
    for name, running in _cusum(groups, terms).items():
        columns[name] = np.append(running, 0.0)[last]
    return columns


def _slope(line: Moments) -> tuple[np.ndarray, np.ndarray]:
    has_slope = (line.n >= FEWEST) & (line.time_square > 0)
    slope = _divided(line.product, line.time_square, has_slope)
    explained = np.abs(slope * line.product)
    fit = np.where(has_slope, 0.0, np.nan)
    varies = has_slope & (line.square > 0)
    fit[varies] = np.minimum(explained[varies] / line.square[varies], 1.0)
    return slope, fit


def _welch(late: Moments, early: Moments) -> np.ndarray:
    enough = (late.n >= FEWEST) & (early.n >= FEWEST)
    error = np.zeros(len(enough))
    for side in (late, early):
        n = np.maximum(side.n, 2)
        error += np.where(enough, side.square, 0.0) / (n * (n - 1))
    return _divided(late.mean - early.mean, np.sqrt(error), enough & (error > 0))


def _divided(part: np.ndarray, whole: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=where))


def _cusum(groups: Groups, terms: np.ndarray) -> dict[str, np.ndarray]:
    """Upward and downward sum after each outcome, in the order of ``groups``.

    S = max(0, S + z - 1/2) is computed as C - min(0, minimum of C so far), where C is the cumulative sum of z - 1/2.
    Each outcome is standardised by those known before it and z is clipped at 4, so that one outlier has no lasting
    effect. The first three outcomes of a level add 0.
    """
    codes = groups.keys // groups.width
    position = np.arange(len(codes)) - groups.start[codes]
    zero = np.zeros(len(codes), dtype="int64")
    past = range_moments(groups, codes, terms, [Range(zero, position)])[0]
    z = _divided(terms[groups.order] - past.mean, past.std, (past.n >= FEWEST) & (past.square > 0))
    z = np.clip(np.nan_to_num(z), -LARGEST, LARGEST)
    sums = {}
    for name, sign in (("cusum_up", 1), ("cusum_down", -1)):
        steps = pd.Series(np.where(past.n >= FEWEST, sign * z - ALLOWANCE, 0.0)).groupby(codes)
        running = steps.cumsum()
        lowest = running.groupby(codes).cummin()
        sums[name] = (running - np.minimum(lowest, 0.0)).to_numpy()
    return sums
