"""Tests of single columns: current rows compared with the profile of earlier rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from ml_pipeline.monitoring.drift import two_sample
from ml_pipeline.monitoring.drift.categories import category_test
from ml_pipeline.monitoring.drift.design_effects import (
    INDEPENDENT,
    MIN_BLOCKS,
    NO_COMMON_EFFECT,
    ONE_SIDED_Z,
    CommonDesignEffect,
    Days,
    Dispersion,
    dispersion,
)
from ml_pipeline.monitoring.drift.results import ColumnDrift, LevelMove, Medians, MissingTest, ValueTest
from ml_pipeline.monitoring.profiles.columns import (
    CategoricalColumn,
    Counts,
    DesignEffect,
    NumericColumn,
    codes,
    counts_by_day,
    levels_by_day,
    numbers,
    summed,
)
from ml_pipeline.monitoring.profiles.profile import is_judged
from ml_pipeline.stats import Floats

NAMED_LEVELS = 5
TOLERANCE = 0.05  # standard deviations; a shift of 0.02 sigma is not reported, however many rows there are
CLEARLY, BY_ITSELF = 3.5, 5.0  # standard errors
LOOKED_AT = 0.05  # p-value up to which :func:`negligible` is computed
_COLUMNS_AT_ONCE = 16


def numeric_columns(
    reference: dict[str, NumericColumn],
    values: dict[str, Floats],
    days: Days,
    min_rows: int,
    common: CommonDesignEffect = NO_COMMON_EFFECT,
) -> dict[str, ColumnDrift]:
    """Test the numeric columns that both sides have.

    Parameters
    ----------
    reference : dict of NumericColumn
        Columns of the profile.
    values : dict of arrays of shape (rows,)
        Current values in time order, NaN if missing.
    days : Days
        Days of the current rows.
    min_rows : int
        Number of values that a test needs on each side.
    common : CommonDesignEffect
        Design effect that the tenant's columns share.
    """
    columns: dict[str, ColumnDrift] = {}
    names = list(values)
    for at in range(0, len(names), _COLUMNS_AT_ONCE):
        block = names[at : at + _COLUMNS_AT_ONCE]
        by_day = {name: counts_by_day(values[name], days, reference[name].edges) for name in block}
        unknown = {name: _too_few(reference[name].rows, days, by_day[name][1], min_rows) for name in block}
        tested = [name for name in block if unknown[name] is None]
        tests: dict[str, ValueTest] = {}
        if tested:
            counts = [by_day[name][0] for name in tested]
            found = _numeric_tests([reference[name] for name in tested], counts, common)
            tests = dict(zip(tested, _value_tests(found, [reference[name] for name in tested], counts), strict=True))
        for name in block:
            counts_of, nulls = by_day[name]
            column = ColumnDrift(
                kind="numeric",
                judged=is_judged(name),
                missing=_missing(reference[name], nulls, days, common),
                value=tests.get(name),
                unknown=unknown[name],
            )
            if name in tests:
                median, stuck_at = _middle(reference[name], counts_of.sum(axis=0), values[name])
                column = replace(column, median=median, stuck_at=stuck_at)
            columns[name] = column
    return columns


def _value_tests(
    found: two_sample.ColumnTests, reference: list[NumericColumn], by_day: list[Counts]
) -> Iterator[ValueTest]:
    """One result per column, from the arrays of all columns."""
    fields = {"p": found.p, "effect": found.effect, "lower": found.lower, "largest": found.largest} | found.statistics
    table = np.array(list(fields.values())).T.tolist()
    for column, counts, row in zip(reference, by_day, table, strict=True):
        value = dict(zip(fields, row, strict=True))
        p, effect, lower, largest, deff = (
            value.pop(name) for name in ("p", "effect", "lower", "largest", "design_effect")
        )
        small = p < LOOKED_AT and negligible(column, counts.sum(axis=0), deff)
        yield ValueTest(
            p=p, effect=effect, lower=lower, largest=largest, negligible=small, design_effect=deff, statistics=value
        )


def _numeric_tests(
    reference: list[NumericColumn], by_day: list[Counts], common: CommonDesignEffect
) -> two_sample.ColumnTests:
    cells = max(len(column.counts) for column in reference)
    before = np.array([np.pad(column.expected(), (0, cells - len(column.counts))) for column in reference])
    counted = np.array([np.pad(column.counts, (0, cells - len(column.counts))) for column in reference]).astype(float)
    after = np.array([np.pad(part, ((0, 0), (0, cells - part.shape[1]))) for part in by_day]).astype(float)
    current = after.sum(axis=1)
    scores = two_sample.rank_scores(before, current)
    kept = [column.design_effect for column in reference]
    deff, freedom = design_effects(kept, _dispersion(before, after, scores), common)
    return two_sample.numeric_tests(before, current, scores, deff, freedom, counted)


def _dispersion(before: Floats, after: Floats, scores: Floats) -> Dispersion:
    """Dispersion of the current days, with each score in units of its standard deviation over all rows."""
    current = after.sum(axis=1)
    pooled = before + current
    share = (pooled / pooled.sum(axis=1, keepdims=True))[:, None, :]
    centre = np.matmul(share, scores)
    spread = np.sqrt(np.maximum(np.matmul(share, np.square(scores - centre)), 0.0))
    own = np.matmul((current / current.sum(axis=1, keepdims=True))[:, None, :], scores)
    scaled = np.divide(scores - own, spread, out=np.zeros_like(scores), where=spread > 1e-9)
    sums = np.matmul(after, scaled).transpose(0, 2, 1)
    return dispersion(sums, np.matmul(current[:, None, :], np.square(scaled))[:, 0, :])


def design_effects(
    reference: list[DesignEffect], current: Dispersion, common: CommonDesignEffect
) -> tuple[Floats, Floats]:
    """Design effects and their degrees of freedom, two arrays of shape (columns, scores).

    Estimated from the blocks of the history if there are at least ``MIN_BLOCKS``, else from the days of both windows.
    """
    kept = Dispersion(
        np.array([part.days.variance for part in reference]),
        np.array([part.days.independent for part in reference]),
        float(np.mean([part.days.days for part in reference])),
        np.array([part.days.weekly for part in reference]),
    )
    both = kept + current
    same_scores = len(common.typical) == both.variance.shape[-1]
    deff = both.design_effect(common.typical if same_scores else 1.0)
    deff = np.where(deff > 1, deff * common.weekly_factor, 1.0)
    freedom = np.where((deff > 1) | (common.typical[0] > 1), both.freedom(), INDEPENDENT)
    blocks = np.array([part.blocks for part in reference])[:, None]
    variance = np.array([part.block_variance for part in reference])
    enough = blocks >= MIN_BLOCKS
    varied = enough & (variance > 1 + ONE_SIDED_Z * np.sqrt(2 / np.maximum(blocks, 1)))
    deff = np.where(enough, np.where(varied, variance, 1.0), deff)
    freedom = np.where(enough, np.where(varied, np.maximum(blocks - 1, 1), INDEPENDENT), freedom)
    return deff, freedom


def negligible(reference: NumericColumn, counts: Counts, deff: float) -> bool:
    """Whether a shift of all values by at most ``TOLERANCE`` standard deviations could explain the difference.

    Rank tests cannot tell: if a distribution begins steeply, as an exponential one does at zero, a tiny shift empties
    its tail. Therefore the current distribution function must leave the band between the earlier one shifted to the
    left and to the right, by more than its standard error, at a place where it clearly moved. The standard deviation is
    that of a normal distribution with the same quartiles, or with the same 5% and 95% quantiles for equal quartiles.
    """
    from scipy.interpolate import PchipInterpolator

    finite = np.isfinite(reference.edges)
    edges = reference.edges[finite]
    quartiles, tails = ([reference.value_at(share) for share in pair] for pair in ((0.25, 0.75), (0.05, 0.95)))
    scale = (quartiles[1] - quartiles[0]) / 1.349 or (tails[1] - tails[0]) / 3.290
    if reference.points or not np.isfinite(scale) or scale <= 0 or len(edges) < 3:
        return False
    expected = reference.expected()
    n, m = expected.sum(), counts.sum()
    before, after = (np.cumsum(side)[:-1][finite] / side.sum() for side in (expected, counts))
    moved_left, moved_right = edges + TOLERANCE * scale, edges - TOLERANCE * scale
    between = PchipInterpolator(edges, before)
    left = np.where(moved_left > edges[-1], 1.0, between(np.minimum(moved_left, edges[-1])))
    right = np.where(moved_right < edges[0], 0.0, between(np.maximum(moved_right, edges[0])))
    share = np.clip((n * before + m * after) / (n + m), 1 / (n + m), 1 - 1 / (n + m))
    error = np.sqrt(share * (1 - share) * (1 / n + 1 / m) * deff)
    moved = np.abs(after - before) / error
    # Of many places with small moves, one is outside by chance.
    needed = np.where(moved >= moved.max() / 2, ONE_SIDED_Z, BY_ITSELF)
    outside = np.maximum(after - left, right - after) / error >= needed
    return bool(moved.max() >= CLEARLY and not (outside & (moved >= CLEARLY)).any())


def _middle(reference: NumericColumn, counts: Counts, values: Floats) -> tuple[Medians | None, float | None]:
    """Medians of both sides (exact to a cell), and the value of a column that is now constant, else None."""
    cell = int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))
    inside = 0 < cell < len(reference.edges)
    median = float(reference.edges[cell]) if inside else float(np.nanmedian(values))
    stuck = None
    if np.count_nonzero(counts) == 1 and np.count_nonzero(reference.counts) > 1:
        low, high = np.nanmin(values), np.nanmax(values)
        stuck = float(low) if low == high and np.isfinite(low) else None
    medians = Medians(reference.value_at(0.5), median)
    return medians if np.isfinite(medians.baseline) and np.isfinite(median) else None, stuck


def categorical_columns(
    reference: dict[str, CategoricalColumn],
    frame: pd.DataFrame,
    names: list[str],
    days: Days,
    min_rows: int,
    common: CommonDesignEffect = NO_COMMON_EFFECT,
) -> dict[str, ColumnDrift]:
    """Test the categorical columns ``names``, which both sides have. Parameters as of :func:`numeric_columns`."""
    columns: dict[str, ColumnDrift] = {}
    for name in names:
        positions, levels = codes(frame[name])
        by_day, nulls = levels_by_day(positions, len(levels), days)
        column = ColumnDrift(
            kind="categorical",
            judged=is_judged(name),
            missing=_missing(reference[name], nulls, days, common),
            unknown=_too_few(reference[name].rows, days, nulls, min_rows),
        )
        known = column.unknown is None
        columns[name] = _category(column, reference[name], by_day, levels, common) if known else column
    return columns


def _category(
    column: ColumnDrift, reference: CategoricalColumn, by_day: Counts, levels: list[str], common: CommonDesignEffect
) -> ColumnDrift:
    """Add the test of the values to a column."""
    from scipy.special import ndtri

    cells, names, new = _shared_cells(reference, by_day, levels)
    current = cells.sum(axis=0)
    before = np.append(reference.counts, reference.pooled_rows).astype(float)
    before = np.pad(before, (0, len(current) - len(before)))
    rare = np.zeros(len(current), dtype=bool)
    rare[len(reference.levels)] = True
    rows = cells.sum(axis=1, keepdims=True)
    share = current / current.sum()
    of_all = summed(dispersion((cells - rows * share).T, current * (1 - share)))
    deff, freedom = design_effects([reference.design_effect], of_all, common)
    used = (before + current) > 0
    test, top = category_test(before[used], current[used], float(deff[0, 0]), float(freedom[0, 0]), rare[used])
    most_moved = None
    if top >= 0:
        level = np.flatnonzero(used)[top]
        most_moved = LevelMove(names[level], float(before[level] / before.sum()), float(share[level]))
    many = f"levels beyond the {len(reference.levels)} most frequent are one cell: a new level may be a rare one"
    return replace(
        column,
        value=replace(test, largest=float(-ndtri(max(test.p, 1e-300) / 2))),  # as a normal deviate
        new_levels=tuple(new[:NAMED_LEVELS]),
        most_moved=most_moved,
        note=many if new and reference.pooled_levels else None,
    )


def _shared_cells(
    reference: CategoricalColumn, by_day: Counts, levels: list[str]
) -> tuple[Floats, list[str], list[str]]:
    """Counts per day of the profile's levels, its pooled cell and new levels; the names of the cells; the new levels.

    If the profile pooled rare levels, a level that it does not list may be one of them and is counted in that cell.
    """
    listed = {level: position for position, level in enumerate(reference.levels)}
    pooled = len(listed)
    totals = by_day.sum(axis=0)
    order = np.argsort(-totals, kind="stable")
    new = [levels[code] for code in order if levels[code] not in listed and totals[code] > 0]
    own = {} if reference.pooled_levels else {level: pooled + 1 + position for position, level in enumerate(new)}
    target = np.array([listed.get(level, own.get(level, pooled)) for level in levels], dtype=np.intp)
    cells = np.zeros((pooled + 1 + len(own), len(by_day)))
    np.add.at(cells, target, by_day.T)
    return cells.T, [*reference.levels, "(other levels)", *own], new


def _too_few(before: int, days: Days, nulls: Counts, min_rows: int) -> str | None:
    """Why the values cannot be tested, as text; None if both sides have enough values."""
    after = int(days.starts[-1]) - int(nulls.sum())
    if before == 0 and after == 0:
        return "no values on either side"
    sides = [
        f"{count} of {min_rows} {side}" for count, side in ((before, "earlier"), (after, "recent")) if count < min_rows
    ]
    return f"too few values: {' and '.join(sides)}" if sides else None


def _missing(
    reference: NumericColumn | CategoricalColumn, nulls: Counts, days: Days, common: CommonDesignEffect
) -> MissingTest:
    n, m = reference.rows + reference.nulls, int(days.starts[-1])
    before, after = reference.nulls, int(nulls.sum())
    if before + after == 0 or before + after == n + m:
        return MissingTest(baseline=before / n, current=after / m, p=None)
    share = (before + after) / (n + m)
    own = after / m
    scale = share * (1 - share)
    current = dispersion(
        ((nulls - np.diff(days.starts) * own) / np.sqrt(scale))[None, None], np.array([[m * own * (1 - own) / scale]])
    )
    deff = float(design_effects([reference.null_design_effect], current, common)[0][0, 0])
    p, z = two_sample.proportion_tests(np.array([before]), n, np.array([after]), m, deff)
    root = np.sqrt(n * m / (n + m))
    lower = (abs(float(z[0])) - ONE_SIDED_Z * np.sqrt(deff)) / root
    return MissingTest(
        baseline=before / n, current=own, p=float(p[0]), effect=abs(float(z[0])) / root, lower=float(lower)
    )


def read_numeric(frame: pd.DataFrame, names: list[str]) -> tuple[dict[str, Floats], dict[str, int]]:
    """Values of numeric columns, and per column the number of values that are not numbers and count as missing."""
    read = {name: numbers(frame[name]) for name in names}
    return {name: values for name, (values, _) in read.items()}, {name: bad for name, (_, bad) in read.items() if bad}
