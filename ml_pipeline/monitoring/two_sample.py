"""Two-sample tests over many columns at once: one sort a column, closed-form p-values, days as clusters.

Rows of one day resemble each other (a sprint planning, a release, one busy reporter), and neighbouring days do too. A
test that takes every row for an independent one then finds drift where there is only a busy week. Each statistic is
therefore divided by its design effect: the variance of the day sums, with the covariance of neighbouring days, over
the variance that independent rows would have (Kish 1965; Rao and Scott 1984 for chi-square; Driscoll and Kraay 1998
for the day sums).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PSI_BINS = 10
PSI_ALPHA = 0.05
CHI_SQUARE_MIN_EXPECTED = 5.0
LEVEL_MIN_ROWS = 5
NORMAL_MIN_EXPECTED = 10.0
TAIL_SHARE = 0.01
TAIL_MIN_EXPECTED = 10.0
LOWER_BOUND_Z = 1.645
LAG_WEIGHTS = (2 / 3, 1 / 3)  # Bartlett, two days
_ELEMENTS_AT_ONCE = 2_000_000
_DAY = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class Pooled:
    """Baseline rows followed by current rows, each in time order: where the current ones and where the days begin."""

    baseline: int
    rows: int
    day_starts: NDArray[np.intp]

    @classmethod
    def of(cls, baseline_time: pd.Series, current_time: pd.Series) -> Pooled:
        times = np.concatenate([_days(baseline_time), _days(current_time)])
        starts = np.flatnonzero(times[1:] != times[:-1]) + 1
        return cls(len(baseline_time), len(times), np.unique(np.concatenate([[0, len(baseline_time)], starts])))

    @property
    def current_day(self) -> int:
        """Position of the first day of the current window among the days."""
        return int(np.searchsorted(self.day_starts, self.baseline))


class ColumnTests(NamedTuple):
    """One entry a column. Effects are in standard deviations: a mean shift of 0.3 sigma has an effect near 0.3."""

    p: Floats
    effect: Floats
    lower: Floats  # 95 % one-sided lower confidence bound of the effect
    statistics: dict[str, Floats]


def numeric_tests(values: Floats, pooled: Pooled) -> ColumnTests:
    """Drift of numeric columns, from the ranks of the pooled sample.

    The p-value of a column combines (:func:`combine`) the Kolmogorov-Smirnov test with four linear rank tests that
    look where it is blind: location (Wilcoxon 1945), scale (Mood 1954), and the two tails. A missing value (NaN) is
    left out; an infinite one is the largest or smallest.

    Parameters
    ----------
    values : array of shape (columns, rows)
        Baseline rows followed by current rows. Every column needs a value on both sides.

    Returns
    -------
    ColumnTests
        With the statistics ``ks``, ``ks_p``, ``psi``, ``psi_null`` (its 95 % quantile when nothing changed), ``psi_p``,
        ``location_p``, ``scale_p``, ``upper_tail_p``, ``lower_tail_p`` and ``design_effect``.
    """
    width = max(1, _ELEMENTS_AT_ONCE // max(1, values.shape[1]))
    blocks = [_numeric_block(values[at : at + width], pooled) for at in range(0, len(values), width)]
    return ColumnTests(
        np.concatenate([block.p for block in blocks]),
        np.concatenate([block.effect for block in blocks]),
        np.concatenate([block.lower for block in blocks]),
        {name: np.concatenate([block.statistics[name] for block in blocks]) for name in blocks[0].statistics},
    )


def _numeric_block(values: Floats, pooled: Pooled) -> ColumnTests:
    known = ~np.isnan(values)
    n, m = _sizes(known, pooled)
    u, distance = _ranks_and_distance(values, known, pooled, n, m)
    tail = np.maximum(TAIL_SHARE, TAIL_MIN_EXPECTED / np.minimum(n, m))[:, None]
    scores = {
        "location": u - 0.5,
        "scale": np.square(u - 0.5),
        "upper_tail": (u > 1 - tail).astype(float),
        "lower_tail": (u < tail).astype(float),
    }
    root = np.sqrt(n * m / (n + m))
    statistics: dict[str, Floats] = {"ks": distance}
    effects, deffs = {"ks": 2 * distance}, {}
    for name, score in scores.items():
        z = _linear_rank_z(score, known, pooled, n, m)
        deffs[name] = design_effect(score, known, pooled)
        effects[name] = np.abs(z) / root
        statistics[f"{name}_p"] = _normal_p(z / np.sqrt(deffs[name]))
    deffs["ks"] = deffs["location"]
    statistics["ks_p"] = kolmogorov_smirnov_p(distance, n / deffs["ks"], m / deffs["ks"])
    statistics |= _psi_of_ranks(u, known, pooled, deffs["ks"])
    statistics["design_effect"] = deffs["ks"]
    lower = np.max([effects[name] - LOWER_BOUND_Z * np.sqrt(deffs[name]) / root for name in effects], axis=0)
    parts = np.array([statistics[f"{name}_p"] for name in effects])
    return ColumnTests(combine(parts), np.max(list(effects.values()), axis=0), lower, statistics)


def _ranks_and_distance(values, known, pooled: Pooled, n, m) -> tuple[Floats, Floats]:
    """Mid-ranks of the pooled sample, scaled to (0, 1), and the Kolmogorov-Smirnov distance, from one sort."""
    total = (n + m)[:, None]
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    position = np.arange(values.shape[1])
    differs = ordered[:, 1:] != ordered[:, :-1]
    edge = np.ones((len(values), 1), dtype=bool)
    first = np.maximum.accumulate(np.where(np.hstack([edge, differs]), position, 0), axis=1)
    is_last = np.hstack([differs, edge])
    last = np.minimum.accumulate(np.where(is_last, position, values.shape[1])[:, ::-1], axis=1)[:, ::-1]
    u = np.empty_like(values)
    np.put_along_axis(u, order, (first + last + 1) / (2 * total), axis=1)
    current = np.cumsum(order >= pooled.baseline, axis=1)
    gap = np.abs(current / m[:, None] - (position + 1 - current) / n[:, None])
    return u, np.where(is_last & (position < total), gap, 0.0).max(axis=1)


def _linear_rank_z(score, known, pooled: Pooled, n, m) -> Floats:
    """Standardised sum of the current rows' scores; mean and variance over all relabellings, ties included."""
    score = np.where(known, score, 0.0)
    total = n + m
    mean = score.sum(axis=1) / total
    spread = np.square(score).sum(axis=1) - total * np.square(mean)
    variance = n * m / (total * (total - 1)) * spread
    excess = score[:, pooled.baseline :].sum(axis=1) - m * mean
    return np.divide(excess, np.sqrt(variance), out=np.zeros_like(excess), where=spread > 1e-9)


