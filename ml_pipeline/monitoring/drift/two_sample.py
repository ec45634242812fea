"""Two-sample tests of many columns at once. Each test compares the counts of two samples over the same cells.

The cells are intervals for a numeric column, levels for a categorical column, and present or missing for missing
values. A profile contains only counts of the earlier rows. Counting the current rows takes one sort per column. Design
effects (:mod:`ml_pipeline.monitoring.drift.design_effects`) correct for the similarity of rows of the same day.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml_pipeline.monitoring.drift.design_effects import INDEPENDENT, ONE_SIDED_Z, student_to_normal
from ml_pipeline.stats import Floats

PSI_BINS = 10
PSI_ALPHA = 0.05
NORMAL_MIN_EXPECTED = 10.0  # expected count from which the normal limit is used
TAIL_SHARE = 0.01  # of the rows, or more if that are fewer than ``TAIL_MIN_EXPECTED``
TAIL_MIN_EXPECTED = 10.0
SPLITS = np.arange(1, 10, 2) / 10
COMPONENTS = ("location", "scale", "upper_tail", "lower_tail", *(f"below_{share:.0%}" for share in SPLITS))
_COLUMNS_AT_ONCE = 8
_DRAWS = 192

Counted = Floats | NDArray[np.int64]


class ColumnTests(NamedTuple):
    """One entry per column. Effects are in standard deviations: a mean shift of 0.3 sigma has an effect near 0.3."""

    p: Floats
    effect: Floats
    lower: Floats  # one-sided 95% lower confidence bound of the effect
    largest: Floats  # largest standardised deviation, corrected for the design effect
    statistics: dict[str, Floats]


def rank_scores(reference: Floats, current: Floats) -> Floats:
    """Score of each cell in each of ``COMPONENTS``, from the pooled ranks of the cells.

    The components are location (Wilcoxon 1945), scale (Klotz 1962), both tails, and the shares below five deciles,
    which approximate the Kolmogorov-Smirnov test. A cell that is partly in a tail counts in proportion.

    Parameters
    ----------
    reference, current : array of shape (columns, cells)
        Counts, with the cells in order of value. Columns with fewer cells are padded with empty cells.

    Returns
    -------
    array of shape (columns, cells, components)
    """
    from scipy.special import ndtri

    pooled = reference + current
    total = pooled.sum(axis=1, keepdims=True)
    upper = np.cumsum(pooled, axis=1) / total
    lower = upper - pooled / total
    width = np.maximum(upper - lower, 1e-300)
    middle = (upper + lower) / 2 - 0.5
    smaller = np.minimum(reference.sum(axis=1), current.sum(axis=1))
    tail = np.maximum(TAIL_SHARE, TAIL_MIN_EXPECTED / np.maximum(smaller, 2 * TAIL_MIN_EXPECTED))[:, None]
    split = (upper[..., None] <= SPLITS + 1e-12) * 1.0
    parts = [
        middle,
        np.square(ndtri(np.clip(middle + 0.5, 1e-9, 1 - 1e-9))),
        np.clip((upper - (1 - tail)) / width, 0, 1),
        np.clip((tail - lower) / width, 0, 1),
    ]
    return np.concatenate([np.stack(parts, axis=-1), split], axis=-1)


def numeric_tests(
    reference: Floats,
    current: Floats,
    scores: Floats,
    deff: Floats,
    freedom: Floats | float = INDEPENDENT,
    counted: Floats | None = None,
) -> ColumnTests:
    """Test numeric columns for drift, from counts over ordered cells.

    The p-value of a column is the probability, without a change, that the largest of its standardised components
    (:func:`rank_scores`) is at least as large as observed (:func:`largest_p`). It is one test of location, scale, tails
    and distribution function, and valid with ties. Kolmogorov-Smirnov, chi-square over ten equal cells and the
    population stability index are also reported.

    Parameters
    ----------
    reference, current : array of shape (columns, cells)
        Counts. Every column needs rows on both sides.
    scores : array of shape (columns, cells, components)
        Result of :func:`rank_scores`.
    deff : array of shape (columns, components)
        Design effects.
    freedom : array of shape (columns, components), or a number
        Degrees of freedom of the estimated design effects.
    counted : array of shape (columns, cells), optional
        Raw counts of the reference, if ``reference`` contains expected counts. Used for the reported distances.

    Returns
    -------
    ColumnTests
        With the statistics ``ks``, ``ks_p``, ``chi_square``, ``chi_square_p``, ``psi``, ``psi_null`` (its 95%
        quantile without a change), ``psi_p``, ``location_p``, ``scale_p``, ``upper_tail_p``, ``lower_tail_p`` and
        ``design_effect``.
    """
    n, m = reference.sum(axis=1), current.sum(axis=1)
    root = np.sqrt(n * m / (n + m))
    z, deviate, correlation = _standardised(reference, current, scores)
    corrected = student_to_normal(deviate / np.sqrt(deff), freedom)
    largest = np.abs(corrected).max(axis=1)
    rows = reference if counted is None else counted
    before, after = (np.cumsum(side, axis=1) / side.sum(axis=1)[:, None] for side in (rows, current))
    distance = np.abs(after - before).max(axis=1)
    effective = (side.sum(axis=1) / deff[:, 0] for side in (rows, current))
    statistics = {"ks": distance, "ks_p": kolmogorov_smirnov_p(distance, *effective)}
    statistics |= _ten_cells(rows, current, deff[:, 0])
    for position, name in enumerate(COMPONENTS[:4]):
        statistics[f"{name}_p"] = normal_p(corrected[:, position])
    statistics["design_effect"] = deff[:, 0]
    effects = np.abs(z) / root[:, None]
    lower = (effects - ONE_SIDED_Z * np.sqrt(deff) / root[:, None]).max(axis=1)
    return ColumnTests(largest_p(largest, correlation), effects.max(axis=1), lower, largest, statistics)


def _standardised(reference: Floats, current: Floats, scores: Floats) -> tuple[Floats, Floats, Floats]:
    """Difference of the mean scores in standard errors, its normal deviate, and the correlation of the scores."""
    n, m = reference.sum(axis=1)[:, None], current.sum(axis=1)[:, None]
    total = n + m
    weight = ((reference + current) / total)[..., None]
    centred = scores - (weight * scores).sum(axis=1, keepdims=True)
    weighted = weight * centred
    covariance = np.matmul(weighted.transpose(0, 2, 1), centred)
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    varies = variance > 1e-12
    spread = np.sqrt(np.where(varies, variance, 1.0))
    shares = (current / m - reference / n)[:, None, :]
    excess = np.where(varies, np.matmul(shares, centred)[:, 0, :], 0.0)
    z = excess / (spread * np.sqrt((1 / n + 1 / m) * total / (total - 1)))
    square = np.square(centred)
    third = (weighted * square).sum(axis=1) / spread**3
    fourth = (weight * np.square(square)).sum(axis=1) / np.square(variance + ~varies) - 3
    deviate = normal_deviate(z, *split_moments(np.where(varies, third, 0.0), np.where(varies, fourth, 0.0), n, m))
    scale = np.where(varies, 1 / spread, 0.0)
    return z, deviate, covariance * scale[:, :, None] * scale[:, None, :]


def normal_deviate(z: Floats, skewness: Floats, kurtosis: Floats) -> Floats:
    """Normal deviate with the same p-value as a standardised sum of given skewness and excess kurtosis.

    Uses the second-order expansion of Cornish and Fisher (1938), limited to the range where the first order increases.
    """
    turning = 3 / np.maximum(np.abs(skewness), 1e-9)
    inside = np.clip(z, -turning, turning)
    square = np.square(inside)
    deviate: Floats = (
        inside
        - skewness * (square - 1) / 6
        - kurtosis * inside * (square - 3) / 24
        + np.square(skewness) * inside * (2 * square - 5) / 36
    )
    return deviate


def split_moments(skewness: Floats, kurtosis: Floats, n: Floats | float, m: Floats | float) -> tuple[Floats, Floats]:
    """Skewness and excess kurtosis of the difference of two means under permutation, from those of the scores."""
    total = n + m
    share = n * m / np.square(total)
    return skewness * (n - m) / np.sqrt(n * m * total), kurtosis * (1 - 6 * share) / (total * share)


def largest_p(largest: Floats, correlation: Floats) -> Floats:
    """Probability that the largest absolute value of correlated standard normal deviates is at least ``largest``.

    Importance sampling of the union (Naiman and Priebe 2001; Shi, Siegmund and Yakir 2007): the sum of the single
    probabilities, times the mean of 1 / (number of deviates beyond) given that one is beyond. The draws are fixed. The
    error is about 1% of the probability, also for very small ones.

    Parameters
    ----------
    largest : array of shape (columns,)
        Observed largest absolute deviate.
    correlation : array of shape (columns, components, components)
        Correlation of the deviates, zeros for a component without variance.

    Returns
    -------
    array of shape (columns,)

    >>> same, apart = np.ones((1, 2, 2)), np.eye(2)[None]
    >>> [round(float(largest_p(np.array([1.96]), matrix)[0]), 3) for matrix in (same, apart)]
    [0.05, 0.098]
    """
    draws = np.random.default_rng(0)
    normal = draws.standard_normal((_DRAWS // 2, correlation.shape[-1]))
    normal = np.concatenate([normal, -normal])
    uniform = (draws.permutation(_DRAWS) + 0.5) / _DRAWS
    parts = [
        _union_p(largest[at : at + _COLUMNS_AT_ONCE], correlation[at : at + _COLUMNS_AT_ONCE], normal, uniform)
        for at in range(0, len(largest), _COLUMNS_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _union_p(largest: Floats, correlation: Floats, normal: Floats, uniform: Floats) -> Floats:
    from scipy.special import erfc, ndtri

    values, vectors = np.linalg.eigh(correlation)
    factor = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    rows = np.matmul(normal, factor.transpose(0, 2, 1))  # columns x draws x components
    single = erfc(largest / np.sqrt(2))
    beyond = -ndtri(np.maximum(single[:, None] / 2 * uniform, 1e-300))  # columns x draws
    moved = rows[:, :, None, :] + (beyond[:, :, None] - rows)[..., None] * correlation[:, None, :, :]
    count = (np.abs(moved) >= largest[:, None, None, None] - 1e-6).sum(axis=-1)
    share = (1 / np.maximum(count, 1)).mean(axis=1)
    active = np.diagonal(correlation, axis1=1, axis2=2) > 0.5
    return np.where(active.any(axis=1), np.minimum(1.0, single * (share * active).sum(axis=1)), 1.0)


def _ten_cells(reference: Floats, current: Floats, deff: Floats) -> dict[str, Floats]:
    """Chi-square and population stability index over ten cells with the same number of pooled rows."""
    pooled = reference + current
    upper = np.cumsum(pooled, axis=1) / pooled.sum(axis=1, keepdims=True)
    middle = upper - pooled / pooled.sum(axis=1, keepdims=True) / 2
    bins = np.minimum((middle * PSI_BINS).astype(np.intp), PSI_BINS - 1) + PSI_BINS * np.arange(len(pooled))[:, None]
    before, after = (
        np.bincount(bins.ravel(), side.ravel(), PSI_BINS * len(pooled)).reshape(len(pooled), PSI_BINS).astype(float)
        for side in (reference, current)
    )
    chi_square, freedom = chi_square_statistic(before, after)
    return psi_statistics(before, after, deff) | {
        "chi_square": chi_square,
        "chi_square_p": _chi_square_p(chi_square / deff, freedom),
    }


def chi_square_statistic(reference: Floats, current: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Two-sample chi-square statistic of counts (columns x cells), and its degrees of freedom without empty cells."""
    n, m = reference.sum(axis=-1, keepdims=True), current.sum(axis=-1, keepdims=True)
    pooled = reference + current
    square = np.square(current * np.sqrt(n / m) - reference * np.sqrt(m / n))
    return np.divide(square, pooled, out=np.zeros_like(square), where=pooled > 0).sum(axis=-1), (pooled > 0).sum(
        axis=-1
    ) - 1


