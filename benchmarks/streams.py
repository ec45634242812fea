"""Public streams as the product's own models: their rows become entities with times, their classes labels that wait.

``electricity``: a row every half hour from 1996-05-07 on; the class is whether the price is above its day's mean.
``NEweather``: a row a day; the last ``WEATHER_ROWS``, from 1990-01-01 on. ``bank``: rows are in the order of time and
name their month only; the months of a run of rows follow each other from May 2008 on, and the rows of each are spread
evenly over it; ``duration``, known only afterwards, is left out. ``commits``: the label is whether a later commit fixed
what this one broke, known when the fix was committed; a commit without one counts as clean after ``CLEAN_DAYS``, as it
is usual (Cabral et al. 2019). What is fixed later than that is a late label, not a clean one.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ml_pipeline.specs import ModelSpec

WEATHER_ROWS = 2000
CLEAN_DAYS = 90
CHURN = ["ns", "nm", "nf", "entropy", "la", "ld", "lt", "fix", "ndev", "pd", "npt", "exp", "rexp", "sexp"]
BANK = "bank-additional/bank-additional-full.csv"
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
SMALL_TREES = {"n_estimators": 40, "num_leaves": 15, "learning_rate": 0.1, "min_data_in_leaf": 10}


def streams(data: Path, delays: tuple[int, ...]) -> Iterator[tuple[str, ModelSpec, pd.DataFrame]]:
    """Name, model and source rows of each stream under ``data``/streams, once per label delay in days."""
    for name, read, window in (("NEweather", _weather, 730), ("bank", _bank, 120), ("electricity", _electricity, 120)):
        rows = read(data / "streams")
        if rows is None:
            continue
        spec = _spec(name.lower(), rows, window)
        rows["row"] = [f"{number:06d}" for number in range(len(rows))]
        for delay in delays:
            yield f"{name} +{delay}d", spec, rows.assign(known_at=rows["at"] + pd.Timedelta(days=delay))


def commits(data: Path) -> Iterator[tuple[str, ModelSpec, pd.DataFrame]]:
    """Name, model and source rows of each project under ``data``/commits."""
    for path in sorted((data / "commits").glob("*.zip")):
        rows = _commits(path)
        spec = _spec("commits", rows.drop(columns=["row", "known_at"]), 730)
        yield path.stem, spec, rows


def _commits(path: Path) -> pd.DataFrame:
    with zipfile.ZipFile(path) as archive:
        table, hashes = (_table(archive, f"{path.stem}_{part}.csv") for part in ("input", "commitsID"))
        mapping = _table(archive, f"{path.stem}_mapping.csv")
    at = pd.to_datetime(table["commitdate"], utc=True)
    number = dict(zip(hashes["commit"], hashes["transactionid"], strict=True))
    when = dict(zip(table["transactionid"], at, strict=True))
    fixes = pd.DataFrame(
        {"broken": mapping["intro."].map(number), "fixed_at": mapping["fix"].map(number).map(when)}
    ).dropna()
    first_fix = pd.to_datetime(fixes["fixed_at"], utc=True).groupby(fixes["broken"]).min()
    fixed_at = table["transactionid"].map(first_fix)
    rows = table[CHURN].assign(
        row=table["transactionid"].astype(str),
        at=at,
        y=fixed_at.notna().astype(float),
        known_at=fixed_at.fillna(at + pd.Timedelta(days=CLEAN_DAYS)),
    )
    return rows[at.notna()].reset_index(drop=True)


def _table(archive: zipfile.ZipFile, name: str) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(archive.read(name)), sep=None, engine="python")


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


def _electricity(folder: Path) -> pd.DataFrame | None:
    path = folder / "electricity.csv.xz"
    if not path.is_file():
        return None
    table = pd.read_csv(path)
    at = pd.Timestamp("1996-05-07", tz="UTC") + pd.to_timedelta(np.arange(len(table)) * 30, unit="min")
    chosen = table[["period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]]
    return chosen.assign(y=(table["class"] == "UP").astype(float), at=at)


def _weather(folder: Path) -> pd.DataFrame | None:
    path = folder / "NEweather.csv.xz"
    if not path.is_file():
        return None
    table = pd.read_csv(path, index_col=0).tail(WEATHER_ROWS).reset_index(drop=True)
    at = pd.Timestamp("1990-01-01", tz="UTC") + pd.to_timedelta(np.arange(len(table)), unit="D")
    return table.assign(y=table["y"].astype(float), at=at)


def _bank(folder: Path) -> pd.DataFrame | None:
    path = folder / "bank-additional.zip"
    if not path.is_file():
        return None
    with zipfile.ZipFile(path) as archive:
        table = pd.read_csv(io.BytesIO(archive.read(BANK)), sep=";")
    at = _spread_over_months(table["month"].map(MONTHS.index).to_numpy() + 1)
    chosen = table.drop(columns=["duration", "month", "day_of_week", "y"])
    return chosen.assign(y=(table["y"] == "yes").astype(float), at=at)


def _spread_over_months(month: np.ndarray) -> pd.DatetimeIndex:
    """Times of rows that name their month only: a run of equal months is that month, a falling number the next year."""
    starts = np.flatnonzero(np.diff(month, prepend=-1))
    ends = np.append(starts[1:], len(month))
    year, before, parts = 2008, 0, []
    for start, end in zip(starts, ends, strict=True):
        number = int(month[start])
        year += number < before
        before = number
        month_start = np.datetime64(f"{year}-{number:02d}", "M")
        first, following = (month_start + step for step in (0, 1))
        length = (following.astype("datetime64[us]") - first.astype("datetime64[us]")).astype(int)
        offsets = np.arange(end - start) * length // (end - start)
        parts.append(first.astype("datetime64[us]") + offsets.astype("timedelta64[us]"))
    return pd.DatetimeIndex(np.concatenate(parts)).tz_localize("UTC")