def design_effect(score, known, pooled: Pooled) -> Floats:
    """How many times more the score's window mean varies than with independent rows; 1 where that is within noise."""
    split, counts = pooled.baseline, known.sum(axis=1)
    parts = []
    for rows in (slice(0, split), slice(split, None)):
        mask = known[:, rows]
        mean = np.where(mask, score[:, rows], 0.0).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
        parts.append(np.where(mask, score[:, rows] - mean[:, None], 0.0))
    centred = np.hstack(parts)
    day_sums = np.add.reduceat(centred, pooled.day_starts, axis=1)
    spread = np.square(centred).sum(axis=1)
    dispersion = _dispersion(day_sums, pooled.current_day)
    ratio = np.divide(dispersion, spread, out=np.ones(len(counts)), where=spread > 1e-9)
    return _beyond_noise(ratio, len(pooled.day_starts))


def _dispersion(day_sums: Floats, current_day: int) -> Floats:
    """Variance of the windows' sums, from day sums centred in each window (last axis: days) and their neighbours.

    Centring makes neighbours look opposed; each window is scaled so that independent days have their true variance.
    """
    total = np.zeros(day_sums.shape[:-1])
    for window in (day_sums[..., :current_day], day_sums[..., current_day:]):
        days = window.shape[-1]
        variance, expected = np.square(window).sum(axis=-1), days - 1.0
        for lag, weight in enumerate(LAG_WEIGHTS, start=1):
            variance = variance + 2 * weight * (window[..., lag:] * window[..., :-lag]).sum(axis=-1)
            expected -= 2 * weight * max(days - lag, 0) / days
        if days > 1:
            total = total + variance * days / expected
    return total


def _beyond_noise(ratio: Floats, days: int) -> Floats:
    noise = np.sqrt((2 + 4 * sum(weight**2 for weight in LAG_WEIGHTS)) / days)
    return np.where(ratio > 1 + LOWER_BOUND_Z * noise, ratio, 1.0)


def _psi_of_ranks(u, known, pooled: Pooled, deff) -> dict[str, Floats]:
    columns = len(u)
    bins = np.minimum((u * PSI_BINS).astype(np.intp), PSI_BINS - 1) + PSI_BINS * np.arange(columns)[:, None]
    counts = [
        np.bincount(bins[:, rows][known[:, rows]], minlength=columns * PSI_BINS).reshape(columns, PSI_BINS)
        for rows in (slice(0, pooled.baseline), slice(pooled.baseline, None))
    ]
    return psi_statistics(counts[0], counts[1], deff)


