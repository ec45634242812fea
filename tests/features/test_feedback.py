"""People's reactions as labels: until the outcome comes, as far as they were given, and with their weight."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from ml_pipeline.features.feedback import FEEDBACK_COLUMNS, own_outcomes, usable, with_feedback
from ml_pipeline.features.point_in_time import build
from ml_pipeline.training.splits import time_split

START = pd.Timestamp("2025-01-01", tz="UTC")


def day(number: float) -> pd.Timestamp:
    return START + pd.Timedelta(days=number)


def said(*rows: tuple) -> pd.DataFrame:
    """Feedback of (entity, day, verdict, value, weight), all by one person."""
    frame = pd.DataFrame(
        [(entity, day(at), "ann", verdict, value, weight) for entity, at, verdict, value, weight in rows],
        columns=list(FEEDBACK_COLUMNS),
    )
    given_at = pd.to_datetime(frame["given_at"], utc=True).astype("datetime64[us, UTC]")
    return frame.assign(given_at=given_at).astype({"value": "float64", "weight": "float64"})


@pytest.fixture
def history(issues) -> pd.DataFrame:
    """A-1 is estimated on day 6, A-2 is never; both came on day 0."""
    first = {"created_at": day(0), "estimated_at": day(6), "story_points": 8.0, "team": "red"}
    return issues(first, {"created_at": day(0), "team": "red"}, {"created_at": day(20), "team": "red"})


def merged(spec, rows, feedback, at) -> pd.DataFrame:
    return with_feedback(spec, build(spec, rows, at), feedback, at).set_index("entity_id")


@pytest.mark.parametrize("verdict", ["accepted", "corrected"])
def test_a_value_is_a_label_known_when_it_was_given_with_its_weight(story_points, history, verdict):
    row = merged(story_points, history, said(("A-2", 3, verdict, 5.0, 0.5)), day(4)).loc["A-2"]
    assert (row["label"], row["label_time"], row["state"]) == (5.0, day(3), "matured")
    assert (row["weight"], row["feedback"]) == (0.5, verdict)


def test_a_rejection_is_no_label_and_takes_back_what_was_accepted(story_points, history):
    feedback = said(("A-2", 3, "accepted", 5.0, 1.0), ("A-2", 4, "rejected", np.nan, 1.0))
    row = merged(story_points, history, feedback, day(5)).loc["A-2"]
    assert (row["state"], row["weight"], row["feedback"]) == ("open", 1.0, None)
    assert np.isnan(row["label"])
    assert merged(story_points, history, feedback, day(3.5)).loc["A-2", "label"] == 5.0


def test_the_newest_of_several_reactions_counts(story_points, history):
    feedback = said(("A-2", 4, "corrected", 3.0, 0.7), ("A-2", 2, "accepted", 5.0, 1.0))
    assert merged(story_points, history, feedback, day(5)).loc["A-2", ["label", "weight"]].tolist() == [3.0, 0.7]


def test_the_own_outcome_wins_as_soon_as_it_is_known(story_points, history):
    feedback = said(("A-1", 3, "corrected", 5.0, 0.5), ("A-1", 9, "corrected", 4.0, 0.5))
    before = merged(story_points, history, feedback, day(5)).loc["A-1"]
    after = merged(story_points, history, feedback, day(10)).loc["A-1"]
    assert (before["label"], before["feedback"]) == (5.0, "corrected")
    assert (after["label"], after["label_time"], after["weight"], after["feedback"]) == (8.0, day(6), 1.0, None)


def test_an_outcome_outside_the_bounds_is_not_replaced_by_what_people_say(story_points, history):
    rows = history.assign(story_points=history["story_points"].replace(8.0, 500.0))
    row = merged(story_points, rows, said(("A-1", 3, "corrected", 5.0, 1.0)), day(10)).loc["A-1"]
    assert (row["state"], row["feedback"]) == ("excluded", None)


def test_a_value_that_cannot_be_a_label_is_none(story_points, history):
    feedback = said(("A-2", 3, "corrected", 0.0, 1.0))
    assert merged(story_points, history, feedback, day(4)).loc["A-2", "state"] == "open"


def test_a_label_in_days_is_held_against_bounds_in_seconds(lead_time):
    assert usable(lead_time, pd.Series([0.0, 1.0, 365.0, 366.0, np.nan])).tolist() == [False, True, True, False, False]


def test_a_binary_label_is_0_or_1(specs):
    assert usable(specs["rework_risk"], pd.Series([0.0, 1.0, 0.5, np.nan])).tolist() == [True, True, False, False]


def test_what_is_said_of_an_entity_before_it_came_is_known_when_it_came(story_points, history):
    row = merged(story_points, history, said(("A-3", 10, "corrected", 2.0, 1.0)), day(21)).loc["A-3"]
    assert row["label_time"] == day(20)


def test_without_feedback_only_the_two_columns_are_added(story_points, history):
    frame = build(story_points, history, day(25))
    found = with_feedback(story_points, frame, said(), day(25))
    assert_frame_equal(found.drop(columns=["weight", "feedback"]), frame)
    assert (found["weight"] == 1.0).all() and found["weight"].dtype == "float64"
    assert own_outcomes(found).all() and own_outcomes(frame).all()


def test_features_do_not_depend_on_feedback(story_points, history):
    frame = build(story_points, history, day(25))
    found = with_feedback(story_points, frame, said(("A-2", 3, "corrected", 5.0, 1.0)), day(25))
    features = list(story_points.feature_columns.all)
    assert_frame_equal(found[features], frame[features])


reactions = st.lists(
    st.tuples(
        st.sampled_from(["A-1", "A-2", "A-3", "A-9"]),
        st.floats(0, 30),
        st.sampled_from(["accepted", "corrected", "rejected"]),
        st.sampled_from([-1.0, 1.0, 3.0, 500.0]),
        st.sampled_from([0.25, 1.0]),
    ),
    max_size=12,
    unique_by=lambda row: (row[0], round(row[1] * 86_400e6)),
)


@settings(max_examples=60, deadline=None)
@given(rows=reactions, at=st.floats(0, 30))
def test_what_is_given_later_changes_nothing_that_is_known_now(story_points, issues, rows, at):
    first = {"created_at": day(0), "estimated_at": day(6), "story_points": 8.0}
    frame = build(story_points, issues(first, {"created_at": day(0)}, {"created_at": day(20)}), day(at))
    everything = said(*rows)
    past = everything[everything["given_at"] <= day(at)]
    found = with_feedback(story_points, frame, everything, day(at))
    assert_frame_equal(found, with_feedback(story_points, frame, past, day(at)))
    assert (found["label_time"].dropna() <= day(at)).all()
    own = frame["label_time"].notna()
    assert_frame_equal(found.loc[own, list(frame)], frame[own])


@settings(max_examples=30, deadline=None)
@given(rows=reactions, seed=st.randoms())
def test_the_order_of_the_records_does_not_matter(story_points, issues, rows, seed):
    frame = build(story_points, issues({"created_at": day(0)}, {"created_at": day(0)}), day(30))
    shuffled = list(rows)
    seed.shuffle(shuffled)
    assert_frame_equal(
        with_feedback(story_points, frame, said(*rows), day(30)),
        with_feedback(story_points, frame, said(*shuffled), day(30)),
    )


def test_a_version_is_trained_on_feedback_and_never_judged_by_it(story_points, issues):
    rows = [{"created_at": day(number), "estimated_at": day(number + 1), "story_points": 3.0} for number in range(80)]
    rows += [{"created_at": day(number)} for number in range(40, 120)]
    spoken = said(*((f"A-{81 + number}", 41 + number, "accepted", 2.0, 1.0) for number in range(80)))
    frame = merged(story_points, issues(*rows), spoken, day(121)).reset_index()
    frame = frame[frame["state"] == "matured"].reset_index(drop=True)
    split = time_split(frame, 0.2, 0.25)
    own = own_outcomes(frame)
    assert own[split.test].all() and own[split.validation].all()
    assert (len(frame), len(split.test)) == (160, 20)
    assert (~own[split.refit]).sum() == 19  # said before day 60, when the test part begins
