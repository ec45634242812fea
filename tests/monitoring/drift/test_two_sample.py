"""The closed forms against scipy, and their calibration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ml_pipeline.monitoring.drift import two_sample
from ml_pipeline.monitoring.drift.categories import category_test
from ml_pipeline.monitoring.profiles.columns import edges_of

samples = st.lists(st.integers(-5, 5), min_size=20, max_size=60)


def cells(reference, current) -> tuple[np.ndarray, np.ndarray]:
    """One row of counts for each side, over the cells of a profile of the reference."""
    edges, _ = edges_of(np.sort(np.asarray(reference, dtype=float)))
    parts = []
    for side in (reference, current):
        below = np.searchsorted(np.sort(np.asarray(side, dtype=float)), edges, "right")
        parts.append(np.diff(np.concatenate([[0], below, [len(side)]])).astype(float)[None])
    return parts[0], parts[1]


def test_of(reference, current) -> two_sample.ColumnTests:
    before, after = cells(reference, current)
    scores = two_sample.rank_scores(before, after)
    return two_sample.numeric_tests(before, after, scores, np.ones((1, len(two_sample.COMPONENTS))))


test_of.__test__ = False  # type: ignore[attr-defined]


@settings(max_examples=50, deadline=None)
@given(samples, samples)
def test_the_distance_agrees_with_scipy_ties_included(reference, current):
    expected = stats.ks_2samp(reference, current, method="asymp").statistic
    assert test_of(reference, current).statistics["ks"][0] == pytest.approx(expected)


def test_the_distance_over_quantile_cells_loses_a_cell_at_most():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.2, 1.0):
        reference, current = rng.normal(size=5000), rng.normal(size=3000) + shift
        expected = stats.ks_2samp(reference, current).statistic
        assert expected - 0.0126 <= test_of(reference, current).statistics["ks"][0] <= expected


@pytest.mark.parametrize("distance", [0.1, 0.15, 0.2, 0.3])
def test_the_p_value_of_the_distance_is_close_to_the_exact_one(distance):
    exact = stats.ks_2samp(np.arange(200), np.arange(60) + 0.5, method="exact")
    assert two_sample.kolmogorov_smirnov_p(exact.statistic, 200, 60) == pytest.approx(exact.pvalue, abs=0.03)
    assert two_sample.kolmogorov_smirnov_p(distance, 200, 60) == pytest.approx(
        stats.kstwo.sf(distance, round(200 * 60 / 260)), abs=0.02
    )


def test_the_location_test_agrees_with_mann_and_whitney():
    rng = np.random.default_rng(1)
    reference, current = rng.normal(size=300).round(), (rng.normal(size=300) + 0.15).round()
    found = test_of(reference, current).statistics["location_p"][0]
    expected = stats.mannwhitneyu(reference, current, use_continuity=False, method="asymptotic").pvalue
    assert found == pytest.approx(expected, rel=0.03)  # second-order terms apart


def test_the_chance_of_the_largest_deviate_agrees_with_simulation():
    rng = np.random.default_rng(2)
    root = rng.normal(size=(5, 3))
    covariance = root @ root.T + 0.1 * np.eye(5)
    scale = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(scale, scale)
    draws = np.abs(rng.multivariate_normal(np.zeros(5), correlation, size=400_000)).max(axis=1)
    for value in (1.5, 2.5, 3.5):
        found = two_sample.largest_p(np.array([value]), correlation[None])[0]
        assert found == pytest.approx((draws > value).mean(), rel=0.06)


def test_a_component_without_variance_adds_nothing_to_the_chance():
    correlation = np.zeros((1, 2, 2))
    correlation[0, 0, 0] = 1.0
    assert two_sample.largest_p(np.array([1.96]), correlation)[0] == pytest.approx(0.05, abs=0.001)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 8), st.integers(0, 8))
def test_rare_proportions_agree_with_fisher(before, after):
    p, _ = two_sample.proportion_tests(np.array([before]), 40, np.array([after]), 25)
    assert p[0] == pytest.approx(stats.fisher_exact([[before, 40 - before], [after, 25 - after]]).pvalue)


def test_frequent_proportions_agree_with_chi_square():
    p, _ = two_sample.proportion_tests(np.array([80]), 200, np.array([60]), 100)
    table = [[80, 120], [60, 40]]
    assert p[0] == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue)


def test_the_chi_square_of_categories_agrees_with_scipy():
    before, after = np.array([50.0, 30.0, 20.0]), np.array([40.0, 45.0, 35.0])
    test, _ = category_test(before, after)
    expected = stats.chi2_contingency([before, after], correction=False)
    assert test.statistics["chi_square"] == pytest.approx(expected.statistic)
    assert test.statistics["chi_square_p"] == pytest.approx(expected.pvalue)


def test_the_level_that_moved_most_is_pointed_out():
    _, level = category_test(np.array([50.0, 30.0, 20.0]), np.array([40.0, 60.0, 20.0]))
    assert level == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_only_the_order_of_the_values_matters(seed):
    rng = np.random.default_rng(seed)
    reference, current = rng.integers(-20, 20, size=100), rng.integers(-20, 20, size=50)
    plain, stretched = test_of(reference, current), test_of(np.exp(reference / 4), np.exp(current / 4))
    np.testing.assert_array_equal(plain.p, stretched.p)


@pytest.mark.parametrize(("reference", "current"), [(200, 60), (1000, 1000), (5000, 200)])
@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda rng, size: rng.normal(size=size), id="continuous"),
        pytest.param(lambda rng, size: rng.poisson(2, size=size), id="ties"),
        pytest.param(lambda rng, size: rng.standard_t(2, size=size), id="heavy tails"),
    ],
)
def test_the_p_value_of_a_column_is_below_a_twentieth_once_in_twenty(reference, current, draw):
    rng = np.random.default_rng(3)
    p = np.array([test_of(draw(rng, reference), draw(rng, current)).p[0] for _ in range(2000)])
    assert 0.035 <= (p < 0.05).mean() <= 0.065


@pytest.mark.parametrize("levels", [2, 3, 10, 100])
def test_the_p_value_of_categories_is_below_a_twentieth_once_in_twenty(levels):
    rng = np.random.default_rng(4)
    share = 1 / np.arange(1, levels + 1)
    share /= share.sum()
    p = []
    for _ in range(2000):
        sides = rng.multinomial(1000, share, size=2).astype(float)
        p.append(category_test(*sides[:, sides.sum(axis=0) > 0])[0].p)
    assert 0.035 <= (np.array(p) < 0.05).mean() <= 0.065


def test_a_contaminated_tail_is_found_where_the_distance_is_blind():
    rng = np.random.default_rng(4)
    reference, current = rng.normal(size=1000), rng.normal(size=1000)
    current[::50] = 6
    tests = test_of(reference, current)
    assert tests.statistics["ks_p"][0] > 0.05
    assert tests.p[0] < 0.001