def psi_statistics(baseline, current, deff) -> dict[str, Floats]:
    """Population stability index of counts (columns x cells), its 95 % quantile when nothing changed, and its p-value.

    The index is asymptotically (1/n + 1/m) * chi2(cells - 1) (Yurdakul 2018). Each cell gets half a row more, so that
    an empty one gives a finite index. Cells that are empty on both sides do not count.

    >>> same = psi_statistics(np.array([[50, 50]]), np.array([[50, 50]]), 1.0)
    >>> float(same["psi"][0]), round(float(same["psi_null"][0]), 4)
    (0.0, 0.0768)
    """
    from scipy.special import chdtrc, chdtri

    used = (baseline + current) > 0
    cells = used.sum(axis=-1)
    n, m = baseline.sum(axis=-1), current.sum(axis=-1)
    p = np.where(used, (baseline + 0.5) / (n + cells / 2)[..., None], 1.0)
    q = np.where(used, (current + 0.5) / (m + cells / 2)[..., None], 1.0)
    psi = ((q - p) * np.log(q / p)).sum(axis=-1)
    scale = (1 / n + 1 / m) * deff
    freedom = np.maximum(cells - 1, 1)
    return {
        "psi": psi,
        "psi_null": np.where(cells > 1, scale * chdtri(freedom, PSI_ALPHA), 0.0),
        "psi_p": np.where(cells > 1, chdtrc(freedom, psi / scale), 1.0),
    }


def kolmogorov_smirnov_p(distance, n, m) -> Floats:
    """Two-sided p-value of the two-sample distance: Kolmogorov's limit with the small-sample factor of Stephens (1970).

    >>> round(float(kolmogorov_smirnov_p(0.2, 100, 100)), 3)
    0.031
    """
    from scipy.special import kolmogorov

    root = np.sqrt(n * m / (n + m))
    return kolmogorov((root + 0.12 + 0.11 / root) * distance)


def category_test(codes: NDArray[np.intp], levels: int, pooled: Pooled) -> tuple[dict[str, float], int]:
    """Drift of one categorical column, and the level that moved most (its code).

    The p-value combines (:func:`combine`) the two-sample chi-square test, levels with an expected count below 5
    pooled into one cell, with the exact or normal test of the single level that moved most (Bonferroni over levels of
    five rows or more): chi-square spreads one level's move over all of them, and pooling would hide a new level.

    Parameters
    ----------
    codes : array of shape (rows,)
        Level of each row, baseline rows first; -1 where missing.
    """
    from scipy.special import chdtrc

    known = codes >= 0
    baseline = np.bincount(codes[: pooled.baseline][known[: pooled.baseline]], minlength=levels)
    current = np.bincount(codes[pooled.baseline :][known[pooled.baseline :]], minlength=levels)
    n, m = baseline.sum(), current.sum()
    deff = _category_design_effect(codes, levels, pooled)
    cells = _pool_rare(baseline, current)
    chi_square = float((np.square(cells[1] * np.sqrt(n / m) - cells[0] * np.sqrt(m / n)) / cells.sum(axis=0)).sum())
    freedom = cells.shape[1] - 1
    chi_square_p = float(chdtrc(freedom, chi_square / deff)) if freedom else 1.0
    level_p, level_z, level = _most_moved_level(baseline, current, deff)
    root = np.sqrt(n * m / (n + m))
    effect = max(np.sqrt(max(0.0, chi_square - deff * freedom)), abs(level_z)) / root
    result = {
        "p": float(combine(np.array([chi_square_p, level_p]))),
        "effect": float(effect),
        "lower": float(effect - LOWER_BOUND_Z * np.sqrt(deff) / root),
        "chi_square": chi_square,
        "chi_square_p": chi_square_p,
        "level_p": level_p,
        **{name: float(value[0]) for name, value in psi_statistics(cells[:1], cells[1:], deff).items()},
        "design_effect": deff,
    }
    return result, level


def _most_moved_level(baseline, current, deff: float) -> tuple[float, float, int]:
    """Bonferroni p-value, z and code of the level that moved most; the code is -1 where no level has five rows."""
    tested = np.flatnonzero(baseline + current >= LEVEL_MIN_ROWS)
    if not len(tested):
        return 1.0, 0.0, -1
    p, z = proportion_tests(baseline[tested], baseline.sum(), current[tested], current.sum(), deff)
    top = int(np.lexsort((-np.abs(z), p))[0])
    return min(1.0, len(tested) * float(p[top])), float(z[top]), int(tested[top])


def _pool_rare(baseline, current) -> NDArray[np.int64]:
    counts = np.array([baseline, current])
    smaller_share = counts.sum(axis=1).min() / counts.sum()
    rare = counts.sum(axis=0) * smaller_share < CHI_SQUARE_MIN_EXPECTED
    pooled_cell = counts[:, rare].sum(axis=1, keepdims=True)
    return np.hstack([counts[:, ~rare], pooled_cell]) if pooled_cell.any() else counts[:, ~rare]