def psi_statistics(reference: Floats, current: Floats, deff: Floats | float) -> dict[str, Floats]:
    """Population stability index of counts (columns x cells), its 95% quantile without a change, and its p-value.

    The index is asymptotically (1/n + 1/m) * chi2(cells - 1) (Yurdakul 2018). Half a row is added to each cell, so that
    the index is finite. Cells that are empty on both sides are left out.

    >>> same = psi_statistics(np.array([[50, 50]]), np.array([[50, 50]]), 1.0)
    >>> float(same["psi"][0]), round(float(same["psi_null"][0]), 4)
    (0.0, 0.0768)
    """
    from scipy.special import chdtri

    used = (reference + current) > 0
    cells = used.sum(axis=-1)
    n, m = reference.sum(axis=-1), current.sum(axis=-1)
    p = np.where(used, (reference + 0.5) / (n + cells / 2)[..., None], 1.0)
    q = np.where(used, (current + 0.5) / (m + cells / 2)[..., None], 1.0)
    psi = ((q - p) * np.log(q / p)).sum(axis=-1)
    scale = (1 / n + 1 / m) * deff
    return {
        "psi": psi,
        "psi_null": np.where(cells > 1, scale * chdtri(np.maximum(cells - 1, 1), PSI_ALPHA), 0.0),
        "psi_p": _chi_square_p(psi / scale, cells - 1),
    }


