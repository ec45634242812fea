"""Design effects: the factor by which the mean of a window varies more than the mean of independent rows.

Rows of the same day are similar (a sprint planning, a release, one busy reporter), and so are rows of neighbouring
days. A test that assumes independent rows would report drift in every busy week. Each statistic is therefore divided
by its design effect, which is estimated from day sums with the covariance of neighbouring days (Kish 1965; Rao and
Scott 1984 for chi-square; Driscoll and Kraay 1998 for day sums). If the history is long enough, it is estimated from
blocks as long as the current window instead, each compared with all other days, which covers every kind of dependence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml_pipeline.stats import Floats
from ml_pipeline.timeutil import MICROSECONDS_PER_DAY

ONE_SIDED_Z = 1.645  # one-sided 95%
LAG_WEIGHTS = np.array([2 / 3, 1 / 3])  # Bartlett weights for lags of up to two days
WEEK_WEIGHTS = np.arange(6, 0, -1) / 7  # Bartlett weights for lags of up to six days
MAX_WEEKLY_FACTOR = 3.0
MIN_BLOCKS = 8.0  # blocks from which a design effect can be estimated
INDEPENDENT = 1e9  # degrees of freedom of a design effect that was not estimated


class Days(NamedTuple):
    """Days of rows in time order: day numbers since 1970 (UTC), and the first row of each; ``starts`` ends with n."""

    numbers: NDArray[np.int64]
    starts: NDArray[np.intp]

    @classmethod
    def of(cls, times: pd.Series) -> Days:
        """Days of a sorted series of aware times."""
        numbers = times.array.as_unit("us").asi8 // MICROSECONDS_PER_DAY
        starts = np.flatnonzero(np.diff(numbers, prepend=np.int64(-(2**62)))) if len(numbers) else np.zeros(0, np.intp)
        return cls(numbers[starts], np.append(starts, len(numbers)).astype(np.intp))


class Dispersion(NamedTuple):
    """Variance of a window's sums, and the variance with independent rows. Dispersions of two windows can be added."""

    variance: Floats
    independent: Floats
    days: float
    weekly: Floats  # variance with the covariance of all days of a week: less biased than ``variance``, but noisier

    def __add__(self, other: object) -> Dispersion:
        if not isinstance(other, Dispersion):
            return NotImplemented
        return Dispersion(
            self.variance + other.variance,
            self.independent + other.independent,
            self.days + other.days,
            self.weekly + other.weekly,
        )

    def design_effect(self, typical: Floats | float = 1.0) -> Floats:
        """Ratio of ``variance`` to ``independent``; 1 if the difference is not significant.

        If ``typical``, the typical design effect of the tenant's columns, is above 1, the result is the mean of the
        ratio and ``typical``, at least 1.
        """
        known = self.independent > 1e-9
        ratio = np.divide(self.variance, self.independent, out=np.ones_like(self.independent), where=known)
        own = np.where(ratio > 1 + ONE_SIDED_Z * np.sqrt(2 / self.freedom()), ratio, 1.0)
        return np.where(np.asarray(typical) > 1, np.maximum((ratio + typical) / 2, 1.0), own)

    def freedom(self) -> float:
        """Degrees of freedom of the variance."""
        return max(self.days, 2.0) / (1 + 2 * float(np.square(LAG_WEIGHTS).sum()))


def dispersion(day_sums: Floats, independent: Floats) -> Dispersion:
    """Dispersion of one window; zeros for a window of one day, from which it cannot be estimated.

    Parameters
    ----------
    day_sums : array of shape (..., days)
        Sum of a score over the rows of each day. The score has mean 0 in the window.
    independent : array of shape (...)
        Number of rows times the variance of the score.
    """
    days = day_sums.shape[-1]
    if days < 2:
        nothing = np.zeros_like(independent)
        return Dispersion(nothing, nothing, 0.0, nothing)
    return Dispersion(_variance(day_sums, LAG_WEIGHTS), independent, float(days), _variance(day_sums, WEEK_WEIGHTS))


