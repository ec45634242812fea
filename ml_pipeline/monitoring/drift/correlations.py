"""Rank correlations of all pairs of numeric columns, and a test of their largest change.

The relation of two columns can change while both keep their distributions, for example if a copied field is now filled
by hand. Spearman's correlation of each pair is compared by Fisher's z (Fieller and Pearson 1961 for its variance), and
the largest change of all pairs is tested with Sidak's correction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml_pipeline.monitoring.drift.design_effects import ONE_SIDED_Z, Days, dispersion, student_to_normal
from ml_pipeline.monitoring.drift.results import CorrelationTest
from ml_pipeline.stats import Floats

JOINT_ROWS = 4000
MIN_PAIR_ROWS = 30
SMALL_MOVE = 0.05  # of a correlation
_TOO_ALIKE = 0.999

Pair = tuple[NDArray[np.intp], NDArray[np.intp]]  # positions of the first and of the second column of each pair


@dataclass(frozen=True)
class Joint:
    """Rank correlations of the pairs (i, j), i < j, of columns, in the order of ``numpy.triu_indices``."""

    columns: tuple[str, ...]
    correlation: Floats
    variance: Floats  # variance of the contribution of one row; 1 for independent columns
    rows: Floats  # number of rows with both values
    design_effect: float

    def merged(self, other: Joint) -> Joint:
        """Mean of both, weighted by rows, for the columns that both have."""
        columns = tuple(name for name in self.columns if name in other.columns)
        first, second = self._of(columns), other._of(columns)
        rows = first.rows + second.rows
        weight = np.divide(first.rows, rows, out=np.full_like(rows, 0.5), where=rows > 0)
        return Joint(
            columns,
            weight * first.correlation + (1 - weight) * second.correlation,
            weight * first.variance + (1 - weight) * second.variance,
            rows,
            max(self.design_effect, other.design_effect),
        )

    def _of(self, columns: tuple[str, ...]) -> Joint:
        chosen = [self.columns.index(name) for name in columns]
        parts: list[Floats] = []
        for values in (self.correlation, self.variance, self.rows):
            matrix = np.zeros((len(self.columns), len(self.columns)))
            matrix[np.triu_indices(len(self.columns), 1)] = values
            matrix = matrix + matrix.T
            parts.append(matrix[np.ix_(chosen, chosen)][np.triu_indices(len(chosen), 1)])
        return Joint(columns, parts[0], parts[1], parts[2], self.design_effect)


def joint(columns: dict[str, Floats], days: Days) -> Joint:
    """Rank correlations of columns of equal length, from at most ``JOINT_ROWS`` rows, evenly spaced."""
    total = int(days.starts[-1]) if len(days.starts) else 0
    chosen = np.unique(np.linspace(0, max(total - 1, 0), min(total, JOINT_ROWS)).astype(np.intp))
    table = np.array([values[chosen] for values in columns.values()]).reshape(len(columns), len(chosen))
    known = ~np.isnan(table)
    ranks = np.zeros_like(table)
    for row, values, mask in zip(ranks, table, known, strict=True):
        if mask.any():
            found = middle_ranks(values[mask])
            row[mask] = (found - found.mean()) / (found.std() or 1.0)
    pair = np.triu_indices(len(columns), 1)
    mask = known.astype(float)
    rows = (mask @ mask.T)[pair]
    square = np.square(ranks)
    norm = np.sqrt((square @ mask.T) * (mask @ square.T))[pair]
    correlation = np.divide((ranks @ ranks.T)[pair], norm, out=np.zeros_like(norm), where=norm > 1e-9)
    variance = _variance(ranks, square, correlation, pair, rows)
    at = np.searchsorted(chosen, days.starts[:-1])
    return Joint(tuple(columns), correlation, variance, rows, _design_effect(ranks, correlation, pair, at, days))


def middle_ranks(values: Floats) -> Floats:
    """Ranks from 0, the mean of their places for equal values.

    >>> middle_ranks(np.array([5.0, 1.0, 5.0])).tolist()
    [1.5, 0.0, 1.5]
    """
    order = np.argsort(values)
    ordered = values[order]
    first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    ties = np.diff(np.append(first, len(values)))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(first + (ties - 1) / 2, ties)
    return ranks


def _variance(ranks: Floats, square: Floats, correlation: Floats, pair: Pair, rows: Floats) -> Floats:
    """Variance of one row's contribution to each correlation, for a known scale of the ranks (Hotelling 1953)."""
    both = (square @ square.T)[pair]
    cubed = (ranks * square) @ ranks.T
    odd = (cubed + cubed.T)[pair]
    fourth = np.square(square).sum(axis=1)
    even = fourth[pair[0]] + fourth[pair[1]] + 2 * both
    value = both - correlation * odd + np.square(correlation) * even / 4
    return np.where(rows > 0, value / np.maximum(rows, 1), 1.0)


