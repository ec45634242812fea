"""Profile of one column: counts over cells, and the variation of the counts between days and blocks of days."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml_pipeline.monitoring.drift.design_effects import Days, Dispersion, block_z, blocks, dispersion
from ml_pipeline.monitoring.drift.two_sample import COMPONENTS, chi_square_statistic, rank_scores
from ml_pipeline.stats import Floats

Counts = NDArray[np.int64]

MAX_VALUES = 96  # up to this number of distinct values, each value is a cell of its own
MAX_NAME_BYTES = 32
_GRID = np.concatenate([np.linspace(0, 1, 81), [0.001, 0.002, 0.003, 0.005, 0.0075]])
_SHARES = np.unique(np.concatenate([_GRID, 1 - _GRID]))
_EXTREMES = np.array([1, 2, 4, 7, 11, 16, 24])


class DesignEffect(NamedTuple):
    """Variation of a column between windows, relative to independent rows, with one entry per score."""

    days: Dispersion
    block_variance: Floats  # mean squared standardised deviation of a block from all other rows; 1 for independent rows
    blocks: float  # number of disjoint blocks; 0 if blocks were not computed

    def merged(self, other: DesignEffect) -> DesignEffect:
        total = self.blocks + other.blocks
        mean = (self.block_variance * self.blocks + other.block_variance * other.blocks) / max(total, 1e-9)
        return DesignEffect(self.days + other.days, mean, total)


@dataclass(frozen=True)
class NumericColumn:
    """Number of rows in the cells (-inf, edge 0], (edge 0, edge 1], ..., (last edge, inf)."""

    edges: Floats
    counts: Counts
    points: bool  # each distinct value is a cell of its own; otherwise the edges are quantiles of the sample
    nulls: int
    design_effect: DesignEffect  # of COMPONENTS
    null_design_effect: DesignEffect

    @property
    def rows(self) -> int:
        return int(self.counts.sum())

    def expected(self) -> Floats:
        """Expected counts of another sample, up to a factor.

        For any distribution, an average share of 1 / (n + 1) lies between two neighbours of n ordered values, and the
        same share below the first and above the last. Without this correction, edges that are quantiles of the same
        sample would give too small expected counts outside. The correction is left out if several rows share the first
        or last value.
        """
        counts = self.counts.astype(float)
        if not self.points and len(counts) > 3:
            for outside, inside in ((0, 1), (-1, -2)):
                if self.counts[inside] == 1:
                    counts[outside] += 1.0
                    counts[inside] -= 0.5
        return counts

    def value_at(self, share: float) -> float:
        """Approximate quantile from the cells: a value that about ``share`` of the rows do not exceed."""
        cell = int(np.searchsorted(np.cumsum(self.counts), share * self.rows))
        return float(self.edges[min(cell, len(self.edges) - 1)])


@dataclass(frozen=True)
class CategoricalColumn:
    """Number of rows with the most frequent levels; all other levels share one cell."""

    levels: tuple[str, ...]  # most frequent first
    counts: Counts
    pooled_levels: int
    pooled_rows: int
    nulls: int
    design_effect: DesignEffect  # one score for the counts of all levels
    null_design_effect: DesignEffect

    @property
    def rows(self) -> int:
        return int(self.counts.sum()) + self.pooled_rows


def numbers(column: pd.Series) -> tuple[Floats, int]:
    """Values of a column as floats (NaN for missing), and the number of values that are not numbers.

    >>> values, unreadable = numbers(pd.Series([1, "2", "many", None], dtype=object))
    >>> values.tolist(), unreadable
    ([1.0, 2.0, nan, nan], 1)
    """
    if column.dtype != object and pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(np.float64, na_value=np.nan), 0
    read = pd.to_numeric(column.astype(object), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    return read, int((np.isnan(read) & column.notna().to_numpy()).sum())


def codes(column: pd.Series) -> tuple[NDArray[np.intp], list[str]]:
    """Level code of each row (-1 for missing), and the names of the levels, shortened to a fixed length."""
    try:
        positions, levels = pd.factorize(column.to_numpy(object))
    except TypeError:  # lists and mappings are not hashable
        positions, levels = pd.factorize(column.map(str, na_action="ignore").to_numpy(object))
    names, unique = pd.factorize(np.array([_bounded(str(level)) for level in levels], dtype=object))
    return np.append(names, -1)[positions], list(unique)


def _bounded(name: str) -> str:
    encoded = name.encode("utf-8", "replace")
    if len(encoded) <= MAX_NAME_BYTES:
        return encoded.decode("utf-8")
    digest = hashlib.blake2b(encoded, digest_size=4).hexdigest()
    return encoded[: MAX_NAME_BYTES - 9].decode("utf-8", "ignore") + "~" + digest


def edges_of(ordered: Floats) -> tuple[Floats, bool]:
    """Edges of the cells for sorted values without NaN, and whether each distinct value has its own cell."""
    if not len(ordered):
        return np.zeros(0), True
    fresh = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    if len(fresh) <= MAX_VALUES:
        return point_edges(ordered[fresh]), True
    rows = len(ordered)
    ranks = np.concatenate([np.round(_SHARES * rows).astype(np.intp), _EXTREMES, rows - _EXTREMES])
    ranks = np.unique(ranks[(ranks > 0) & (ranks < rows)])
    values = ordered[ranks]
    # A value that many rows share gets its own cell.
    first, last = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    cuts = np.unique(np.concatenate([first, last[last - first > 1]]))
    cuts = cuts[(cuts > 0) & (cuts < rows)]
    below, above = ordered[cuts - 1], ordered[cuts]
    middle = below / 2 + above / 2
    middle = np.where((middle >= below) & (middle < above), middle, below)
    outer = [np.nextafter(ordered[0], -np.inf)], middle, [ordered[-1]]
    return np.unique(np.concatenate(outer)), False


def point_edges(values: Floats) -> Floats:
    """Edges that give each of the sorted distinct values its own cell, with further cells between them."""
    with np.errstate(over="ignore"):  # the float below the smallest one is minus infinity
        below = np.nextafter(values, -np.inf)
    return np.unique(np.concatenate([below, values]))


def counts_by_day(values: Floats, days: Days, edges: Floats) -> tuple[Counts, Counts]:
    """Number of rows per day and cell (days x cells), and of rows without a value per day."""
    found = np.zeros((len(days.numbers), len(edges) + 2), dtype=np.int64)
    limits = np.append(edges, np.inf)
    for day, (start, stop) in enumerate(zip(days.starts[:-1], days.starts[1:], strict=True)):
        found[day, 1:] = np.searchsorted(np.sort(values[start:stop]), limits, "right")
    return np.diff(found, axis=1), np.diff(days.starts) - found[:, -1]


def levels_by_day(positions: NDArray[np.intp], levels: int, days: Days) -> tuple[Counts, Counts]:
    """Number of rows per day and level (days x levels), and of rows without a level per day."""
    number = len(days.numbers)
    day = np.repeat(np.arange(number), np.diff(days.starts))
    cell = day * (levels + 1) + positions + 1
    found = np.bincount(cell, minlength=number * (levels + 1)).reshape(number, levels + 1)
    return found[:, 1:], found[:, 0]


def numeric_column(values: Floats, days: Days, block_days: int) -> tuple[NumericColumn, Floats]:
    """Profile of a numeric column, and the largest deviation of each block of ``block_days`` days.

    Parameters
    ----------
    values : array of shape (rows,)
        NaN for missing; infinite values count as the smallest and largest.
    days : array of shape (rows,)
        Day of each row, days since 1970, ascending.
    block_days : int
        Length of a block in days.
    """
    ordered = np.sort(values)
    edges, points = edges_of(ordered[: np.searchsorted(ordered, np.inf, "right")])
    by_day, nulls = counts_by_day(values, days, edges)
    counts = by_day.sum(axis=0)
    design_effect, largest = _numeric_design_effect(by_day, counts, days, block_days)
    null_design_effect = missing_design_effect(nulls, days, block_days)
    return NumericColumn(edges, counts, points, int(nulls.sum()), design_effect, null_design_effect), largest


def _numeric_design_effect(by_day: Counts, counts: Counts, days: Days, block_days: int) -> tuple[DesignEffect, Floats]:
    rows = counts.sum()
    scores = np.zeros((len(counts), len(COMPONENTS)))
    if rows:
        whole = counts[None].astype(float)
        scores = rank_scores(whole, whole)[0]
        scores = scores - counts @ scores / rows
        spread = np.sqrt(counts @ np.square(scores) / rows)
        scores = np.divide(scores, spread, out=np.zeros_like(scores), where=spread > 1e-9)
    sums = (by_day @ scores).T
    design_effect, z = _design_effect(
        sums, counts.astype(float) @ np.square(scores), by_day.sum(axis=1).astype(float), days, block_days
    )
    scale = np.sqrt(np.maximum(np.maximum(design_effect.block_variance, design_effect.days.design_effect()), 1e-9))
    return design_effect, np.abs(z / scale[:, None]).max(axis=0, initial=0.0)


def missing_design_effect(nulls: Counts, days: Days, block_days: int) -> DesignEffect:
    """Design effect of the daily numbers of missing values."""
    rows = np.diff(days.starts).astype(float)
    share = nulls.sum() / max(rows.sum(), 1)
    sums = (nulls - rows * share)[None]
    independent = np.array([rows.sum() * share * (1 - share)])
    spread = np.sqrt(share * (1 - share)) or 1.0
    return _design_effect(sums / spread, independent / spread**2, rows, days, block_days)[0]


def _design_effect(
    sums: Floats, independent: Floats, rows: Floats, days: Days, block_days: int
) -> tuple[DesignEffect, Floats]:
    first, last = blocks(days.numbers, block_days)
    z = block_z(sums, rows, first, last)
    before = np.append(0, np.cumsum(rows))
    used = z[:, before[last] > before[first]]
    variance = np.square(used).mean(axis=1) if used.shape[1] else np.zeros(len(sums))
    return DesignEffect(dispersion(sums, independent), variance, used.shape[1] / block_days), z


def categorical_column(
    positions: NDArray[np.intp], names: list[str], days: Days, block_days: int, keep: int
) -> tuple[CategoricalColumn, Floats]:
    """Profile of a categorical column with at most ``keep`` levels, and the chi-square deviate of each block."""
    by_day, nulls = levels_by_day(positions, len(names), days)
    counts = by_day.sum(axis=0)
    order = np.lexsort((names, -counts))
    kept, rest = order[:keep], order[keep:]
    cells = np.column_stack([by_day[:, kept], by_day[:, rest].sum(axis=1)]) if len(rest) else by_day[:, kept]
    design_effect, z = category_design_effect(cells, days, block_days)
    column = CategoricalColumn(
        levels=tuple(names[position] for position in kept),
        counts=counts[kept],
        pooled_levels=len(rest),
        pooled_rows=int(counts[rest].sum()),
        nulls=int(nulls.sum()),
        design_effect=design_effect,
        null_design_effect=missing_design_effect(nulls, days, block_days),
    )
    return column, z


def category_dispersion(by_day: Counts) -> Dispersion:
    """Dispersion of the counts of all levels together; entries of shape (1,)."""
    rows = by_day.sum(axis=1, keepdims=True)
    total = rows.sum()
    share = by_day.sum(axis=0) / max(total, 1)
    of_levels = dispersion((by_day - rows * share).T.astype(float), total * share * (1 - share))
    return summed(of_levels)


def summed(of_levels: Dispersion) -> Dispersion:
    """Sum over all levels; entries of shape (1,)."""
    return Dispersion(
        of_levels.variance.sum()[None],
        of_levels.independent.sum()[None],
        of_levels.days,
        of_levels.weekly.sum()[None],
    )


def category_design_effect(by_day: Counts, days: Days, block_days: int) -> tuple[DesignEffect, Floats]:
    first, last = blocks(days.numbers, block_days)
    sums = np.concatenate([np.zeros((1, by_day.shape[1])), np.cumsum(by_day, axis=0)])
    inside = (sums[last] - sums[first]).astype(float)
    outside = sums[-1] - inside
    usable = (inside.sum(axis=1) > 0) & (outside.sum(axis=1) > 0)
    if not usable.any() or by_day.shape[1] < 2:
        return DesignEffect(category_dispersion(by_day), np.zeros(1), 0.0), np.zeros(len(first))
    statistic, freedom = chi_square_statistic(outside[usable], inside[usable])
    ratio = statistic / np.maximum(freedom, 1)
    variance = ratio.mean()
    z = np.zeros(len(first))
    # Wilson and Hilferty's cube root makes a chi-square deviate normal.
    spread = 2 / (9 * np.maximum(freedom, 1))
    z[usable] = (np.cbrt(ratio / max(variance, 1e-9)) - (1 - spread)) / np.sqrt(spread)
    design_effect = DesignEffect(category_dispersion(by_day), np.array([variance]), int(usable.sum()) / block_days)
    return design_effect, np.maximum(z, 0.0)
