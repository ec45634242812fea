"""Statistics of many ranges at once against numpy, one range at a time."""

from __future__ import annotations

import numpy as np
import pytest

from ml_pipeline.features.temporal.ranges import NO_GROUP, Groups, OrderStatistics, Range, range_moments

SIZES = (1, 2, 3, 64, 65, 1000)


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def ranges_of(rng: np.random.Generator, sizes: np.ndarray) -> Range:
    """A range of any length, empty ones included, in a group of each size."""
    ends = np.sort(rng.integers(0, sizes[:, None] + 1, (len(sizes), 2)), axis=1)
    return Range(ends[:, 0], ends[:, 1])


def test_moments_are_those_of_the_events_of_the_range(rng):
    codes = rng.permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    values, times = rng.lognormal(size=len(codes)), np.sort(rng.uniform(0, 50, len(codes)))
    groups = Groups.of(codes, len(SIZES))
    asked = rng.integers(0, len(SIZES), 2000)
    ranges = ranges_of(rng, np.array(SIZES)[asked])
    (found,) = range_moments(groups, asked, values, [ranges], times)
    for at, (code, first, end) in enumerate(zip(asked, *ranges, strict=True)):
        y, t = (column[codes == code][first:end] for column in (values, times))
        assert found.n[at] == len(y)
        if not len(y):
            assert np.isnan([found.mean[at], found.low[at], found.high[at], found.std[at]]).all()
            continue
        assert (found.low[at], found.high[at]) == (y.min(), y.max())
        expected = [y.mean(), y.var() * len(y), t.var() * len(t), ((y - y.mean()) * (t - t.mean())).sum()]
        together = [found.mean[at], found.square[at], found.time_square[at], found.product[at]]
        np.testing.assert_allclose(together, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("distinct", [1, 2, 7, 100_000])
def test_order_statistics_are_those_of_the_sorted_range(rng, distinct):
    values = rng.integers(0, distinct, 1000).astype("float64")
    ranges = ranges_of(rng, np.full(500, len(values)))
    k = rng.integers(0, np.maximum(ranges.end - ranges.first, 1))
    bound = rng.integers(-1, distinct + 2, 500).astype("float64")
    ordered = OrderStatistics(values)
    smallest, below = ordered.smallest(*ranges, k), ordered.below(*ranges, bound)
    for at, (first, end) in enumerate(zip(*ranges, strict=True)):
        inside = np.sort(values[first:end])
        np.testing.assert_equal(smallest[at], inside[k[at]] if len(inside) else np.nan)
        assert below[at] == (inside < bound[at]).sum()


def test_nothing_at_all_can_be_asked():
    nothing, one = np.zeros(0, dtype="int64"), np.zeros(1, dtype="int64")
    groups = Groups.of(nothing, 0)
    (found,) = range_moments(groups, np.array([NO_GROUP]), np.zeros(0), [Range(one, one)])
    assert np.isnan(found.mean).all()
    assert np.isnan(OrderStatistics(np.zeros(0)).smallest(one, one, one)).all()
    assert OrderStatistics(np.zeros(0)).below(one, one, np.ones(1)).tolist() == [0]


def test_each_group_begins_at_a_multiple_of_its_size_whatever_the_others_are(rng):
    sizes = rng.integers(1, 300, 50)
    starts, cells = Groups.of(np.repeat(np.arange(50), sizes), 50).cells()
    rounded = 2 ** np.ceil(np.log2(sizes)).astype("int64")
    assert (starts % rounded == 0).all()
    order = np.argsort(starts)
    assert (starts[order][1:] >= (starts + rounded)[order][:-1]).all()
    assert (starts + rounded).max() <= cells <= 4 * sizes.sum()