def kolmogorov_smirnov_p(distance: Floats | float, n: Floats | float, m: Floats | float) -> Floats:
    """Two-sided p-value of the two-sample distance: Kolmogorov's limit with the small-sample factor of Stephens (1970).

    >>> round(float(kolmogorov_smirnov_p(0.2, 100, 100)), 3)
    0.031
    """
    from scipy.special import kolmogorov

    root = np.sqrt(n * m / (n + m))
    return np.asarray(kolmogorov((root + 0.12 + 0.11 / root) * distance))


def proportion_tests(
    hits_reference: Counted,
    n: Counted | float,
    hits_current: Counted,
    m: Counted | float,
    deff: Floats | float = 1.0,
    middle: bool = False,
) -> tuple[Floats, Floats]:
    """Two-sided p-value and z of the difference of two shares; Fisher's exact test if an expected count is below 10.

    The p-value uses counts divided by the design effect ``deff`` (effective counts of Rao and Scott), z does not.
    ``middle`` gives mid-p-values (Lancaster 1961), which are not conservative if many p-values are combined.

    >>> p, z = proportion_tests(np.array([0]), 200, np.array([6]), 60)
    >>> round(float(p[0]), 5), round(float(z[0]), 2)
    (0.00012, 4.52)
    """
    from scipy.special import erfc

    hits = hits_reference + hits_current
    share = hits / (n + m)
    error = np.sqrt(share * (1 - share) * (1 / n + 1 / m))
    difference = hits_current / m - hits_reference / n
    z = np.divide(difference, error, out=np.zeros_like(share), where=error > 0)
    p = erfc(np.abs(z) / np.sqrt(2 * deff))
    few = are_few(hits, n, m, deff)
    if few.any():
        counts = (np.broadcast_to(a / deff, hits.shape)[few].round() for a in (hits_reference, n, hits_current, m))
        p = p.copy()
        p[few] = _fisher_p(*counts, middle=middle)
    return p, z


