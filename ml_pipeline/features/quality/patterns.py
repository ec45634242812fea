"""Temporal patterns of one tenant's outcomes and arrivals: weekly and yearly season, trend, and level changes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ml_pipeline.specs import ModelSpec

LEVEL = 0.01  # significance level: 1% of series without a season or trend show one by chance
WEAKEST_SEASON = 0.05
WEEKS_FOR_WEEK, MONTHS_FOR_TREND, MONTHS_FOR_YEAR, WEEKS_FOR_CHANGES = 8, 12, 24, 26
FEWEST_IN_PHASE = 4
SHORTEST_LEVEL = 8  # weeks, the shortest segment between two level changes
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@dataclass(frozen=True)
class Season:
    """``strength`` is the share (0 to 1) of the ranks' variance that the phase explains beyond chance."""

    strength: float
    p_value: float
    high: str
    low: str

    @property
    def found(self) -> bool:
        return self.p_value < LEVEL and self.strength >= WEAKEST_SEASON


@dataclass(frozen=True)
class Trend:
    """Theil-Sen slope in the series' unit per year with its 95% interval, and the p-value of Mann-Kendall."""

    per_year: float
    lower: float
    upper: float
    p_value: float

    @property
    def found(self) -> bool:
        return self.p_value < LEVEL and self.lower * self.upper > 0


@dataclass(frozen=True)
class Change:
    """Level change in the week that begins on ``since``: the medians of the weekly values before and after."""

    since: str
    before: float
    after: float


@dataclass(frozen=True)
class Pattern:
    """Patterns of one series. None is a pattern that needs more data; ``insufficient`` says how much more."""

    unit: str
    weeks: int
    week: Season | None
    year: Season | None
    trend: Trend | None
    changes: list[Change] | None
    insufficient: list[str]

    def sentence(self) -> str:
        """Text of the patterns found, in the order of the fields, then of those that need more data."""
        said = [
            f"season of the {name} {season.strength:.2f} (most: {season.high}, least: {season.low})"
            for name, season in (("week", self.week), ("year", self.year))
            if season is not None and season.found
        ]
        if self.trend is not None and self.trend.found:
            trend = self.trend
            said.append(f"{trend.per_year:+.3g} {self.unit} per year ({trend.lower:.3g} to {trend.upper:.3g})")
        said += [f"since {c.since} {c.after:.3g} instead of {c.before:.3g} {self.unit}" for c in self.changes or []]
        if not said and len(self.insufficient) < 4:
            said = ["nothing found"]
        if self.insufficient:
            said.append("too short for " + ", ".join(self.insufficient))
        return "; ".join(said)


@dataclass(frozen=True)
class Patterns:
    """Patterns of the outcomes by the day they became known, and of the entities by the day they arrived."""

    outcomes: Pattern
    arrivals: Pattern

    def to_dict(self) -> dict[str, Any]:
        """The patterns as numbers, strings, lists and None for JSON, without NaN."""
        return asdict(self)

    def sentence(self) -> str:
        return f"outcomes: {self.outcomes.sentence()}. arrivals: {self.arrivals.sentence()}."


class _Weekly(NamedTuple):
    """One value per complete week from ``first`` on (weeks since 1970 that begin on Monday), NaN for an empty week."""

    first: int
    values: np.ndarray


def temporal_patterns(spec: ModelSpec, frame: pd.DataFrame, as_of: datetime) -> Patterns:
    """Patterns of the matured labels and of the arrivals of a feature frame up to the last complete week.

    Outcomes are grouped by the day they became known; grouped by arrival, the newest weeks would contain only the
    outcomes that came quickly. The weekly value is the median (binary: the mean) of the outcomes, or the number of
    entities. All tests use ranks, so that outliers and heavy tails do not create patterns. A level change can also
    appear as a trend, and a trend as level changes: read the two together.

    Parameters
    ----------
    spec
        The model.
    frame
        Result of ``point_in_time.build`` for ``spec`` and ``as_of``.
    as_of
        Aware time.
    """
    end = _week(_days(pd.Series([pd.Timestamp(as_of)])))[0]
    matured = frame[frame["state"] == "matured"]
    known_on, label = _days(matured["label_time"]), matured["label"].to_numpy()
    complete = _week(known_on) < end
    outcomes = _weekly(known_on[complete], label[complete], int(end), binary=spec.task == "binary")
    inside = complete & (_week(known_on) >= outcomes.first)
    unit = spec.label.unit or ("as a share" if spec.task == "binary" else "")
    came_on = _days(frame["event_time"])
    counts = _counts(came_on, int(end))
    arrivals = _Weekly(counts.first, counts.values.sum(axis=1))
    return Patterns(
        outcomes=_pattern(unit, outcomes, label[inside], (known_on[inside] + 3) % 7),
        arrivals=_pattern(
            "entities a week", arrivals, counts.values.ravel(), np.tile(np.arange(7), len(counts.values))
        ),
    )


