"""Simulated columns for the drift benchmark: the twenty of the protocol, its extremes, shifts, and quiet streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml_pipeline.specs import ModelSpec, load_specs

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]

NUMERIC: dict[str, Draw] = {
    "normal": lambda rng, rows: rng.standard_normal(rows),
    "lognormal": lambda rng, rows: rng.lognormal(size=rows),
    "exponential": lambda rng, rows: rng.standard_exponential(rows),
    "t4": lambda rng, rows: rng.standard_t(4, rows),
}
SIGMA = {"normal": 1.0, "lognormal": float(np.sqrt((np.e - 1) * np.e)), "exponential": 1.0, "t4": float(np.sqrt(2))}
MEAN = {"normal": 0.0, "lognormal": float(np.exp(0.5)), "exponential": 1.0, "t4": 0.0}
LEVELS = (3, 10, 30, 100)
EXTREMES: dict[str, Draw] = {
    "heavy tails": lambda rng, rows: rng.standard_t(1.5, rows),
    "ties": lambda rng, rows: rng.poisson(1.5, rows).astype(float),
    "mostly zero": lambda rng, rows: np.where(rng.random(rows) < 0.7, 0.0, rng.lognormal(size=rows)),
}
SEASON, NOISE, MEMORY, WEEKEND = 0.2, 0.2, 0.6, 0.4


@dataclass(frozen=True)
class Columns:
    """Names of simulated columns, each with how it is drawn."""

    numeric: dict[str, str]
    categorical: dict[str, int]

    @property
    def all(self) -> list[str]:
        return [*self.numeric, *self.categorical]

    def spec(self) -> ModelSpec:
        """A specification with these columns as features and nothing else."""
        shipped = load_specs()["rework_risk"]
        update = {"numeric": list(self.numeric), "categorical": list(self.categorical)}
        features = shipped.features.model_copy(update=update | {"text": [], "calendar": False, "history": []})
        return shipped.model_copy(update={"features": features})


PROTOCOL = Columns(
    {f"{kind}_{copy}": kind for kind in NUMERIC for copy in range(4)}, {f"levels_{size}": size for size in LEVELS}
)
EXTREME_COLUMNS = {
    "100 levels": Columns({}, {f"levels_{copy}": 100 for copy in range(20)}),
    **{kind: Columns({f"column_{copy}": kind for copy in range(20)}, {}) for kind in EXTREMES},
}


def zipf(levels: int) -> Floats:
    share = 1 / np.arange(1, levels + 1)
    return np.asarray(share / share.sum())


def draw(rng: np.random.Generator, columns: Columns, rows: int) -> dict[str, NDArray[Any]]:
    """Independent rows; categorical levels are whole numbers."""
    drawn = NUMERIC | EXTREMES
    made: dict[str, NDArray[Any]] = {name: drawn[kind](rng, rows) for name, kind in columns.numeric.items()}
    for name, levels in columns.categorical.items():
        made[name] = rng.choice(levels, size=rows, p=zipf(levels))
    return made


def frame(columns: dict[str, NDArray[Any]], start: str, days: int) -> pd.DataFrame:
    """A feature frame whose rows are spread evenly over ``days`` days from ``start``."""
    rows = len(next(iter(columns.values())))
    seconds = (np.arange(rows) * (days * 86_400 / rows)).astype(np.int64)
    times = (pd.Timestamp(start, tz="UTC") + pd.to_timedelta(seconds, unit="s")).as_unit("us")
    return pd.DataFrame({"event_time": times} | columns)


def stream(rng: np.random.Generator, days: int, rows_a_day: int, *, alike: bool) -> pd.DataFrame:
    """Rows of ``days`` days that do not change: independent, or (``alike``) days with levels of their own.

    Then each column's daily level is an AR(1) process (coefficient 0.6, standard deviation 0.2 of the column's) plus a
    weekday pattern of the same size, weekends have 40% of the rows, and the levels of a category move in log odds.
    """
    weekday = np.arange(days) % 7
    expected = np.where(alike & (weekday >= 5), WEEKEND * rows_a_day, rows_a_day)
    rows = rng.poisson(expected)
    day = np.repeat(np.arange(days), rows)
    seconds = np.sort(day * 86_400 + rng.integers(86_400, size=len(day)))
    columns = draw(rng, PROTOCOL, len(day))
    if alike:
        for name, kind in PROTOCOL.numeric.items():
            columns[name] = columns[name] + SIGMA[kind] * _levels(rng, days)[day]
        for name, levels in PROTOCOL.categorical.items():
            moved = zipf(levels) * np.exp([_levels(rng, days) for _ in range(levels)]).T
            limits = np.cumsum(moved / moved.sum(axis=1, keepdims=True), axis=1)[day]
            columns[name] = (rng.random((len(day), 1)) > limits[:, :-1]).sum(axis=1)
    times = (pd.Timestamp("2025-01-06", tz="UTC") + pd.to_timedelta(seconds, unit="s")).as_unit("us")
    return pd.DataFrame({"event_time": times} | columns)


def _levels(rng: np.random.Generator, days: int) -> Floats:
    level = np.empty(days)
    level[0] = rng.normal(scale=NOISE)
    steps = rng.normal(scale=NOISE * np.sqrt(1 - MEMORY**2), size=days)
    for day in range(1, days):
        level[day] = MEMORY * level[day - 1] + steps[day]
    pattern = rng.normal(size=7)
    pattern = SEASON * (pattern - pattern.mean()) / pattern.std()
    return np.asarray(level + pattern[np.arange(days) % 7])


@dataclass(frozen=True)
class Shift:
    """One injected change of two columns: what it does to the current rows, and which kind of column it is for."""

    name: str
    apply: Callable[[np.random.Generator, NDArray[Any], str], NDArray[Any]]
    categorical: bool = False


def _mean(sigmas: float) -> Callable[[np.random.Generator, NDArray[Any], str], NDArray[Any]]:
    return lambda rng, values, kind: np.asarray(values + sigmas * SIGMA[kind])


def _variance(rng: np.random.Generator, values: NDArray[Any], kind: str) -> NDArray[Any]:
    return np.asarray(MEAN[kind] + (values - MEAN[kind]) * np.sqrt(1.2))


def _spread(rng: np.random.Generator, values: NDArray[Any], kind: str) -> NDArray[Any]:
    return np.asarray(MEAN[kind] + (values - MEAN[kind]) * 1.2)


def _tail(rng: np.random.Generator, values: NDArray[Any], kind: str) -> NDArray[Any]:
    return np.where(rng.random(len(values)) < 0.02, MEAN[kind] + 5 * SIGMA[kind], values)


def _points(rng: np.random.Generator, values: NDArray[Any], kind: str) -> NDArray[Any]:
    """Three points of all rows go from the most common level to the second."""
    moving = (values == 0) & (rng.random(len(values)) < 0.03 / np.mean(values == 0))
    return np.where(moving, 1, values)


def _nulls(rng: np.random.Generator, values: NDArray[Any], kind: str) -> NDArray[Any]:
    return np.where(rng.random(len(values)) < 0.1, np.nan, values)


def _unit(rng: np.random.Generator, values: NDArray[Any], kind: str) -> NDArray[Any]:
    return np.asarray(values * 60)


def _new_level(rng: np.random.Generator, values: NDArray[Any], kind: str) -> NDArray[Any]:
    return np.where(rng.random(len(values)) < 0.02, 1_000, values)


def _stuck(rng: np.random.Generator, values: NDArray[Any], kind: str) -> NDArray[Any]:
    return np.full(len(values), np.median(values))


def _gradual(rng: np.random.Generator, values: NDArray[Any], kind: str) -> NDArray[Any]:
    """Half a sigma over fourteen days, of which the window sees the last seven."""
    return np.asarray(values + 0.5 * SIGMA[kind] * np.linspace(0.5, 1.0, len(values)))


SHIFTS = (
    Shift("mean +0.1 sigma", _mean(0.1)),
    Shift("mean +0.2 sigma", _mean(0.2)),
    Shift("mean +0.5 sigma", _mean(0.5)),
    Shift("variance +20%", _variance),
    Shift("standard deviation +20%", _spread),
    Shift("tail 2%", _tail),
    Shift("category 3 points", _points, categorical=True),
    Shift("nulls 0 -> 10%", _nulls),
    Shift("unit change", _unit),
    Shift("new category 2%", _new_level, categorical=True),
    Shift("stuck value", _stuck),
    Shift("gradual over 14 days", _gradual),
)
