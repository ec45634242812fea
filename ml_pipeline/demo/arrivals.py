"""Creation times of simulated items, and the random numbers that determine their other properties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ml_pipeline.demo.organisation import Organisation
from ml_pipeline.demo.working_time import FIRST_MONDAY, PEAK_SEASON, WEEK, moment_in_week, season

STAFF_STREAM, ISSUE_STREAM, PULL_REQUEST_STREAM = 0, 1, 2  # second part of each seed


@dataclass(frozen=True)
class Arrivals:
    """Items in order of creation: times in whole seconds since the epoch, and uniform random numbers in [0, 1).

    ``draws`` has one number per item and name, ``words`` one row of numbers per item.
    """

    created: np.ndarray
    draws: dict[str, np.ndarray]
    words: np.ndarray

    def since(self, seconds: float) -> slice:
        """The items created at or after a time."""
        return slice(int(np.searchsorted(self.created, seconds)), None)

    def normal(self, name: str) -> np.ndarray:
        """The draw called ``name``, converted to a standard normal number."""
        from scipy.special import ndtri

        normal: np.ndarray = ndtri(self.draws[name])
        return normal


def arrivals(
    organisation: Organisation, stream: int, per_week: float, names: Sequence[str], words: int, warm_up: float = 0.0
) -> Arrivals:
    """Poisson arrivals from ``warm_up`` seconds before the organisation's start to its end.

    Each week has its own random stream of candidates in ascending order of a level (a unit Poisson process). A
    candidate becomes an item if its level is below the rate at its time. A changed rate thus adds or removes items
    without changing the others (thinning, Lewis and Shedler 1979).
    """
    start, end = organisation.start.timestamp(), organisation.end.timestamp()
    weeks = np.arange((start - warm_up - FIRST_MONDAY) // WEEK, (end - FIRST_MONDAY) // WEEK + 1).astype(int)
    peak = per_week * PEAK_SEASON * np.prod([max(1, 1 + d.size) for d in organisation.drifts if d.kind == "volume"])
    candidates = int(peak + 8 * np.sqrt(peak) + 12)
    uniform = np.empty((len(weeks), candidates, 2 + len(names) + words))
    for week, block in zip(weeks, uniform, strict=True):
        np.random.default_rng([organisation.seed, stream, week]).random(out=block)
    level = np.cumsum(-np.log1p(-uniform[:, :, 0]), axis=1).ravel()
    created = np.floor(FIRST_MONDAY + weeks[:, None] * WEEK + moment_in_week(uniform[:, :, 1])).ravel()
    kept = level < per_week * season(created) * organisation.factor("volume", created)
    kept &= (created >= start - warm_up) & (created <= end)
    order = np.flatnonzero(kept)
    order = order[np.argsort(created[order], kind="stable")]
    drawn = uniform.reshape(len(level), -1)[order, 2:]
    return Arrivals(created[order], dict(zip(names, drawn.T, strict=False)), drawn[:, len(names) :])


def known_by(end: float, seconds: np.ndarray) -> np.ndarray:
    """The times, with NaN for those after ``end``."""
    return np.where(seconds <= end, seconds, np.nan)


def as_times(seconds: np.ndarray) -> pd.DatetimeIndex:
    """Seconds since the epoch as microsecond times in UTC, NaT for NaN."""
    missing = np.isnan(seconds)
    times = (np.where(missing, 0, seconds) * 1_000_000).astype("datetime64[us]")
    times[missing] = np.datetime64("NaT")
    return pd.DatetimeIndex(times, tz="UTC")
