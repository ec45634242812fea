"""How much more the mean of a window varies than with independent rows: by its days, and by blocks of the history.

Rows of one day resemble each other (a sprint planning, a release, one busy reporter), and neighbouring days do too. A
test that takes every row for an independent one then finds drift where there is only a busy week. Each statistic is
therefore divided by its design effect. It is learnt from day sums, with the covariance of neighbouring days (Kish
1965; Rao and Scott 1984 for chi-square; Driscoll and Kraay 1998 for the day sums), and, where the history is long
enough, from blocks as long as the current window, each against all the rest: that sees every kind of design_effect.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml_pipeline.timeutil import MICROSECONDS_PER_DAY

Floats = NDArray[np.float64]

ONE_SIDED_Z = 1.645
LAG_WEIGHTS = np.array([2 / 3, 1 / 3])  # Bartlett, two days
WEEK_WEIGHTS = np.arange(6, 0, -1) / 7
MAX_WEEKLY_FACTOR = 3.0
MIN_BLOCKS = 8.0
INDEPENDENT = 1e9  # degrees of freedom where nothing had to be learnt


class Days(NamedTuple):
    """The days of rows in time order: day numbers since 1970 (UTC), and where each begins; ``starts`` ends with n."""

    numbers: NDArray[np.int64]
    starts: NDArray[np.intp]

    @classmethod
    def of(cls, times: pd.Series) -> Days:
        """Days of a sorted series of aware times."""
        numbers = times.array.as_unit("us").asi8 // MICROSECONDS_PER_DAY
        starts = np.flatnonzero(np.diff(numbers, prepend=np.int64(-(2**62)))) if len(numbers) else np.zeros(0, np.intp)
        return cls(numbers[starts], np.append(starts, len(numbers)).astype(np.intp))


class Dispersion(NamedTuple):
    """Variance of a window's sums and what independent rows would have; sums of both windows may be added."""

    variance: Floats
    independent: Floats
    days: float
    weekly: Floats  # the variance again, with the covariance of all days of a week: without bias, but noisier

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
        """How many times more the mean varies than with independent rows; 1 where that is within noise.

        Where the tenant's columns typically vary more (``typical``), half of what the days of this one say and half of
        that, whichever way the noise went.
        """
        known = self.independent > 1e-9
        ratio = np.divide(self.variance, self.independent, out=np.ones_like(self.independent), where=known)
        own = np.where(ratio > 1 + ONE_SIDED_Z * np.sqrt(2 / self.freedom()), ratio, 1.0)
        return np.where(np.asarray(typical) > 1, np.maximum((ratio + typical) / 2, 1.0), own)

    def freedom(self) -> float:
        """Degrees of freedom of the variance."""
        return max(self.days, 2.0) / (1 + 2 * float(np.square(LAG_WEIGHTS).sum()))


def dispersion(day_sums: Floats, independent: Floats) -> Dispersion:
    """Dispersion of one window; a window of one day says nothing.

    Parameters
    ----------
    day_sums : array of shape (..., days)
        Sums of a score of the rows of each day, the score centred in the window.
    independent : array of shape (...)
        Rows times the variance of the score.
    """
    days = day_sums.shape[-1]
    if days < 2:
        nothing = np.zeros_like(independent)
        return Dispersion(nothing, nothing, 0.0, nothing)
    return Dispersion(_variance(day_sums, LAG_WEIGHTS), independent, float(days), _variance(day_sums, WEEK_WEIGHTS))


def _variance(day_sums: Floats, weights: NDArray[np.float64]) -> Floats:
    """Centring makes neighbouring days look opposed; scaled so that independent days have their true variance."""
    days = day_sums.shape[-1]
    variance, expected = np.square(day_sums).sum(axis=-1), days - 1.0
    for lag, weight in enumerate(weights[: days - 1], start=1):
        variance = variance + 2 * weight * (day_sums[..., lag:] * day_sums[..., :-lag]).sum(axis=-1)
        expected -= 2 * weight * (days - lag) / days
    return np.asarray(np.maximum(variance, 0.0) * days / max(expected, 0.5))


class CommonDesignEffect(NamedTuple):
    """What the columns of a tenant have in common: one column's days are too few to tell it well."""

    typical: Floats  # median design effect of each score
    weekly_factor: float  # how many times more a whole week's mean varies than the two-day covariance says


NO_COMMON_EFFECT = CommonDesignEffect(np.ones(1), 1.0)


def common_design_effect(columns: list[Dispersion]) -> CommonDesignEffect:
    """Of columns with the same scores; none where their typical design effect is within noise of 1."""
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
    """First and one-past-last position of the blocks of ``length`` calendar days, one beginning on every day.

    >>> [part.tolist() for part in blocks(np.array([0, 1, 3, 4]), 2)]
    [[0, 1, 2], [2, 2, 4]]
    """
    first = np.flatnonzero(numbers + length - 1 <= numbers[-1]) if len(numbers) else np.zeros(0, np.intp)
    return first, np.searchsorted(numbers, numbers[first] + length)


def block_z(day_sums: Floats, day_rows: Floats, first: NDArray[np.intp], last: NDArray[np.intp]) -> Floats:
    """Each block's mean against the mean of all other days, standardised as if rows were independent.

    Parameters
    ----------
    day_sums : array of shape (..., days)
        Of a score with mean 0 and variance 1 over all days.
    day_rows : array of shape (days,)

    Returns
    -------
    array of shape (..., blocks)
        0 for a block without rows, or with all of them.
    """
    total = float(day_rows.sum())
    rows = np.append(0.0, np.cumsum(day_rows))
    sums = np.concatenate([np.zeros((*day_sums.shape[:-1], 1)), np.cumsum(day_sums, axis=-1)], axis=-1)
    inside = rows[last] - rows[first]
    usable = (inside > 0) & (inside < total)
    scale = np.sqrt(np.divide(total, inside * (total - inside), out=np.zeros_like(inside), where=usable))
    return np.asarray((sums[..., last] - sums[..., first]) * scale)


def student_to_normal(z: Floats, freedom: Floats | float) -> Floats:
    """The normal deviate as likely as a value of Student's t with ``freedom`` degrees (Wallace 1959, within 6%).

    >>> [round(float(student_to_normal(np.array(z), freedom)), 2) for z, freedom in ((12.706, 1.0), (2.0, 1e9))]
    [1.85, 2.0]
    """
    size = np.sqrt(freedom * np.log1p(np.square(z) / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
    return np.copysign(size, z)
