"""The training window: the declared one where it is enough, a wider one with a note where it is not."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.features.temporal.windows import training_window

AS_OF = pd.Timestamp("2024-01-01", tz="UTC")


def matured(ages: list[int]) -> pd.DataFrame:
    times = [AS_OF - pd.Timedelta(days=age) for age in sorted(ages, reverse=True)]
    return pd.DataFrame(
        {"event_time": pd.DatetimeIndex(times, tz="UTC"), "state": "matured", "label": range(len(times))}
    )


def test_the_declared_window_needs_no_note(story_points):
    window, note = training_window(story_points, matured([1] * 100 + [900]), AS_OF)
    assert (len(window), note) == (100, None)


def test_a_window_with_too_few_rows_doubles_until_it_holds_enough(story_points):
    window, note = training_window(story_points, matured([1] * 57 + [2000] * 60 + [5000]), AS_OF)
    assert len(window) == 117
    assert note == "window widened from 730 to 2920 days: the declared one has 57 of 100 matured rows"


def test_a_window_that_finds_too_few_rows_anywhere_holds_them_all(story_points):
    window, note = training_window(story_points, matured([1, 2000]), AS_OF)
    assert len(window) == 2
    assert note == "window widened from 730 to 2920 days: the declared one has 1 of 100 matured rows"


def test_a_window_that_would_hold_nothing_more_stays_as_declared(story_points):
    window, note = training_window(story_points, matured([1, 2]), AS_OF)
    assert (len(window), note) == (2, None)


@pytest.mark.parametrize("state", ["open", "excluded"])
def test_rows_without_a_usable_label_are_left_out(story_points, state):
    window, note = training_window(story_points, matured([1] * 5).assign(state=state), AS_OF)
    assert (len(window), note) == (0, None)


@given(ages=st.lists(st.integers(0, 6000), max_size=200))
def test_the_window_is_the_newest_part_of_the_matured_rows_in_their_order(story_points, ages):
    frame = matured(ages)
    window, _ = training_window(story_points, frame, AS_OF)
    pd.testing.assert_frame_equal(window, frame.tail(len(window)).reset_index(drop=True))
    assert len(window) >= min(story_points.training.min_rows, len(frame))


def test_rows_since_a_change_are_the_window_once_they_are_enough(story_points):
    changed_at = AS_OF - pd.Timedelta(days=10)
    window, note = training_window(story_points, matured([200] * 50 + [10] * 50 + [3] * 50), AS_OF, changed_at)
    assert window["label"].tolist() == list(range(50, 150))
    assert note == "trained on the 100 rows since 2023-12-22, when the outcomes changed"


def test_too_few_rows_since_a_change_leave_the_window_as_it_is(story_points):
    changed_at = AS_OF - pd.Timedelta(days=10)
    frame = matured([200] * 50 + [3] * 99)
    assert len(training_window(story_points, frame, AS_OF, changed_at)[0]) == 149
