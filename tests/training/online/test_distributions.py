import numpy as np
import pytest

from ml_pipeline.training.online.distributions import MOST_VALUES, crps, grid_of, nearest, quantile, share_within

GRID = np.array([1.0, 2.0, 5.0])
SHARES = np.array([[0.2, 0.5, 1.0]])


def test_a_grid_has_the_distinct_labels_and_quantiles_if_there_are_too_many():
    assert grid_of(np.array([5.0, 1.0, 5.0])).tolist() == [1.0, 5.0]
    many = grid_of(np.arange(1000.0))
    assert len(many) == MOST_VALUES
    assert set(many) <= set(range(1000))


def test_a_label_between_two_values_takes_the_nearer_one():
    assert nearest(GRID, np.array([0.0, 1.4, 1.6, 3.5, 9.0])).tolist() == [0, 0, 1, 1, 2]
    assert nearest(np.array([3.0]), np.array([1.0, 9.0])).tolist() == [0, 0]


@pytest.mark.parametrize(("share", "value"), [(0.05, 1.0), (0.2, 1.0), (0.5, 2.0), (0.51, 5.0), (1.0, 5.0)])
def test_a_quantile_is_the_first_value_that_reaches_the_share(share, value):
    assert quantile(GRID, SHARES.copy(), share).tolist() == [value]


def test_the_share_within_an_interval_counts_its_ends():
    lower, upper = np.array([2.0]), np.array([5.0])
    assert share_within(GRID, SHARES, lower, upper) == pytest.approx([0.8])


def test_the_crps_is_the_integral_of_the_squared_distance_to_the_outcome():
    # By hand: the outcome is 2, so (0.2 - 0)^2 * 1 + (0.5 - 1)^2 * 3.
    assert crps(GRID, SHARES, np.array([2.0])) == pytest.approx([0.04 + 0.75])


def test_the_crps_of_a_certain_forecast_is_its_absolute_error():
    certain = np.array([[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    assert crps(GRID, certain, np.array([1.0, 5.0])).tolist() == [4.0, 4.0]