def are_few(hits: Counted, n: Counted | float, m: Counted | float, deff: Floats | float) -> NDArray[np.bool_]:
    """Whether an expected count is below the minimum for the normal limit."""
    return np.asarray(np.minimum(hits, n + m - hits) * (np.minimum(n, m) / (n + m)) / deff < NORMAL_MIN_EXPECTED)


def _fisher_p(hits_reference: Floats, n: Floats, hits_current: Floats, m: Floats, *, middle: bool) -> Floats:
    from scipy.special import gammaln

    def log_choose(size: Floats, chosen: Floats | NDArray[np.int_]) -> Floats:
        inside = (chosen >= 0) & (chosen <= size)
        value = gammaln(size + 1) - gammaln(np.maximum(chosen, 0) + 1) - gammaln(np.maximum(size - chosen, 0) + 1)
        return np.where(inside, value, -np.inf)

    mostly = hits_reference + hits_current > (n + m) / 2
    observed = np.where(mostly, m - hits_current, hits_current)[:, None]
    hits = np.where(mostly, n + m - hits_reference - hits_current, hits_reference + hits_current)[:, None]
    n, m = n[:, None], m[:, None]
    support = np.arange(int(np.minimum(hits, m).max()) + 1)
    log_p = log_choose(m, support) + log_choose(n, hits - support) - log_choose(n + m, hits)
    seen = np.take_along_axis(log_p, observed.astype(np.intp), axis=1)
    chance = np.exp(log_p)
    p = np.where(log_p <= seen + 1e-7, chance, 0.0).sum(axis=1)
    tied = np.where(np.abs(log_p - seen) <= 1e-7, chance, 0.0).sum(axis=1) if middle else 0.0
    return np.asarray(np.minimum(1.0, p - tied / 2))


def normal_p(z: Floats) -> Floats:
    """Two-sided p-value of a normal deviate."""
    from scipy.special import erfc

    return np.asarray(erfc(np.abs(z) / np.sqrt(2)))


def _chi_square_p(statistic: Floats, freedom: NDArray[np.intp]) -> Floats:
    from scipy.special import chdtrc

    return np.where(freedom > 0, chdtrc(np.maximum(freedom, 1), statistic), 1.0)