def _category_design_effect(codes, levels: int, pooled: Pooled) -> float:
    days = len(pooled.day_starts)
    day = np.zeros(pooled.rows, dtype=np.intp)
    day[pooled.day_starts[1:]] = 1
    known = codes >= 0
    cell = np.cumsum(day)[known] * levels + codes[known]
    counts = np.bincount(cell, minlength=days * levels).reshape(days, levels).astype(float)
    day_sums, spread = [], 0.0
    for window in (counts[: pooled.current_day], counts[pooled.current_day :]):
        rows = window.sum(axis=1, keepdims=True)
        share = window.sum(axis=0) / rows.sum()
        spread += float(rows.sum() * (1 - np.square(share).sum()))
        day_sums.append(window - rows * share)
    if spread < 1e-9:
        return 1.0
    dispersion = _dispersion(np.vstack(day_sums).T, pooled.current_day).sum()
    return float(_beyond_noise(np.array(dispersion / spread), days))


def proportion_tests(hits_baseline, n, hits_current, m, deff=1.0) -> tuple[Floats, Floats]:
    """Two-sided p-value and z of the difference of shares: Fisher's exact test where an expected count is below 10.

    A design effect divides every count (Rao and Scott's effective counts); z is the one before that.

    >>> p, z = proportion_tests(np.array([0]), 200, np.array([6]), 60)
    >>> round(float(p[0]), 5), round(float(z[0]), 2)
    (0.00012, 4.52)
    """
    from scipy.special import erfc

    hits = hits_baseline + hits_current
    share = hits / (n + m)
    error = np.sqrt(share * (1 - share) * (1 / n + 1 / m))
    difference = hits_current / m - hits_baseline / n
    z = np.divide(difference, error, out=np.zeros_like(share), where=error > 0)
    p = erfc(np.abs(z) / np.sqrt(2 * deff))
    few = np.minimum(hits, n + m - hits) * (np.minimum(n, m) / (n + m)) / deff < NORMAL_MIN_EXPECTED
    if few.any():
        counts = (np.broadcast_to(a / deff, hits.shape)[few].round() for a in (hits_baseline, n, hits_current, m))
        p = p.copy()
        p[few] = _fisher_p(*counts)
    return p, z


def _fisher_p(hits_baseline, n, hits_current, m) -> Floats:
    from scipy.special import gammaln

    def log_choose(size, chosen):
        inside = (chosen >= 0) & (chosen <= size)
        value = gammaln(size + 1) - gammaln(np.maximum(chosen, 0) + 1) - gammaln(np.maximum(size - chosen, 0) + 1)
        return np.where(inside, value, -np.inf)

    mostly = hits_baseline + hits_current > (n + m) / 2
    observed = np.where(mostly, m - hits_current, hits_current)[:, None]
    hits = np.where(mostly, n + m - hits_baseline - hits_current, hits_baseline + hits_current)[:, None]
    n, m = n[:, None], m[:, None]
    support = np.arange(int(np.minimum(hits, m).max()) + 1)
    log_p = log_choose(m, support) + log_choose(n, hits - support) - log_choose(n + m, hits)
    seen = np.take_along_axis(log_p, observed.astype(np.intp), axis=1)
    return np.minimum(1.0, np.where(log_p <= seen + 1e-7, np.exp(log_p), 0.0).sum(axis=1))


def combine(p: Floats) -> Floats:
    """One p-value from several of the same rows (first axis), dependent or not: Cauchy combination (Liu and Xie 2020).

    >>> round(float(combine(np.array([0.01, 0.5]))), 4)
    0.02
    """
    # A p-value of 1 (a tie-ridden or constant column) would outweigh any small one.
    clipped = np.clip(p, 1e-300, 0.95)
    return np.arctan2(1.0, (1 / np.tan(np.pi * clipped)).mean(axis=0)) / np.pi


def benjamini_hochberg(p: Floats, rate: float) -> NDArray[np.bool_]:
    """Which tests are rejected at false-discovery rate ``rate`` (Benjamini and Hochberg 1995).

    >>> benjamini_hochberg(np.array([0.001, 0.03, 0.04, 0.9]), 0.05).tolist()
    [True, False, False, False]
    """
    ordered = np.sort(p)
    passing = np.flatnonzero(ordered <= rate * np.arange(1, len(p) + 1) / len(p))
    return p <= ordered[passing[-1]] if len(passing) else np.zeros(len(p), dtype=bool)


def _sizes(known, pooled: Pooled) -> tuple[Floats, Floats]:
    return known[:, : pooled.baseline].sum(axis=1).astype(float), known[:, pooled.baseline :].sum(axis=1).astype(float)


def _normal_p(z: Floats) -> Floats:
    from scipy.special import erfc

    return erfc(np.abs(z) / np.sqrt(2))


def _days(times: pd.Series) -> NDArray[np.int64]:
    return times.array.as_unit("us").asi8 // _DAY
