"""Two-sample test of a categorical column, from the counts of its levels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ml_pipeline.monitoring.drift.design_effects import INDEPENDENT, ONE_SIDED_Z, student_to_normal
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
from ml_pipeline.stats import Floats

CHI_SQUARE_MIN_EXPECTED = 5.0
RARE_MIN_ROWS = 5
NAMED_BELOW = 0.05
RARE_WEIGHT = 5.0  # factor on the p-value of rare levels: they get a fifth of the significance level
_DRAWS = 600


def category_test(
    reference: Floats,
    current: Floats,
    deff: float = 1.0,
    learnt: float = INDEPENDENT,
    rare: NDArray[np.bool_] | None = None,
) -> tuple[ValueTest, int]:
    """Test a categorical column for drift, and find the level whose share moved most.

    The column is tested by the smaller of two p-values: of the two-sample chi-square test, with levels of expected
    counts below 5 pooled into one cell, and of the level that moved most, because chi-square has little power against
    the move of a single level. The smaller p-value is corrected for being the smaller of two. Rare levels are also
    tested by Fisher's exact test with Bonferroni's correction, because pooling would hide a new level.

    Parameters
    ----------
    reference, current : array of shape (levels,)
        Counts.
    deff : float
        Design effect.
    learnt : float
        Degrees of freedom of the estimated design effect.
    rare : array of bool of shape (levels,), optional
        Cells that contain many levels, which are never the level that moved most.

    Returns
    -------
    tuple of ValueTest and int
        The test, and the position of the level that moved most, -1 without one.
    """
    n, m = reference.sum(), current.sum()
    root = np.sqrt(n * m / (n + m))
    few = (reference + current) * (min(n, m) / (n + m)) < CHI_SQUARE_MIN_EXPECTED
    cells = reference[None], current[None]
    if few.any():
        before, after = (np.append(side[~few], side[few].sum())[None] for side in (reference, current))
        cells = before, after
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


def _most_moved(
    reference: Floats, current: Floats, tested: NDArray[np.intp], deff: float, learnt: float
) -> tuple[float, float, int]:
    """Sidak p-value, z and position of the level whose share moved most; the position is -1 without levels."""
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
    single, tests = float(p[top]), len(tested)
    sidak = float(-np.expm1(tests * np.log1p(-min(single, 1 - 1e-16)))) if single > 1e-12 else tests * single
    return sidak, float(z[top]), int(tested[top])


def _rare_moved(reference: Floats, current: Floats, tested: NDArray[np.intp], deff: float) -> tuple[float, float, int]:
    if not len(tested):
        return 1.0, 0.0, -1
    p, z = proportion_tests(reference[tested], reference.sum(), current[tested], current.sum(), deff)
    top = int(np.lexsort((-np.abs(z), p))[0])
    return min(1.0, RARE_WEIGHT * float(p[top]) * len(tested)), float(z[top]), int(tested[top])


def _smaller_p(pooled: Floats, alone: NDArray[np.bool_], smallest: float) -> float:
    """Probability that the smaller p-value of chi-square and of the levels ``alone`` is at most ``smallest``.

    The sum of the probability for chi-square and the probability that a level is beyond while chi-square is not. The
    latter is computed by importance sampling as in :func:`two_sample.largest_p`, in the normal limit of the counts.
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
    # A deviation of one level implies opposite deviations of the other cells, in proportion to their shares.
    direction = -root * (root[level] / spread[level])[:, None]
    direction[row, level] += 1 / spread[level]
    deviates += direction * (beyond - deviates[row, level] / spread[level])[:, None]
    count = (np.abs(deviates[:, levels]) / spread[levels] >= -ndtri(single / 2) - 1e-9).sum(axis=1)
    unseen = np.square(deviates).sum(axis=1) < chdtri(len(share) - 1, smallest)
    return smallest + single * len(levels) * float((unseen / np.maximum(count, 1)).mean())


def _variance_ratio_p(statistic: float, freedom: int, learnt: float) -> float:
    """P-value of chi-square divided by a design effect; Fisher's F distribution if the design effect is estimated."""
    from scipy.special import chdtrc, fdtrc

    if freedom < 1:
        return 1.0
    return float(chdtrc(freedom, statistic) if learnt >= INDEPENDENT else fdtrc(freedom, learnt, statistic / freedom))
