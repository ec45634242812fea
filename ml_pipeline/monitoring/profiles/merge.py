"""Merging of two profiles of the same column."""

from __future__ import annotations

import numpy as np

from ml_pipeline.monitoring.profiles.columns import (
    MAX_VALUES,
    CategoricalColumn,
    DesignEffect,
    NumericColumn,
    point_edges,
)
from ml_pipeline.stats import Floats

MAX_EDGES = 2 * MAX_VALUES


def merged_numeric(first: NumericColumn, second: NumericColumn) -> NumericColumn:
    """Counts over the edges of both columns, reduced to ``MAX_EDGES`` edges with similar numbers of rows."""
    points = first.points and second.points
    if points:
        values = np.unique(np.concatenate([_values(first), _values(second)]))
        points = len(values) <= MAX_VALUES
    edges = point_edges(values) if points else np.unique(np.concatenate([first.edges, second.edges]))
    below = rows_below(first, edges) + rows_below(second, edges)
    if len(edges) > MAX_EDGES:
        wanted = np.linspace(0, below[-1], MAX_EDGES - 2)
        chosen = np.unique(np.concatenate([[0], np.searchsorted(below, wanted), [len(edges) - 1]]))
        edges, below = edges[chosen], below[chosen]
    total = first.rows + second.rows
    counts = np.diff(np.concatenate([[0], np.rint(below), [total]])).astype(np.int64)
    return NumericColumn(
        edges,
        counts,
        points,
        first.nulls + second.nulls,
        _merged(first.design_effect, second.design_effect),
        _merged(first.null_design_effect, second.null_design_effect),
    )


def _values(column: NumericColumn) -> Floats:
    return column.edges[column.counts[:-1] > 0]


def rows_below(column: NumericColumn, edges: Floats) -> Floats:
    """Number of rows at or below each edge, interpolated within cells; beyond the column's edges, 0 or all rows."""
    if not len(column.edges):
        return np.zeros(len(edges))
    below = np.cumsum(column.counts[:-1]).astype(float)
    if column.points:
        at = np.searchsorted(column.edges, edges, "right")
        return np.append(0.0, below)[at]
    # Interpolation needs finite edges.
    finite = np.isfinite(column.edges)
    if not finite.any():
        return np.append(0.0, below)[np.searchsorted(column.edges, edges, "right")]
    found = np.interp(edges, column.edges[finite], below[finite], left=0.0)
    exact = np.searchsorted(column.edges, edges, "right")
    outside = (edges < column.edges[finite][0]) | (edges > column.edges[finite][-1])
    return np.where(outside, np.append(0.0, below)[exact], found)


def merged_categorical(first: CategoricalColumn, second: CategoricalColumn, keep: int) -> CategoricalColumn:
    """Counts of the levels of both columns; the rarest levels are pooled."""
    counts: dict[str, int] = {}
    for column in (first, second):
        for level, rows in zip(column.levels, column.counts.tolist(), strict=True):
            counts[level] = counts.get(level, 0) + rows
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept, rest = ordered[:keep], ordered[keep:]
    return CategoricalColumn(
        levels=tuple(level for level, _ in kept),
        counts=np.array([rows for _, rows in kept], dtype=np.int64),
        # An upper bound, because a level that is pooled in both columns counts twice.
        pooled_levels=first.pooled_levels + second.pooled_levels + len(rest),
        pooled_rows=first.pooled_rows + second.pooled_rows + sum(rows for _, rows in rest),
        nulls=first.nulls + second.nulls,
        design_effect=_merged(first.design_effect, second.design_effect),
        null_design_effect=_merged(first.null_design_effect, second.null_design_effect),
    )


def _merged(first: DesignEffect, second: DesignEffect) -> DesignEffect:
    return first.merged(second)
