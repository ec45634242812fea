"""Two-sample tests over many columns at once, all of them comparisons of two rows of counts over the same cells.

Numeric columns have ordered cells, categorical ones their levels, missingness two. Counts are all that a profile keeps
of the past, and counting the present needs one sort a column. What one day's rows have in common is corrected for by
design effects (:mod:`ml_pipeline.monitoring.drift.design_effects`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml_pipeline.monitoring.drift.design_effects import INDEPENDENT, ONE_SIDED_Z, Floats, student_to_normal

PSI_BINS = 10
PSI_ALPHA = 0.05
NORMAL_MIN_EXPECTED = 10.0
TAIL_SHARE = 0.01
TAIL_MIN_EXPECTED = 10.0
SPLITS = np.arange(1, 10, 2) / 10
COMPONENTS = ("location", "scale", "upper_tail", "lower_tail", *(f"below_{share:.0%}" for share in SPLITS))
_COLUMNS_AT_ONCE = 8
_DRAWS = 192


Counted = Floats | NDArray[np.int64]


class ColumnTests(NamedTuple):
    """One entry a column. Effects are in standard deviations: a mean shift of 0.3 sigma has an effect near 0.3."""

    p: Floats
    effect: Floats
    lower: Floats  # 95% one-sided lower confidence bound of the effect
    largest: Floats  # the largest standardised deviation, corrected for the design effect
    statistics: dict[str, Floats]


def rank_scores(reference: Floats, current: Floats) -> Floats:
    """What each cell counts for in each of ``COMPONENTS``, from the pooled ranks of the cells.

    Location (Wilcoxon 1945), scale (Klotz 1962), the two tails, and the share below five deciles: of the process whose
    largest value is the Kolmogorov-Smirnov distance. A cell that a tail begins in counts in proportion.

    Parameters
    ----------
    reference, current : array of shape (columns, cells)
        Counts, cells in order of value; columns with fewer cells end with cells that are empty on both sides.

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
    """Drift of numeric columns from counts over ordered cells.

    The p-value of a column is the probability that the largest of its standardised components (:func:`rank_scores`)
    is as large as it is when nothing changed (:func:`largest_p`): one rule over location, scale, tails and the
    distribution function, ties included. Kolmogorov-Smirnov, chi-square over ten equal cells and the population
    stability index are reported beside it.

    Parameters
    ----------
    reference, current : array of shape (columns, cells)
        Every column needs rows on both sides.
    scores : array of shape (columns, cells, components)
    deff : array of shape (columns, components)
        Design effects.
    freedom : array of shape (columns, components), or a number
        Degrees of freedom that the design effects were learnt with.
    counted : array of shape (columns, cells), optional
        Rows of the reference, where ``reference`` is what they make one expect: for the reported distances.

    Returns
    -------
    ColumnTests
        With the statistics ``ks``, ``ks_p``, ``chi_square``, ``chi_square_p``, ``psi``, ``psi_null`` (its 95 %
        quantile when nothing changed), ``psi_p``, ``location_p``, ``scale_p``, ``upper_tail_p``, ``lower_tail_p`` and
        ``design_effect``.
    """
    n, m = reference.sum(axis=1), current.sum(axis=1)
    root = np.sqrt(n * m / (n + m))
    z, deviate, correlation = _standardised(reference, current, scores)
    corrected = student_to_normal(deviate / np.sqrt(deff), freedom)
    largest = np.abs(corrected).max(axis=1)
    rows = reference if counted is None else counted
    statistics = _distance(rows, current, deff[:, 0]) | _ten_cells(rows, current, deff[:, 0])
    for position, name in enumerate(COMPONENTS[:4]):
        statistics[f"{name}_p"] = normal_p(corrected[:, position])
    statistics["design_effect"] = deff[:, 0]
    effects = np.abs(z) / root[:, None]
    lower = (effects - ONE_SIDED_Z * np.sqrt(deff) / root[:, None]).max(axis=1)
    return ColumnTests(largest_p(largest, correlation), effects.max(axis=1), lower, largest, statistics)


def _standardised(reference: Floats, current: Floats, scores: Floats) -> tuple[Floats, Floats, Floats]:
    """Difference of the mean scores over its standard error, as a normal deviate too, and the scores' correlation."""
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
    """The normal deviate as likely as a standardised sum of that skewness and excess kurtosis.

    The expansion of Cornish and Fisher (1938) to second order; it holds up to where the first order turns back.
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
    """Skewness and excess kurtosis of the difference of two means, from those of the scores, over all relabellings."""
    total = n + m
    share = n * m / np.square(total)
    return skewness * (n - m) / np.sqrt(n * m * total), kurtosis * (1 - 6 * share) / (total * share)


def largest_p(largest: Floats, correlation: Floats) -> Floats:
    """Probability that the largest of correlated standard normal deviates, in size, is at least ``largest``.

    By importance sampling of the union (Naiman and Priebe 2001; Shi, Siegmund and Yakir 2007): the sum of the single
    probabilities, times the mean of 1 / (deviates beyond) given that one of them is. The draws are fixed, the error is
    about 1% of the probability, however small it is.

    Parameters
    ----------
    largest : array of shape (columns,)
    correlation : array of shape (columns, components, components)
        A component without variance has zeros.

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


def _distance(reference: Floats, current: Floats, deff: Floats) -> dict[str, Floats]:
    n, m = reference.sum(axis=1), current.sum(axis=1)
    gap = np.cumsum(current, axis=1) / m[:, None] - np.cumsum(reference, axis=1) / n[:, None]
    distance = np.abs(gap).max(axis=1)
    return {"ks": distance, "ks_p": kolmogorov_smirnov_p(distance, n / deff, m / deff)}


def _ten_cells(reference: Floats, current: Floats, deff: Floats) -> dict[str, Floats]:
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
    """Two-sample chi-square of counts (columns x cells) and its degrees of freedom; empty cells do not count."""
    n, m = reference.sum(axis=-1, keepdims=True), current.sum(axis=-1, keepdims=True)
    pooled = reference + current
    square = np.square(current * np.sqrt(n / m) - reference * np.sqrt(m / n))
    return np.divide(square, pooled, out=np.zeros_like(square), where=pooled > 0).sum(axis=-1), (pooled > 0).sum(
        axis=-1
    ) - 1


def psi_statistics(reference: Floats, current: Floats, deff: Floats | float) -> dict[str, Floats]:
    """Population stability index of counts (columns x cells), its 95% quantile when nothing changed, and its p-value.

    The index is asymptotically (1/n + 1/m) * chi2(cells - 1) (Yurdakul 2018). Each cell gets half a row more, so that
    an empty one gives a finite index. Cells that are empty on both sides do not count.

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
    """Two-sided p-value and z of the difference of shares: Fisher's exact test where an expected count is below 10.

    A design effect divides every count (Rao and Scott's effective counts); z is the one before that. ``middle`` counts
    what is as likely as the observed by half (Lancaster 1961): not conservative, where many such p-values are combined.

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
    """Whether an expected count is too small for the normal limit."""
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
    """Two-sided."""
    from scipy.special import erfc

    return np.asarray(erfc(np.abs(z) / np.sqrt(2)))


def _chi_square_p(statistic: Floats, freedom: NDArray[np.intp]) -> Floats:
    from scipy.special import chdtrc

    return np.where(freedom > 0, chdtrc(np.maximum(freedom, 1), statistic), 1.0)
