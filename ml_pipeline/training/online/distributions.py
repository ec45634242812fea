"""Forecasts as distributions over a tenant's own label values: medians, quantiles, shares and the CRPS.

A distribution is its cumulative probabilities at the ascending values of a grid: the last one is 1. Arrays of
distributions have the values as last axis.
"""

from __future__ import annotations

import numpy as np

MOST_VALUES, MOST_NEW_VALUES = 64, 256
_CLOSE = 1e-9  # cumulative probabilities are sums of rounded terms


def grid_of(labels: np.ndarray) -> np.ndarray:
    """The distinct labels, ascending; 64 quantiles of the labels if there are more.

    >>> grid_of(np.array([3.0, 1.0, 1.0, 8.0])).tolist()
    [1.0, 3.0, 8.0]
    """
    values = np.unique(labels)
    if len(values) > MOST_VALUES:
        values = np.unique(np.quantile(labels, (np.arange(MOST_VALUES) + 0.5) / MOST_VALUES, method="nearest"))
    return values


def grown(grid: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``grid`` with the first 256 ``labels`` that are not on it; a grid of 64 values grows beyond its ends only.

    ``labels`` are in the order in which they became known, so that later ones change nothing about earlier ones.

    >>> grown(np.array([1.0, 3.0]), np.array([3.0, 8.0])).tolist()
    [1.0, 3.0, 8.0]
    """
    new = labels[~np.isin(labels, grid)]
    if len(grid) >= MOST_VALUES:
        new = new[(new < grid[0]) | (new > grid[-1])]
    _, first = np.unique(new, return_index=True)
    return np.union1d(grid, new[np.sort(first)[:MOST_NEW_VALUES]])


def nearest(grid: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Position of the grid value that is nearest to each label; the lower one if two are equally near."""
    above = np.clip(np.searchsorted(grid, labels), 1, max(len(grid) - 1, 1))
    if len(grid) == 1:
        return np.zeros(len(labels), dtype=np.int64)
    lower = labels - grid[above - 1] <= grid[above] - labels
    return np.where(lower, above - 1, above)


def quantile(grid: np.ndarray, cumulative: np.ndarray, share: float) -> np.ndarray:
    """The smallest value of the grid whose cumulative probability reaches ``share``, for each distribution."""
    reached = cumulative >= share - _CLOSE
    reached[..., -1] = True
    return np.asarray(grid[np.argmax(reached, axis=-1)])


def share_within(grid: np.ndarray, cumulative: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Probability that the outcome is in the closed interval, for each distribution."""
    mass = np.diff(cumulative, axis=-1, prepend=0.0)
    inside = (grid >= lower[..., None] - _CLOSE) & (grid <= upper[..., None] + _CLOSE)
    return np.asarray((mass * inside).sum(axis=-1))


def crps(grid: np.ndarray, cumulative: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score of each distribution, in the label's unit (Gneiting and Raftery 2007).

    It is the absolute error of a distribution that has one value only.

    >>> crps(np.array([1.0, 2.0]), np.array([[0.0, 1.0]]), np.array([1.0])).tolist()
    [1.0]
    """
    happened = grid[:-1] >= label[..., None]
    return np.asarray(((cumulative[..., :-1] - happened) ** 2 * np.diff(grid)).sum(axis=-1))
