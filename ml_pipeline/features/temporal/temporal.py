"""Temporal features from a tenant's earlier outcomes, arrivals and endings: lags, windows, spread, trend, queue.

As in :mod:`ml_pipeline.features.temporal.history`, features use what was known, and what had happened, strictly before
the event time. Every statistic uses only the events of its own range, so the first n rows have bit for bit the same
values if later rows are removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from ml_pipeline.features.temporal.history import DAY, NEVER, PRIOR_WEIGHT, Outcomes
from ml_pipeline.features.temporal.ranges import Groups, Moments, OrderStatistics, Range, range_moments
from ml_pipeline.features.temporal.trend import trend
from ml_pipeline.specs import ModelSpec
from ml_pipeline.specs.temporal import LAGS, WINDOWS

HOUR = DAY // 24
QUARTILES = {"q25": 0.25, "median": 0.5, "q75": 0.75}
IN_PROGRESS_DAYS = 30


def temporal_features(
    spec: ModelSpec, event_time: np.ndarray, outcomes: Outcomes, levels: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The ``history_*`` columns of the families enabled in ``features.temporal``, one float64 array per name.

    With a log target, statistics are computed from log(1 + outcome). Means are converted back to the reported unit;
    standard deviations, slopes and departures stay on the log scale. Lags, minima, maxima and quantiles are outcomes in
    the reported unit.

    Parameters
    ----------
    spec
        The model.
    event_time
        int64 microseconds, ascending.
    outcomes
        Outcomes of the entities, in the same order.
    levels
        For each column of ``spec.features.history``, an object array of level or None. Each feature is computed for the
        tenant, and for the entities at the same level; it is NaN for an entity without a level.
    """
    families = spec.features.temporal
    events = _Events.of(event_time, outcomes, log=spec.training.target == "log")
    tenant = _Scope(events, np.zeros(len(event_time), dtype="int64"))
    scopes = {"": tenant} | {
        f"{column}_": _Scope(events, pd.factorize(labels)[0].astype("int64")) for column, labels in levels.items()
    }
    columns = {}
    for name, scope in scopes.items():
        found: dict[str, np.ndarray] = {}
        if families.lags:
            found |= {f"lag_{lag}": _lag(scope, lag) for lag in LAGS}
        if families.rolling:
            found |= _rolling(scope)
        if families.expanding:
            found |= _expanding(scope, None if scope is tenant else tenant)
        if families.trend:
            found |= trend(scope.known, scope.codes, events.term, events.known_at, scope.known_since)
        if families.queue:
            found |= _queue(scope)
        without_level = scope.codes < 0
        for part, column in found.items():
            columns[f"history_{name}{part}"] = np.where(without_level | ~np.isfinite(column), np.nan, column)
    return columns


@dataclass(frozen=True)
class _Events:
    """Arrivals in the order of the entities; known outcomes and endings in the order of their own times."""

    event_time: np.ndarray
    known: np.ndarray
    known_at: np.ndarray
    value: np.ndarray
    term: np.ndarray
    """The value on the scale of the target."""
    finished: np.ndarray
    finished_at: np.ndarray
    ended_at: np.ndarray
    """When each entity ended, in the order of the entities."""
    log: bool

    @classmethod
    def of(cls, event_time: np.ndarray, outcomes: Outcomes, *, log: bool) -> _Events:
        known, finished = (
            np.argsort(at, kind="stable")[: np.count_nonzero(at < NEVER)]
            for at in (outcomes.known_at, outcomes.finished_at)
        )
        value = outcomes.value[known]
        return cls(
            event_time,
            known,
            outcomes.known_at[known],
            value,
            np.log1p(value) if log else value,
            finished,
            outcomes.finished_at[finished],
            outcomes.finished_at,
            log,
        )


