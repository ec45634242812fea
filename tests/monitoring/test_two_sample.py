"""The closed forms against scipy, and their calibration."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ml_pipeline.monitoring import two_sample


def independent(baseline: int, current: int) -> two_sample.Pooled:
    """Rows spread evenly over 30 and 7 days."""
    starts = [np.arange(30) * baseline // 30, baseline + np.arange(7) * current // 7]
    return two_sample.Pooled(baseline, baseline + current, np.unique(np.concatenate(starts)))


samples = st.lists(st.integers(-5, 5), min_size=20, max_size=60)


@settings(max_examples=50, deadline=None)
@given(samples, samples)
def test_the_distance_agrees_with_scipy_ties_included(baseline, current):
    values = np.array([baseline + current], dtype=float)
    tests = two_sample.numeric_tests(values, independent(len(baseline), len(current)))
    assert tests.statistics["ks"][0] == pytest.approx(stats.ks_2samp(baseline, current, method="asymp").statistic)


def test_missing_values_are_left_out_of_the_distance():
    rng = np.random.default_rng(0)
    baseline, current = rng.normal(size=100), rng.normal(size=80)
    baseline[::3], current[::4] = np.nan, np.nan
    tests = two_sample.numeric_tests(np.array([np.concatenate([baseline, current])]), independent(100, 80))
    expected = stats.ks_2samp(baseline[~np.isnan(baseline)], current[~np.isnan(current)]).statistic
    assert tests.statistics["ks"][0] == pytest.approx(expected)


@pytest.mark.parametrize("distance", [0.1, 0.15, 0.2, 0.3])
def test_the_p_value_of_the_distance_is_close_to_the_exact_one(distance):
    exact = stats.ks_2samp(np.arange(200), np.arange(60) + 0.5, method="exact")
    assert two_sample.kolmogorov_smirnov_p(exact.statistic, 200, 60) == pytest.approx(exact.pvalue, abs=0.03)
    assert two_sample.kolmogorov_smirnov_p(distance, 200, 60) == pytest.approx(
        stats.kstwo.sf(distance, round(200 * 60 / 260)), abs=0.02
    )


def test_the_location_test_agrees_with_mann_and_whitney():
    rng = np.random.default_rng(1)
    baseline, current = rng.normal(size=300).round(1), (rng.normal(size=200) + 0.15).round(1)
    tests = two_sample.numeric_tests(np.array([np.concatenate([baseline, current])]), independent(300, 200))
    expected = stats.mannwhitneyu(baseline, current, use_continuity=False, method="asymptotic").pvalue
    assert tests.statistics["location_p"][0] == pytest.approx(expected, rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 8), st.integers(0, 8))
def test_rare_proportions_agree_with_fisher(before, after):
    p, _ = two_sample.proportion_tests(np.array([before]), 40, np.array([after]), 25)
    assert p[0] == pytest.approx(stats.fisher_exact([[before, 40 - before], [after, 25 - after]]).pvalue)


def test_frequent_proportions_agree_with_chi_square():
    p, _ = two_sample.proportion_tests(np.array([80]), 200, np.array([60]), 100)
    table = [[80, 120], [60, 40]]
    assert p[0] == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue)


def test_benjamini_and_hochberg_agree_with_scipy():
    p = np.random.default_rng(2).beta(0.3, 2, size=40)
    expected = stats.false_discovery_control(p) <= 0.05
    assert two_sample.benjamini_hochberg(p, 0.05).tolist() == expected.tolist()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_only_the_order_of_the_values_matters(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, 150))
    pooled = independent(100, 50)
    plain, stretched = two_sample.numeric_tests(values, pooled), two_sample.numeric_tests(np.exp(values), pooled)
    np.testing.assert_array_equal(plain.p, stretched.p)


@pytest.mark.parametrize(("baseline", "current"), [(200, 60), (1000, 1000)])
def test_the_p_value_of_a_column_is_below_a_twentieth_once_in_twenty(baseline, current):
    values = np.random.default_rng(3).normal(size=(2000, baseline + current))
    tests = two_sample.numeric_tests(values, independent(baseline, current))
    assert 0.035 <= (tests.p < 0.05).mean() <= 0.065
    psi_share = (tests.statistics["psi"] > tests.statistics["psi_null"]).mean()
    assert 0.03 <= psi_share <= 0.065


def test_a_contaminated_tail_is_found_where_the_distance_is_blind():
    rng = np.random.default_rng(4)
    values = rng.normal(size=(1, 2000))
    values[0, 1000::50] = 6
    tests = two_sample.numeric_tests(values, independent(1000, 1000))
    assert tests.statistics["ks_p"][0] > 0.05
    assert tests.p[0] < 0.001