def _variance(day_sums: Floats, weights: NDArray[np.float64]) -> Floats:
    """Variance of the sums with weighted covariances.

    The centred score makes the covariance of neighbouring days negative. The result is scaled so that it is unbiased
    for independent days.
    """
    days = day_sums.shape[-1]
    variance, expected = np.square(day_sums).sum(axis=-1), days - 1.0
    for lag, weight in enumerate(weights[: days - 1], start=1):
        variance = variance + 2 * weight * (day_sums[..., lag:] * day_sums[..., :-lag]).sum(axis=-1)
        expected -= 2 * weight * (days - lag) / days
    return np.asarray(np.maximum(variance, 0.0) * days / max(expected, 0.5))


class CommonDesignEffect(NamedTuple):
    """Design effect that the columns of a tenant share, because the days of one column give a noisy estimate."""

    typical: Floats  # median design effect of each score
    weekly_factor: float  # ratio of the variance with the covariance of a week to that with two days


NO_COMMON_EFFECT = CommonDesignEffect(np.ones(1), 1.0)


def common_design_effect(columns: list[Dispersion]) -> CommonDesignEffect:
    """Common design effect of columns with the same scores; 1 if it is not significantly larger."""
    columns = [column for column in columns if column.days > 1 and column.independent[0] > 1e-9]
    if not columns:
        return NO_COMMON_EFFECT
    scale = np.maximum([column.independent for column in columns], 1e-9)
    variance = np.array([column.variance for column in columns]) / scale
    weekly = np.array([column.weekly for column in columns]) / scale
    noise = ONE_SIDED_Z * np.sqrt(2 / (columns[0].freedom() * len(columns)))
    typical = np.median(variance, axis=0)
    ratio = weekly[:, 0].sum() / max(float(variance[:, 0].sum()), 1e-9)
    return CommonDesignEffect(
        np.where(typical > 1 + noise, typical, 1.0), float(np.clip(ratio, 1.0, MAX_WEEKLY_FACTOR))
    )


def blocks(numbers: NDArray[np.int64], length: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last position (exclusive) of the blocks of ``length`` calendar days, one for each first day.

    >>> [part.tolist() for part in blocks(np.array([0, 1, 3, 4]), 2)]
    [[0, 1, 2], [2, 2, 4]]
    """
    first = np.flatnonzero(numbers + length - 1 <= numbers[-1]) if len(numbers) else np.zeros(0, np.intp)
    return first, np.searchsorted(numbers, numbers[first] + length)


def block_z(day_sums: Floats, day_rows: Floats, first: NDArray[np.intp], last: NDArray[np.intp]) -> Floats:
    """Difference between the mean of each block and of all other days, in standard errors of independent rows.

    Parameters
    ----------
    day_sums : array of shape (..., days)
        Sum per day of a score with mean 0 and variance 1 over all days.
    day_rows : array of shape (days,)
        Number of rows per day.

    Returns
    -------
    array of shape (..., blocks)
        0 for a block without rows or with all rows.
    """
    total = float(day_rows.sum())
    rows = np.append(0.0, np.cumsum(day_rows))
    sums = np.concatenate([np.zeros((*day_sums.shape[:-1], 1)), np.cumsum(day_sums, axis=-1)], axis=-1)
    inside = rows[last] - rows[first]
    usable = (inside > 0) & (inside < total)
    scale = np.sqrt(np.divide(total, inside * (total - inside), out=np.zeros_like(inside), where=usable))
    return np.asarray((sums[..., last] - sums[..., first]) * scale)


def student_to_normal(z: Floats, freedom: Floats | float) -> Floats:
    """Normal deviate with the same p-value as Student's t with ``freedom`` degrees (Wallace 1959, error below 6%).

    >>> [round(float(student_to_normal(np.array(z), freedom)), 2) for z, freedom in ((12.706, 1.0), (2.0, 1e9))]
    [1.85, 2.0]
    """
    size = np.sqrt(freedom * np.log1p(np.square(z) / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
    return np.copysign(size, z)
