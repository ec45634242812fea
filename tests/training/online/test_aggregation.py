import numpy as np
import pytest

from ml_pipeline.training.online.aggregation import Forecasts, scales, walk
from ml_pipeline.training.online.timeline import NEVER, Asked
from ml_pipeline.training.online.weights import Weights

GRID = np.array([1.0, 2.0])


def asked(nights, outcome_nights, positions) -> Asked:
    positions = np.array(positions)
    rows = len(positions)
    return Asked(
        np.arange(rows).astype(str),
        np.array(nights),
        GRID[positions],
        positions,
        np.array(outcome_nights),
        np.ones(rows),
    )


def two_experts(rows: int) -> Forecasts:
    """The first expert is certain of 1, the second of 2."""
    return Forecasts.of([np.tile([1.0, 0.0], (rows, 1)), np.tile([0.0, 1.0], (rows, 1))])


def walked(rows: Asked, order):
    return walk(Weights.equal(2), two_experts(len(rows.night)), GRID, rows, np.array(order, dtype=int), until=100)


def test_a_row_is_predicted_before_the_outcomes_of_its_own_night_count():
    found = walked(asked([0, 1, 2], [2, NEVER, NEVER], [1, 0, 0]), [0])
    assert found.share[0].tolist() == found.share[1].tolist() == [0.5, 0.5]
    assert found.share[2][1] > 0.5


def test_outcomes_that_are_not_in_the_order_teach_nothing():
    assert walked(asked([0, 5], [1, NEVER], [1, 0]), []).share[1].tolist() == [0.5, 0.5]


def test_the_weights_afterwards_know_outcomes_after_the_last_row():
    found = walked(asked([0], [50], [1]), [0])
    assert found.weights.among(np.array([True, True]))[1] > 0.5


def test_an_outcome_that_was_known_when_its_row_arrived_teaches_nothing():
    found = walked(asked([5, 9], [3, NEVER], [1, 0]), [0])
    assert found.share[1].tolist() == [0.5, 0.5]
    assert np.isfinite(found.mixture).all()


def test_the_scale_is_the_spread_of_the_newest_labels_and_one_without_any():
    labels = np.array([1.0, 1.0, 3.0])
    assert scales(labels).tolist() == pytest.approx([1.0, 1.0, 2 / 3])
    assert scales(labels, before=2).tolist() == pytest.approx([2 / 3])
