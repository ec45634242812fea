import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.training.selection.ensembles import fit_members, stacking_weights, voting_weights
from ml_pipeline.training.selection.predictors import Member, middle, weighted_median

ROWS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8)


@given(ROWS, st.data())
def test_the_weighted_median_lies_between_the_smallest_and_the_largest_value(row, data):
    weights = np.array(data.draw(st.lists(st.floats(0.01, 1), min_size=len(row), max_size=len(row))))
    value = weighted_median(np.array([row]), weights)[0]
    assert min(row) - 1e-9 * abs(min(row)) <= value <= max(row) + 1e-9 * abs(max(row))


@given(ROWS)
def test_with_equal_weights_it_is_the_plain_median(row):
    assert weighted_median(np.array([row]), np.ones(len(row)))[0] == pytest.approx(np.median(row), abs=1e-6, rel=1e-9)


def test_between_two_values_the_weights_decide_where_the_median_lies():
    low, high, share = middle(np.array([[5.0, 1.0]]), np.array([0.75, 0.25]))
    assert (low[0], high[0], share[0]) == (1, 0, pytest.approx((0.5 - 0.125) / (0.625 - 0.125)))


def test_one_member_that_goes_astray_does_not_move_the_answer_far():
    values = np.array([[4.0, 5.0, 6.0, 1e6]])
    assert weighted_median(values, np.full(4, 0.25))[0] == pytest.approx(5.5)


def test_the_member_with_the_smaller_recent_losses_gets_more_weight():
    losses = np.column_stack([np.r_[np.ones(300), np.full(100, 3.0)], np.r_[np.full(300, 3.0), np.ones(100)]])
    before, now = voting_weights(losses)
    assert now > before > 0


def test_members_that_are_far_behind_get_no_weight_and_the_others_sum_to_one():
    weights = voting_weights(np.column_stack([np.ones(50), np.full(50, 1.1), np.full(50, 9.0)]))
    assert weights[2] == 0
    assert weights.sum() == pytest.approx(1)


def test_a_member_without_any_loss_has_all_the_weight():
    assert voting_weights(np.column_stack([np.zeros(20), np.ones(20)])).tolist() == [1.0, 0.0]


def test_stacking_finds_the_members_that_the_label_is_made_of():
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 9, (200, 3))
    weights = stacking_weights(values, values @ np.array([0.7, 0.3, 0.0]))
    assert weights == pytest.approx([0.7, 0.3, 0.0], abs=1e-6)


def test_stacking_of_members_that_say_nothing_weighs_them_alike():
    assert stacking_weights(np.zeros((20, 2)), np.ones(20)).tolist() == [0.5, 0.5]


def test_no_member_predicts_more_than_ten_times_the_largest_label(story_points, make_frame):
    frame = make_frame(story_points, 120)
    members = [Member("linear", "median", "log")]
    ensemble = fit_members(story_points, frame, seed=0, members=members).ensemble
    first = story_points.feature_columns.numeric[0]
    far = frame.head(5).assign(history_recent_median=1e300, **{first: 1e20})
    assert ensemble.member_values(far).max() <= 10 * frame["label"].max() * (1 + 1e-9)


def test_a_feedback_weight_counts_in_the_fit(story_points, make_frame):
    frame = make_frame(story_points, 200, signal=0.0)
    frame["label"] = np.where(np.arange(200) % 2, 2.0, 20.0)
    heavy = frame.assign(weight=np.where(np.arange(200) % 2, 0.01, 1.0))
    members = [Member("linear", "median", "log")]
    plain, weighted = (fit_members(story_points, rows, seed=0, members=members).ensemble for rows in (frame, heavy))
    assert weighted.predict(frame).mean() > 1.5 * plain.predict(frame).mean()
