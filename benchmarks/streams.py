"""Public streams as models of the product: their rows become entities with times, their classes delayed labels.

``electricity``: one row every half hour from 1996-05-07 on; the class is whether the price is above its day's mean.
``NEweather``: one row per day; the last ``WEATHER_ROWS``, from 1990-01-01 on. ``bank`` and ``commits`` are those of
``benchmarks.data``. A commit that no later one is known to have fixed counts as clean after ``CLEAN_DAYS``, as
usual (Cabral et al. 2019). A later fix is a late label.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.data import CHANGE_MEASURES, calls
from benchmarks.data import commits as projects
from ml_pipeline.specs import ModelSpec

WEATHER_ROWS = 2000
CLEAN_DAYS = 90
SMALL_TREES = {"n_estimators": 40, "num_leaves": 15, "learning_rate": 0.1, "min_data_in_leaf": 10}


def streams(data: Path, delays: tuple[int, ...]) -> Iterator[tuple[str, ModelSpec, pd.DataFrame]]:
    """Name, model and source rows of each stream under ``data``/streams, once per label delay in days."""
    for name, read, window in (("NEweather", _weather, 730), ("bank", _bank, 120), ("electricity", _electricity, 120)):
        rows = read(data)
        if rows is None:
            continue
        spec = _spec(name.lower(), rows, window)
        rows["row"] = [f"{number:06d}" for number in range(len(rows))]
        for delay in delays:
            yield f"{name} +{delay}d", spec, rows.assign(known_at=rows["at"] + pd.Timedelta(days=delay))


def commits(data: Path) -> Iterator[tuple[str, ModelSpec, pd.DataFrame]]:
    """Name, model and source rows of each project under ``data``/commits."""
    for name, project in projects(data):
        rows = _commits(project)
        spec = _spec("commits", rows.drop(columns=["row", "known_at"]), 730)
        yield name, spec, rows


def _commits(rows: pd.DataFrame) -> pd.DataFrame:
    at, fixed_at = rows["committed_at"], rows["fixed_at"]
    return rows[CHANGE_MEASURES].assign(
        row=rows["commit"],
        at=at,
        y=fixed_at.notna().astype(float),
        known_at=fixed_at.fillna(at + pd.Timedelta(days=CLEAN_DAYS)),
    )


def _spec(name: str, rows: pd.DataFrame, window_days: int) -> ModelSpec:
    features = [str(column) for column in rows if column not in ("at", "y")]
    categorical = [column for column in features if not pd.api.types.is_numeric_dtype(rows[column])]
    numeric = [column for column in features if column not in categorical]
    columns: dict[str, dict[str, Any]] = {column: {"type": "number"} for column in numeric}
    columns |= {column: {"type": "category"} for column in categorical}
    columns |= {"y": {"type": "number", "known_at": "label"}, "known_at": {"type": "time", "known_at": "label"}}
    return ModelSpec.model_validate(
        {
            "name": name,
            "title": name,
            "task": "binary",
            "source": {"table": "stream.rows", "entity": "row", "event_time": "at", "columns": columns},
            "label": {"value": "y", "time": "known_at"},
            "features": {"numeric": numeric, "categorical": categorical},
            "training": {
                "window_days": window_days,
                "estimator": "lightgbm",
                "params": SMALL_TREES,
                "loss": "log_loss",
            },
        }
    )


def _electricity(data: Path) -> pd.DataFrame | None:
    path = data / "streams" / "electricity.csv.xz"
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    at = pd.Timestamp("1996-05-07", tz="UTC") + pd.to_timedelta(np.arange(len(table)) * 30, unit="min")
    chosen = table[["period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]]
    return chosen.assign(y=(table["class"] == "UP").astype(float), at=at)


def _weather(data: Path) -> pd.DataFrame | None:
    path = data / "streams" / "NEweather.csv.xz"
    if not path.is_file():
        return None
    table = pd.read_csv(path, index_col=0).tail(WEATHER_ROWS).reset_index(drop=True)
    at = pd.Timestamp("1990-01-01", tz="UTC") + pd.to_timedelta(np.arange(len(table)), unit="D")
    return table.assign(y=table["y"].astype(float), at=at)


def _bank(data: Path) -> pd.DataFrame | None:
    rows = calls(data)
    return None if rows is None else rows.drop(columns="call").rename(columns={"called_at": "at", "subscribed": "y"})
