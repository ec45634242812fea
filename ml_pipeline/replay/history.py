"""History of a tenant by day: which entities arrived and which outcomes became known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property

import numpy as np
import pandas as pd

from ml_pipeline.errors import UserError
from ml_pipeline.specs import ModelSpec

ROLLING_ROWS = 50
DAY = np.timedelta64(1, "D")


class NoHistory(UserError, ValueError):
    """The history has no rows to replay; the message names the model, the days and the remedy."""


@dataclass(frozen=True)
class History:
    """A feature frame that can be read as of any day (UTC).

    Features do not depend on the as-of time, so one frame, built at the end, is valid for every day: an entity exists
    from its event time on, and its label is known from its label time on.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    frame : DataFrame
        Result of ``features.point_in_time.build`` at the end of ``last`` or later.
    first, last : date
        Days to replay, inclusive.
    """

    spec: ModelSpec
    frame: pd.DataFrame
    first: date
    last: date

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise NoHistory(f"{self.spec.name}: {self.first} is after {self.last}. Give the earlier day first")
        start, stop = self.arrived_before(self.first), self.arrived_before(self.last + timedelta(days=1))
        if start == stop:
            span = "it has no rows"
            if len(self.frame):
                times = self.frame["event_time"]
                span = f"its rows are from {times.iloc[0].date()} to {times.iloc[-1].date()}"
            raise NoHistory(
                f"{self.spec.name}: no row from {self.first} to {self.last}; {span}. Choose days that have rows"
            )

    @property
    def days(self) -> list[date]:
        return [self.first + timedelta(days=step) for step in range((self.last - self.first).days + 1)]

    @cached_property
    def event_time(self) -> np.ndarray:
        """datetime64[us], ascending."""
        return _microseconds(self.frame["event_time"])

    @cached_property
    def label_time(self) -> np.ndarray:
        """datetime64[us]; NaT for rows without a usable label."""
        known = (self.frame["state"] == "matured").to_numpy()
        return np.where(known, _microseconds(self.frame["label_time"]), np.datetime64("NaT", "us"))

    @cached_property
    def label(self) -> np.ndarray:
        return self.frame["label"].to_numpy(np.float64)

    @cached_property
    def by_label_time(self) -> np.ndarray:
        """Positions of the rows with a label, sorted by label time, then by entity."""
        known = np.flatnonzero(~np.isnat(self.label_time))
        entity = self.frame["entity_id"].to_numpy(dtype=object)[known]
        return known[np.lexsort((entity, self.label_time[known]))]

    @cached_property
    def _sorted_label_time(self) -> np.ndarray:
        return np.asarray(self.label_time[self.by_label_time])

    def arrived_before(self, day: date) -> int:
        """Number of entities that arrived before the day; they are the first rows of the frame."""
        return int(np.searchsorted(self.event_time, np.datetime64(day, "us")))

    def matured_before(self, day: date) -> int:
        """Number of labels known before the day; they are the first of ``by_label_time``."""
        return int(np.searchsorted(self._sorted_label_time, np.datetime64(day, "us")))

    def matured_at(self, moment: datetime) -> pd.DataFrame:
        """Rows whose label was known at ``moment``, in the order of the frame, with a new RangeIndex."""
        known = np.searchsorted(self._sorted_label_time, np.datetime64(_naive(moment), "us"), side="right")
        return self.frame.iloc[np.sort(self.by_label_time[:known])].reset_index(drop=True)

    def new_labels(self, since: datetime | None, until: datetime) -> int:
        """Number of labels that became known after ``since`` (None: from the start) and not after ``until``."""
        known = self._sorted_label_time
        upper = np.searchsorted(known, np.datetime64(_naive(until), "us"), side="right")
        lower = 0 if since is None else np.searchsorted(known, np.datetime64(_naive(since), "us"), side="right")
        return int(upper - lower)

    def labels_of_arrivals(self, since: date, until: datetime) -> int:
        """Number of labels known at ``until`` for entities that arrived on ``since`` or later."""
        return int((self.label_time[self.arrived_before(since) :] <= np.datetime64(_naive(until), "us")).sum())

    def weekly_items(self, day: date, weeks: int = 4) -> float:
        """Mean number of new entities per week over the weeks that end with the day."""
        after = day + timedelta(days=1)
        return (self.arrived_before(after) - self.arrived_before(after - timedelta(weeks=weeks))) / weeks

    @cached_property
    def rolling_baseline(self) -> np.ndarray:
        """For each row, the median (binary: mean) of the last 50 labels known before its event time, else NaN."""
        values = pd.Series(self.label[self.by_label_time]).rolling(ROLLING_ROWS, min_periods=1)
        after = (values.median() if self.spec.task == "regression" else values.mean()).to_numpy()
        known = np.searchsorted(self._sorted_label_time, self.event_time)
        return np.concatenate([[np.nan], after])[known]


def _naive(moment: datetime) -> datetime:
    return pd.Timestamp(moment).tz_convert("UTC").tz_localize(None).to_pydatetime()


def _microseconds(times: pd.Series) -> np.ndarray:
    return times.to_numpy(dtype="datetime64[us]")