@dataclass(frozen=True)
class _Scope:
    """Events grouped by the level of one column, or the whole tenant as one group."""

    events: _Events
    codes: np.ndarray
    """Level of each entity; -1 if it has none."""

    @cached_property
    def levels(self) -> int:
        return int(self.codes.max(initial=-1)) + 1

    @cached_property
    def known(self) -> Groups:
        return Groups.of(self.codes[self.events.known], self.levels)

    @cached_property
    def arrivals(self) -> Groups:
        return Groups.of(self.codes, self.levels)

    @cached_property
    def endings(self) -> Groups:
        return Groups.of(self.codes[self.events.finished], self.levels)

    @cached_property
    def known_before(self) -> np.ndarray:
        """Number of outcomes at its level known before each entity."""
        return self.known_until(self.events.event_time)

    def known_until(self, moment: np.ndarray) -> np.ndarray:
        return self.known.seen(self.codes, np.searchsorted(self.events.known_at, moment))

    def known_since(self, days: int) -> Range:
        """Outcomes that became known in the last ``days`` days; all outcomes for 0."""
        if not days:
            return Range(np.zeros(len(self.codes), dtype="int64"), self.known_before)
        return Range(self.known_until(self.events.event_time - days * DAY), self.known_before)

    @cached_property
    def all_known(self) -> Moments:
        return range_moments(self.known, self.codes, self.events.term, [self.known_since(0)])[0]

    def last(self, groups: Groups, times: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Microseconds from the last of the ``before`` events to the event time; NaN if ``before`` is 0."""
        at = _picked(groups, self.codes, times.astype("float64"), before - 1)
        return np.asarray(self.events.event_time - at)


def _picked(groups: Groups, codes: np.ndarray, values: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Value at ``position`` in each entity's group; NaN for a negative position."""
    found = np.full(len(codes), np.nan)
    there = position >= 0
    found[there] = values[groups.at(codes[there], position[there])]
    return found


def _lag(scope: _Scope, lag: int) -> np.ndarray:
    return _picked(scope.known, scope.codes, scope.events.value, scope.known_before - lag)


def _rolling(scope: _Scope) -> dict[str, np.ndarray]:
    """Statistics per window; a quantile is the smallest outcome that this share of the window does not exceed."""
    ranges = [scope.known_since(days) for days in WINDOWS]
    moments = range_moments(scope.known, scope.codes, scope.events.term, ranges)
    ordered = OrderStatistics(scope.events.value[scope.known.order])
    base = scope.known.start[scope.codes]
    columns: dict[str, np.ndarray] = {}
    for days, asked, found in zip(WINDOWS, ranges, moments, strict=True):
        columns |= {f"rolling_{days}d_{name}": column for name, column in _spread(scope, found).items()}
        for name, share in QUARTILES.items():
            k = np.maximum(np.ceil(share * found.n).astype("int64") - 1, 0)
            columns[f"rolling_{days}d_{name}"] = ordered.smallest(base + asked.first, base + asked.end, k)
    return columns


def _spread(scope: _Scope, moments: Moments) -> dict[str, np.ndarray]:
    low, high, mean = (np.expm1(each) if scope.events.log else each for each in moments[3:5] + moments[1:2])
    return {"mean": mean, "std": moments.std, "min": low, "max": high}


def _expanding(scope: _Scope, tenant: _Scope | None) -> dict[str, np.ndarray]:
    """Statistics of all known outcomes; with ``tenant`` also the level's shrunk departure from the tenant's mean."""
    found = scope.all_known
    columns = {name: column for name, column in _spread(scope, found).items() if name != "mean"}
    columns["lag_1"] = _lag(scope, 1)
    columns["days_since_outcome"] = scope.last(scope.known, scope.events.known_at, scope.known_before) / DAY
    if tenant is not None:
        whole = tenant.all_known
        mine = np.where(found.n > 0, found.mean - whole.mean, 0.0)
        columns["departure"] = np.where(whole.n > 0, mine * found.n / (found.n + PRIOR_WEIGHT), np.nan)
        columns["share"] = np.where(whole.n > 0, found.n / np.maximum(whole.n, 1), np.nan)
    return columns


def _queue(scope: _Scope) -> dict[str, np.ndarray]:
    now, codes = scope.events.event_time, scope.codes
    arrivals, endings = scope.arrivals, scope.endings
    arrived = arrivals.seen(codes, np.searchsorted(now, now))
    ended = endings.seen(codes, np.searchsorted(scope.events.finished_at, now))
    columns = {
        f"arrivals_{name}": arrived - arrivals.seen(codes, np.searchsorted(now, since))
        for name, since in (_starts(now, (1, 7, 30)) | {"same_hour": now // HOUR * HOUR}).items()
    }
    columns["hours_since_arrival"] = scope.last(arrivals, now, arrived) / HOUR
    for name, since in _starts(now, (7, 30)).items():
        columns[f"endings_{name}"] = ended - endings.seen(codes, np.searchsorted(scope.events.finished_at, since))
    columns["hours_since_ending"] = scope.last(endings, scope.events.finished_at, ended) / HOUR
    began = arrivals.seen(codes, np.searchsorted(now, now - IN_PROGRESS_DAYS * DAY))
    base = arrivals.start[codes]
    done = OrderStatistics(scope.events.ended_at[arrivals.order]).below(base + began, base + arrived, now)
    columns["in_progress_30d"] = arrived - began - done
    a_day = columns["endings_30d"] / 30
    # Little's law: items in progress = items finished per day x days each one waits.
    columns["wait_days"] = np.divide(columns["in_progress_30d"], a_day, out=np.full(len(now), np.nan), where=a_day > 0)
    return {name: column.astype("float64") for name, column in columns.items()}


def _starts(now: np.ndarray, windows: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {f"{days}d": now - days * DAY for days in windows}
