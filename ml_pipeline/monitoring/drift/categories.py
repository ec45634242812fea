"""Two-sample test of a categorical column from the counts of its levels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml_pipeline.monitoring.drift.design_effects import INDEPENDENT, ONE_SIDED_Z, Floats, student_to_normal
from ml_pipeline.monitoring.drift.results import ValueTest
from ml_pipeline.monitoring.drift.two_sample import (
    are_few,
    chi_square_statistic,
    normal_deviate,
    normal_p,
    proportion_tests,
    psi_statistics,
    split_moments,
)

CHI_SQUARE_MIN_EXPECTED = 5.0
RARE_MIN_ROWS = 5
NAMED_BELOW = 0.05
RARE_WEIGHT = 5.0  # rare levels spend a fifth of a test
_DRAWS = 600


def category_test(
    reference: Floats,
    current: Floats,
    deff: float = 1.0,
    learnt: float = INDEPENDENT,
    rare: NDArray[np.bool_] | None = None,
) -> tuple[ValueTest, int]:
    """Drift of one categorical column from the counts of its levels, and the position of the level that moved most.

    The p-value is that of the smaller of two: the two-sample chi-square test, levels with an expected count below 5
    pooled into one cell, and the level that moved most, for chi-square spreads one level's move over all of them.
    What that makes of the p-value is computed for these very cells. A rare level that moved most is tested exactly
    (Fisher, Bonferroni): pooling would hide a new one.

    Parameters
    ----------
    reference, current : array of shape (levels,)
    deff, learnt : float
        Design effect, and the degrees of freedom that it was learnt with.
    rare : array of shape (levels,), optional
        Cells that stand for many levels: never the level that moved most.
    """
    n, m = reference.sum(), current.sum()
    root = np.sqrt(n * m / (n + m))
    few = (reference + current) * (min(n, m) / (n + m)) < CHI_SQUARE_MIN_EXPECTED
    cells = _pool(reference, current, few)
    statistic, freedom = (value[0] for value in chi_square_statistic(*cells))
    chi_square_p = _variance_ratio_p(statistic / deff, int(freedom), learnt)
    single = ~few if rare is None else ~few & ~rare
    level_p, level_z, level = _most_moved(reference, current, np.flatnonzero(single), deff, learnt)
    p = min(chi_square_p, level_p)
    if freedom > 0 and single.any() and p < 1:
        alone = np.append(single[~few], np.zeros(cells[0].shape[1] - (~few).sum(), dtype=bool))
        p = _smaller_p(cells[0][0] + cells[1][0], alone, max(p, 1e-300))
    candidates = few & (reference + current >= RARE_MIN_ROWS)
    candidates = candidates if rare is None else candidates & ~rare
    rare_p, rare_z, rare_level = _rare_moved(reference, current, np.flatnonzero(candidates), deff)
    if rare_p < NAMED_BELOW and abs(rare_z) > abs(level_z):
        level_z, level = rare_z, rare_level
    effect = max(np.sqrt(max(0.0, statistic - deff * freedom)), abs(level_z)) / root
    statistics = {
        "chi_square": float(statistic),
        "chi_square_p": chi_square_p,
        "level_p": float(min(level_p, rare_p)),
        **{name: float(value[0]) for name, value in psi_statistics(*cells, deff).items()},
    }
    result = ValueTest(
        p=min(1.0, float(p), rare_p),
        effect=float(effect),
        lower=float(effect - ONE_SIDED_Z * np.sqrt(deff) / root),
        design_effect=float(deff),
        statistics=statistics,
    )
    return result, level


def _pool(reference: Floats, current: Floats, few: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Both sides as one-row tables with the levels of few rows in one last cell."""
    if not few.any():
        return reference[None], current[None]
    first, second = (np.append(side[~few], side[few].sum())[None] for side in (reference, current))
    return first, second


def _most_moved(
    reference: Floats, current: Floats, tested: NDArray[np.intp], deff: float, learnt: float
) -> tuple[float, float, int]:
    """Sidak p-value, z and position of the level whose share moved most; the position is -1 where there is none."""
    if not len(tested):
        return 1.0, 0.0, -1
    n, m = reference.sum(), current.sum()
    hits = reference[tested] + current[tested]
    exact, z = proportion_tests(reference[tested], n, current[tested], m, deff, middle=True)
    share = hits / (n + m)
    spread = np.maximum(share * (1 - share), 1e-12)
    moments = split_moments((1 - 2 * share) / np.sqrt(spread), 1 / spread - 6, n, m)
    limit = normal_p(student_to_normal(normal_deviate(z, *moments) / np.sqrt(deff), learnt))
    p = np.where(are_few(hits, n, m, deff) & (learnt >= INDEPENDENT), exact, limit)
    top = int(np.lexsort((-np.abs(z), p))[0])
    return _any_of(float(p[top]), len(tested)), float(z[top]), int(tested[top])


def _rare_moved(reference: Floats, current: Floats, tested: NDArray[np.intp], deff: float) -> tuple[float, float, int]:
    if not len(tested):
        return 1.0, 0.0, -1
    p, z = proportion_tests(reference[tested], reference.sum(), current[tested], current.sum(), deff)
    top = int(np.lexsort((-np.abs(z), p))[0])
    return min(1.0, RARE_WEIGHT * float(p[top]) * len(tested)), float(z[top]), int(tested[top])


def _any_of(p: float, tests: int) -> float:
    return float(-np.expm1(tests * np.log1p(-min(p, 1 - 1e-16)))) if p > 1e-12 else tests * p


def _smaller_p(pooled: Floats, alone: NDArray[np.bool_], smallest: float) -> float:
    """Probability that the chi-square or the largest move of a level (``alone``) has a p-value as small as that.

    To the chi-square's own probability comes that of a level beyond while the chi-square is not, by the importance
    sampling of :func:`two_sample.largest_p`, in the normal limit of the counts.
    """
    from scipy.special import chdtri, ndtri

    share = pooled / pooled.sum()
    root = np.sqrt(share)
    draws = np.random.default_rng(1)
    deviates = draws.standard_normal((_DRAWS, len(share)))
    deviates -= np.outer(deviates @ root, root)
    spread = np.sqrt(np.maximum(1 - share, 1e-9))
    levels = np.flatnonzero(alone)
    single = -np.expm1(np.log1p(-smallest) / len(levels)) if smallest > 1e-12 else smallest / len(levels)
    uniform = (draws.permutation(_DRAWS) + 0.5) / _DRAWS
    beyond = -ndtri(single / 2 * uniform)
    row, level = np.arange(_DRAWS), np.resize(levels, _DRAWS)
    # A deviation of the level has its share of every other cell's, the opposite way.
    direction = -root * (root[level] / spread[level])[:, None]
    direction[row, level] += 1 / spread[level]
    deviates += direction * (beyond - deviates[row, level] / spread[level])[:, None]
    count = (np.abs(deviates[:, levels]) / spread[levels] >= -ndtri(single / 2) - 1e-9).sum(axis=1)
    unseen = np.square(deviates).sum(axis=1) < chdtri(len(share) - 1, smallest)
    return smallest + single * len(levels) * float((unseen / np.maximum(count, 1)).mean())


def _variance_ratio_p(statistic: float, freedom: int, learnt: float) -> float:
    """Of a chi-square over a design effect that was itself learnt: Fisher's F."""
    from scipy.special import chdtrc, fdtrc

    if freedom < 1:
        return 1.0
    return float(chdtrc(freedom, statistic) if learnt >= INDEPENDENT else fdtrc(freedom, learnt, statistic / freedom))