def _design_effect(ranks: Floats, correlation: Floats, pair: Pair, at: NDArray[np.intp], days: Days) -> float:
    """Variance of the day sums of products, divided by that of independent rows; mean of all pairs, at least 1."""
    if len(days.numbers) < 2 or not len(correlation):
        return 1.0
    at = np.unique(at[at < ranks.shape[1]])
    parts = np.split(ranks, at[1:], axis=1)
    sums = np.array([(part @ part.T)[pair] - correlation * part.shape[1] for part in parts]).T
    square = np.square(ranks)
    independent = (square @ square.T)[pair] - ranks.shape[1] * np.square(correlation)
    found = dispersion(sums, np.maximum(independent, 0.0))
    total = found.independent.sum()
    return float(max(1.0, found.variance.sum() / total)) if total > 0 else 1.0


def joint_test(reference: Joint, current: Joint) -> CorrelationTest | None:
    """Test the pair whose correlation changed most; None if no pair has enough rows on both sides.

    The p-value is that of the largest change of Fisher's z of all pairs. A pair whose correlation changed by less than
    ``SMALL_MOVE`` is used only if no pair changed more: from 0.99 to 0.96 is a large change of z, but irrelevant.
    """
    from scipy.special import erfc

    names = tuple(name for name in reference.columns if name in current.columns)
    before, after = reference._of(names), current._of(names)
    enough = np.minimum(before.rows, after.rows) >= MIN_PAIR_ROWS
    enough &= (before.variance > 1e-9) & (after.variance > 1e-9)
    enough &= np.maximum(np.abs(before.correlation), np.abs(after.correlation)) < _TOO_ALIKE
    if not enough.any():
        return None
    pairs = np.stack(np.triu_indices(len(names), 1))[:, enough]
    r0, r1 = before.correlation[enough], after.correlation[enough]
    move = np.arctanh(r1) - np.arctanh(r0)
    error = np.sqrt(
        reference.design_effect * _fisher_variance(before.variance[enough], r0) / (before.rows[enough] - 1)
        + current.design_effect * _fisher_variance(after.variance[enough], r1) / (after.rows[enough] - 1)
    )
    z = np.abs(move) / error
    large = np.abs(r1 - r0) >= SMALL_MOVE
    top = int(np.argmax(np.where(large, z, -1.0) if large.any() else z))
    least = np.sign(move[top]) * max(abs(move[top]) - ONE_SIDED_Z * error[top], 0.0)
    freedom = np.minimum(before.rows[enough], after.rows[enough])[top]
    single = float(erfc(student_to_normal(z[top], freedom) / np.sqrt(2)))
    count = int(enough.sum())
    p = float(-np.expm1(count * np.log1p(-min(single, 1 - 1e-16)))) if single > 1e-12 else count * single
    return CorrelationTest(
        pair=(names[pairs[0, top]], names[pairs[1, top]]),
        baseline=float(r0[top]),
        current=float(r1[top]),
        p=min(1.0, p),
        effect=float(abs(r1[top] - r0[top])),
        lower=float(abs(np.tanh(np.arctanh(r0[top]) + least) - r0[top])),
        pairs=count,
        design_effect=float(max(reference.design_effect, current.design_effect)),
    )


def _fisher_variance(variance: Floats, correlation: Floats) -> Floats:
    """Variance of Fisher's z per row: as observed, but at least that of a normal distribution."""
    shown = variance / np.square(1 - np.square(correlation))
    return np.asarray(np.maximum(shown, 1 + np.square(correlation) / 2))
