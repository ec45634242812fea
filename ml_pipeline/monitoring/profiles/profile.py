"""Profiles: summaries of the training rows of a version, sufficient for drift tests without the rows themselves.

A profile contains, per column, counts over cells and the variation of these counts between days and blocks of days. It
also contains rank correlations and the distributions of predictions and labels. A comparison of counts over shared
cells is exact for these cells, without rounded quantiles. The same function profiles a trailing window.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml_pipeline.errors import UserError
from ml_pipeline.monitoring.drift.correlations import Joint, joint
from ml_pipeline.monitoring.drift.design_effects import CommonDesignEffect, Days, Dispersion, common_design_effect
from ml_pipeline.monitoring.profiles.columns import (
    CategoricalColumn,
    DesignEffect,
    NumericColumn,
    categorical_column,
    codes,
    numbers,
    numeric_column,
)
from ml_pipeline.monitoring.profiles.merge import merged_categorical, merged_numeric
from ml_pipeline.specs.model_spec import ModelSpec
from ml_pipeline.specs.temporal import SEASONAL, factors
from ml_pipeline.stats import Floats

Arrays = dict[str, NDArray[Any]]

FORMAT = 2
# Left out, because they differ between windows without a change: the number of outcomes so far, and the season.
TIME_DRIVEN = SEASONAL | {"history_known"}
# Features of the tenant's state over time. A window, however many rows it has, covers one short piece of a single path,
# so two windows nearly always differ (on real tenants in 29 of 31 weekly reports). They are reported but not judged.
STATE_PREFIX = "history_"
PREDICTION, LABEL = "prediction", "label"
MAX_LEVELS = 1000
ALL_LEVELS = 3000  # over all categorical columns
MAX_HISTORY = 256


class ProfileError(UserError):
    """The bytes are not a profile that this release can read; the message says why."""


@dataclass(frozen=True)
class Profile:
    """Profile of feature rows of one tenant and model."""

    rows: int
    first_day: int | None  # days since 1970
    last_day: int | None
    days: int  # number of days with rows
    block_days: int
    numeric: dict[str, NumericColumn]
    categorical: dict[str, CategoricalColumn]
    joint: Joint
    # Largest standardised deviation of a judged column in each block, sorted, at most MAX_HISTORY values.
    history: Floats
    prediction: NumericColumn | None = None
    label: NumericColumn | None = None

    @property
    def blocks(self) -> float:
        """Number of disjoint blocks of days in the profile."""
        if self.first_day is None or self.last_day is None:
            return 0.0
        return (self.last_day - self.first_day + 1) / self.block_days if len(self.history) else 0.0

    @property
    def common_effect(self) -> CommonDesignEffect:
        """Common design effect of the judged numeric columns."""
        return common_design_effect(
            [column.design_effect.days for name, column in self.numeric.items() if is_judged(name)]
        )

    def to_bytes(self) -> bytes:
        """Compressed archive of arrays with a JSON header, without pickles; equal profiles give equal bytes."""
        writer = _Writer()
        header = {
            "format": FORMAT,
            "rows": self.rows,
            "first_day": self.first_day,
            "last_day": self.last_day,
            "days": self.days,
            "block_days": self.block_days,
            "numeric": {name: writer.numeric(column) for name, column in self.numeric.items()},
            "categorical": {name: writer.categorical(column) for name, column in self.categorical.items()},
            "prediction": None if self.prediction is None else writer.numeric(self.prediction),
            "label": None if self.label is None else writer.numeric(self.label),
            "joint": {"columns": self.joint.columns, "design_effect": self.joint.design_effect},
        }
        encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        arrays = {
            "header": np.frombuffer(encoded, dtype=np.uint8),
            "edges": np.concatenate([np.zeros(0), *writer.edges]),
            "counts": np.concatenate([np.zeros(0, np.int64), *writer.counts]),
            "design_effect": np.concatenate([np.zeros(0), *writer.design_effect]).astype(np.float32),
            "joint": np.stack([self.joint.correlation, self.joint.variance, self.joint.rows]).astype(np.float32),
            "history": self.history.astype(np.float32),
        }
        buffer = io.BytesIO()
        counts = arrays["counts"]
        smallest = np.min_scalar_type(int(counts.max())) if len(counts) else np.dtype(np.uint8)
        arrays["counts"] = counts.astype(smallest)
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Profile:
        """Read a profile that ``to_bytes`` wrote.

        Raises
        ------
        ProfileError
            If the bytes are damaged or have another format.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            header = json.loads(arrays["header"].tobytes())
            found = header["format"]
        except (ValueError, OSError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise ProfileError(f"{len(content)} bytes are not a profile ({error}). Train a new version") from error
        if found != FORMAT:
            raise ProfileError(f"the profile has format {found!r}; this release reads {FORMAT}. Train a new version")
        try:
            return _read(header, arrays)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ProfileError(f"the profile is damaged ({error!r}). Train a new version") from error


def profile(
    spec: ModelSpec,
    frame: pd.DataFrame,
    predictions: pd.DataFrame | None = None,
    outcomes: pd.DataFrame | None = None,
) -> Profile:
    """Profile of the rows of a feature frame.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    frame : DataFrame
        Feature frame, sorted by ``event_time``. Columns of the specification that it lacks are left out.
    predictions : DataFrame, optional
        Predictions with ``predicted_at`` and ``value``.
    outcomes : DataFrame, optional
        Outcomes that became known in the period of the profile, with ``label_time`` and ``label``. Default: the labels
        of the matured rows of the frame.
    """
    block_days = spec.monitoring.current
    days = Days.of(frame["event_time"])
    if outcomes is None and "label" in frame:
        outcomes = frame if "state" not in frame else frame[frame["state"] == "matured"]
    numeric, values, history = _numeric(spec, frame, days, block_days)
    names = [name for name in spec.feature_columns.categorical if name in frame]
    keep = min(MAX_LEVELS, ALL_LEVELS // max(len(names), 1))
    categories = {name: categorical_column(*codes(frame[name]), days, block_days, keep) for name in names}
    judged = {name: found for name, found in values.items() if is_judged(name)}
    deviations = [*history, *(largest for _, largest in categories.values())]
    return Profile(
        rows=len(frame),
        first_day=int(days.numbers[0]) if len(days.numbers) else None,
        last_day=int(days.numbers[-1]) if len(days.numbers) else None,
        days=len(days.numbers),
        block_days=block_days,
        numeric=numeric,
        categorical={name: column for name, (column, _) in categories.items()},
        joint=joint(judged, days),
        history=thinned(np.max(deviations, axis=0)) if deviations else np.zeros(0),
        prediction=_single(predictions, "predicted_at", "value", block_days),
        label=_single(outcomes, "label_time", "label", block_days),
    )


def is_judged(name: str) -> bool:
    """Whether drift of the column is judged; drift of other columns is only reported."""
    return not name.startswith(STATE_PREFIX)


def numeric_names(spec: ModelSpec) -> list[str]:
    """Names of the numeric columns that are compared."""
    return [name for name in spec.feature_columns.numeric if TIME_DRIVEN.isdisjoint(factors(name))]


def single_values(frame: pd.DataFrame, time: str, value: str) -> tuple[Floats, Days]:
    """Values of one column in time order, without missing ones, and their days."""
    known = frame[frame[value].notna() & frame[time].notna()].sort_values(time, kind="stable")
    return numbers(known[value])[0], Days.of(known[time])


def thinned(values: Floats) -> Floats:
    """The sorted values; of more than ``MAX_HISTORY``, evenly spaced quantiles including both extremes."""
    ordered = np.sort(values)
    if len(ordered) <= MAX_HISTORY:
        return ordered
    return ordered[np.linspace(0, len(ordered) - 1, MAX_HISTORY).round().astype(np.intp)]


def merge(first: Profile, second: Profile) -> Profile:
    """Profile of the rows of both profiles, for example of two parts of a snapshot, or of two tenants.

    Cells that both profiles have keep exact counts; other cells are split in proportion. Columns that one profile lacks
    are left out.

    Raises
    ------
    ValueError
        If the blocks have different lengths.
    """
    if first.block_days != second.block_days:
        raise ValueError(f"profiles with blocks of {first.block_days} and {second.block_days} days cannot be merged")
    if not first.rows or not second.rows:
        return first if first.rows else second
    days = [day for day in (first.first_day, first.last_day, second.first_day, second.last_day) if day is not None]
    return Profile(
        rows=first.rows + second.rows,
        first_day=min(days),
        last_day=max(days),
        days=first.days + second.days,
        block_days=first.block_days,
        numeric={
            name: merged_numeric(column, second.numeric[name])
            for name, column in first.numeric.items()
            if name in second.numeric
        },
        categorical={
            name: merged_categorical(column, second.categorical[name], MAX_LEVELS)
            for name, column in first.categorical.items()
            if name in second.categorical
        },
        joint=first.joint.merged(second.joint),
        history=thinned(np.concatenate([first.history, second.history])),
        prediction=_merged_single(first.prediction, second.prediction),
        label=_merged_single(first.label, second.label),
    )


def _merged_single(first: NumericColumn | None, second: NumericColumn | None) -> NumericColumn | None:
    if first is None or second is None:
        return first or second
    return merged_numeric(first, second)


def _numeric(
    spec: ModelSpec, frame: pd.DataFrame, days: Days, block_days: int
) -> tuple[dict[str, NumericColumn], dict[str, Floats], list[Floats]]:
    columns, values, history = {}, {}, []
    for name in numeric_names(spec):
        if name in frame:
            values[name] = numbers(frame[name])[0]
            columns[name], largest = numeric_column(values[name], days, block_days)
            if is_judged(name):
                history.append(largest)
    return columns, values, history


def _single(frame: pd.DataFrame | None, time: str, value: str, block_days: int) -> NumericColumn | None:
    if frame is None or frame.empty:
        return None
    values, days = single_values(frame, time, value)
    return numeric_column(values, days, block_days)[0] if len(values) else None


class _Writer:
    """Collects the arrays of the columns and returns the header entry of each column."""

    def __init__(self) -> None:
        self.edges: list[Floats] = []
        self.counts: list[NDArray[np.int64]] = []
        self.design_effect: list[Floats] = []

    def numeric(self, column: NumericColumn) -> dict[str, Any]:
        self.edges.append(column.edges)
        self.counts.append(column.counts)
        self._design_effect(column.design_effect, column.null_design_effect)
        design_effect = _scalars(column.design_effect), _scalars(column.null_design_effect)
        return {
            "edges": len(column.edges),
            "points": column.points,
            "nulls": column.nulls,
            "design_effect": design_effect,
        }

    def categorical(self, column: CategoricalColumn) -> dict[str, Any]:
        self.counts.append(column.counts)
        self._design_effect(column.design_effect, column.null_design_effect)
        return {
            "levels": column.levels,
            "pooled": [column.pooled_levels, column.pooled_rows],
            "nulls": column.nulls,
            "design_effect": [_scalars(column.design_effect), _scalars(column.null_design_effect)],
        }

    def _design_effect(self, *parts: DesignEffect) -> None:
        for part in parts:
            self.design_effect += [part.days.variance, part.days.independent, part.days.weekly, part.block_variance]


def _scalars(design_effect: DesignEffect) -> list[float]:
    return [float(design_effect.days.days), float(design_effect.blocks), len(design_effect.block_variance)]


class _Reader:
    def __init__(self, arrays: Arrays) -> None:
        self.arrays = {name: arrays[name] for name in ("edges", "counts", "design_effect")}
        self.at = dict.fromkeys(self.arrays, 0)

    def take(self, name: str, length: int) -> NDArray[Any]:
        start = self.at[name]
        part = self.arrays[name][start : start + length]
        if len(part) != length:
            raise ValueError(f"{name} has {len(self.arrays[name])} entries, more are needed")
        self.at[name] = start + length
        return part

    def numeric(self, header: dict[str, Any]) -> NumericColumn:
        edges = self.take("edges", header["edges"])
        counts = self.take("counts", header["edges"] + 1).astype(np.int64)
        design_effect, missing = (self._design_effect(*part) for part in header["design_effect"])
        return NumericColumn(edges, counts, header["points"], header["nulls"], design_effect, missing)

    def categorical(self, header: dict[str, Any]) -> CategoricalColumn:
        counts = self.take("counts", len(header["levels"])).astype(np.int64)
        design_effect, missing = (self._design_effect(*part) for part in header["design_effect"])
        pooled_levels, pooled_rows = header["pooled"]
        levels = tuple(header["levels"])
        return CategoricalColumn(levels, counts, pooled_levels, pooled_rows, header["nulls"], design_effect, missing)

    def _design_effect(self, days: float, blocks: float, length: int) -> DesignEffect:
        variance, independent, weekly, of_blocks = (self.take("design_effect", length).astype(float) for _ in range(4))
        return DesignEffect(Dispersion(variance, independent, days, weekly), of_blocks, blocks)


def _read(header: dict[str, Any], arrays: Arrays) -> Profile:
    reader = _Reader(arrays)
    correlation, variance, rows = arrays["joint"].astype(np.float64)
    numeric = {name: reader.numeric(part) for name, part in header["numeric"].items()}
    categorical = {name: reader.categorical(part) for name, part in header["categorical"].items()}
    single = {name: None if header[name] is None else reader.numeric(header[name]) for name in (PREDICTION, LABEL)}
    described = header["joint"]
    return Profile(
        rows=header["rows"],
        first_day=header["first_day"],
        last_day=header["last_day"],
        days=header["days"],
        block_days=header["block_days"],
        numeric=numeric,
        categorical=categorical,
        joint=Joint(tuple(described["columns"]), correlation, variance, rows, described["design_effect"]),
        history=arrays["history"].astype(np.float64),
        prediction=single[PREDICTION],
        label=single[LABEL],
    )