def _pattern(unit: str, weekly: _Weekly, daily: np.ndarray, weekday: np.ndarray) -> Pattern:
    """Patterns of one series; ``daily`` and ``weekday`` are the values for the weekly season and their days."""
    insufficient = []
    known = ~np.isnan(weekly.values)
    weeks = int(known.sum())
    # Months since 1970 in which at least three weeks with a value begin.
    grouped = pd.Series(weekly.values[known]).groupby(_months(weekly)[known])
    median = grouped.median()[grouped.count() >= 3]
    months, monthly = median.index.to_numpy(dtype=int), median.to_numpy(dtype=float)
    week = _season(daily, weekday, DAYS, FEWEST_IN_PHASE) if weeks >= WEEKS_FOR_WEEK else None
    if week is None:
        insufficient.append(f"the season of the week ({weeks} of {WEEKS_FOR_WEEK} weeks, or days with too few values)")
    trend = _trend(months, monthly) if len(months) >= MONTHS_FOR_TREND else None
    if trend is None:
        insufficient.append(f"a trend ({len(months)} of {MONTHS_FOR_TREND} months)")
    year, seasonal = None, np.zeros(len(weekly.values))
    if trend is not None and len(months) >= MONTHS_FOR_YEAR:
        level = monthly - trend.per_year * months / 12
        year = _season(level, months % 12, MONTHS, MONTHS_FOR_YEAR // 12)
        if year is not None and year.found:
            by_month = pd.Series(level).groupby(months % 12).median().reindex(range(12), fill_value=np.median(level))
            seasonal = by_month.to_numpy()[_months(weekly) % 12]
    if year is None:
        insufficient.append(f"the season of the year ({len(months)} of {MONTHS_FOR_YEAR} months)")
    changes = _changes(weekly, seasonal) if weeks >= WEEKS_FOR_CHANGES else None
    if changes is None:
        insufficient.append(f"changes of level ({weeks} of {WEEKS_FOR_CHANGES} weeks)")
    return Pattern(unit, weeks, week, year, trend, changes, insufficient)


def _season(values: np.ndarray, phase: np.ndarray, names: tuple[str, ...], fewest: int) -> Season | None:
    """Analysis of variance of the ranks by phase (Conover and Iman 1981); None if fewer than two phases remain.

    Phases with fewer than ``fewest`` values are left out. The strength is the adjusted coefficient of determination.
    """
    from scipy.stats import f_oneway, rankdata

    enough = np.bincount(phase, minlength=len(names)) >= fewest
    values, phase = values[enough[phase]], phase[enough[phase]]
    phases, rows = np.flatnonzero(enough), len(values)
    if len(phases) < 2 or rows <= len(phases):
        return None
    if values.min() == values.max():
        return Season(0.0, 1.0, "none", "none")
    ranks = rankdata(values)
    groups = [ranks[phase == one] for one in phases]
    variance = f_oneway(*groups)
    means = [group.mean() for group in groups]
    freedom = rows - len(phases)
    unexplained = (rows - 1) / (freedom + (len(phases) - 1) * float(variance.statistic))
    high, low = phases[np.argmax(means)], phases[np.argmin(means)]
    return Season(round(max(1 - unexplained, 0.0), 4), float(variance.pvalue), names[high], names[low])


def _trend(months: np.ndarray, values: np.ndarray) -> Trend:
    """Theil-Sen slope of the monthly medians (Sen 1968) and the test of Mann and Kendall.

    Monthly values, because the autocorrelation of weekly ones would make the test find trends that do not exist.
    """
    from scipy.stats import kendalltau, theilslopes

    if values.min() == values.max():
        return Trend(0.0, 0.0, 0.0, 1.0)
    slope, _, lower, upper = theilslopes(values, months / 12, alpha=0.95)
    return Trend(float(slope), float(lower), float(upper), float(kendalltau(months, values).pvalue))


def _changes(weekly: _Weekly, seasonal: np.ndarray) -> list[Change]:
    """Weeks in which the level changed, oldest first.

    Optimal partitioning (Jackson et al. 2005) of the normal scores of the weekly values, minus the yearly season if
    there is one, into levels of at least eight weeks. Each change must lower the sum of squares by 3 log(n) times the
    long-run variance: the modified Bayesian criterion (Zhang and Siegmund 2007) for autocorrelated values. If one
    straight line fits better than the levels, the result is empty.
    """
    from scipy.special import ndtri
    from scipy.stats import rankdata

    at = np.flatnonzero(~np.isnan(weekly.values))
    values, rows = weekly.values[at], len(at)
    scores = ndtri((rankdata(values - seasonal[at]) - 0.5) / rows)
    variance = _long_run_variance(scores)
    if not variance:
        return []
    penalty = 3 * np.log(rows) * variance
    starts, cost = _levels(scores, penalty, SHORTEST_LEVEL)
    residuals = np.polyfit(np.arange(rows), scores, 1, full=True)[1]
    if residuals.size and float(residuals[0]) + penalty < cost:
        return []
    ends = [*starts[1:], rows]
    level = [float(np.median(values[start:end])) for start, end in zip(starts, ends, strict=True)]
    return [
        Change(str(_monday(weekly.first + int(at[start]))), before, after)
        for start, before, after in zip(starts[1:], level[:-1], level[1:], strict=True)
    ]


def _long_run_variance(values: np.ndarray) -> float:
    """Long-run variance of a first-order autoregression, from differences, which a level change hardly affects.

    The mean squared differences at lags 1 and 2 have the ratio 1 : 1 + rho (Chakar et al. 2017).
    """
    neighbours, next_but_one = (float(np.square(values[lag:] - values[:-lag]).mean()) / 2 for lag in (1, 2))
    if not neighbours:
        return 0.0
    rho = min(max(next_but_one / neighbours - 1, 0.0), 0.9)
    return neighbours / (1 - rho) * (1 + rho) / (1 - rho)


def _levels(values: np.ndarray, penalty: float, shortest: int) -> tuple[list[int], float]:
    """Starts of the levels that minimise the sum of squares plus ``penalty`` per change, and the minimum."""
    rows = len(values)
    total, squares = (np.concatenate([[0.0], np.cumsum(part)]) for part in (values, np.square(values)))
    best, last = np.full(rows + 1, np.inf), np.zeros(rows + 1, dtype=int)
    best[0] = -penalty
    for end in range(shortest, rows + 1):
        start = np.arange(end - shortest + 1)
        within = squares[end] - squares[start] - np.square(total[end] - total[start]) / (end - start)
        cost = best[start] + within + penalty
        last[end] = int(np.argmin(cost))
        best[end] = cost[last[end]]
    starts = [int(last[rows])]
    while starts[0] > 0:
        starts.insert(0, int(last[starts[0]]))
    return starts, float(best[rows])


def _weekly(days: np.ndarray, values: np.ndarray, end: int, binary: bool) -> _Weekly:
    """Median (binary: mean) of the values in each complete week before ``end``."""
    if not len(days):
        return _Weekly(end, np.empty(0))
    week = _week(days)
    first = int(_week(days.min() + 6))
    grouped = pd.Series(values).groupby(week)
    statistic = grouped.mean() if binary else grouped.median()
    return _Weekly(first, statistic.reindex(np.arange(first, end)).to_numpy(dtype=float))


def _counts(days: np.ndarray, end: int) -> _Weekly:
    """Number of entities in the complete weeks before ``end``, shape (weeks, 7 days)."""
    if not len(days):
        return _Weekly(end, np.empty((0, 7)))
    first = int(_week(days.min() + 6))
    since = days - (7 * first - 3)
    length = max(7 * (end - first), 0)
    inside = since[(since >= 0) & (since < length)]
    return _Weekly(first, np.bincount(inside, minlength=length).astype(float).reshape(-1, 7))


def _months(weekly: _Weekly) -> np.ndarray:
    return np.asarray(_monday(weekly.first + np.arange(len(weekly.values))).astype("datetime64[M]").astype(int))


def _days(times: pd.Series) -> np.ndarray:
    """Days since 1970 in UTC."""
    return np.asarray(times.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[D]").astype(int))


def _week(days: np.ndarray) -> np.ndarray:
    """Weeks, beginning on Monday, since the week of 1 January 1970, which was a Thursday."""
    return (days + 3) // 7


def _monday(week: Any) -> Any:
    return np.datetime64("1970-01-01") + (np.asarray(week) * 7 - 3).astype("timedelta64[D]")
