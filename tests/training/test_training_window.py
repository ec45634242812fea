"""After a change, the training rows are post-change data, unless the whole window predicts better."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.training.training_window import choose_training_window

START = pd.Timestamp("2026-01-01", tz="UTC")
CHANGED = (START + pd.Timedelta(days=60)).to_pydatetime()
AS_OF = (START + pd.Timedelta(days=100)).to_pydatetime()


@pytest.fixture
def frame(story_points) -> pd.DataFrame:
    """Ten issues a day over a hundred days; the type tells the points."""
    rng = np.random.default_rng(2)
    rows = 1000
    times = START + pd.to_timedelta(np.arange(rows) * 2.4, unit="h")
    columns = {name: rng.normal(size=rows) for name in story_points.feature_columns.numeric}
    columns |= {name: rng.choice(["a", "b", "c"], rows) for name in story_points.feature_columns.categorical}
    table = pd.DataFrame(columns)
    table["text"] = "an issue"
    table["event_time"], table["label_time"] = times, times + pd.Timedelta(hours=5)
    table["entity_id"], table["state"] = [f"e{number:04d}" for number in range(rows)], "matured"
    kinds = table[story_points.feature_columns.categorical[0]]
    table["label"] = kinds.map({"a": 8.0, "b": 3.0, "c": 1.0}) + rng.uniform(0, 0.5, rows)
    table["history_recent_median"] = 3.0
    return table


def test_where_the_types_were_turned_around_only_what_came_since_is_trained_on(story_points, frame):
    later = frame["event_time"] >= CHANGED
    kinds = frame[story_points.feature_columns.categorical[0]]
    frame.loc[later, "label"] = kinds[later].map({"a": 1.0, "b": 3.0, "c": 8.0})
    rows, note = choose_training_window(story_points, frame, AS_OF, CHANGED)
    assert rows["event_time"].min() >= pd.Timestamp(CHANGED)
    assert note == "trained on the 400 rows since 2026-03-02, when the outcomes changed"


def test_where_nothing_changed_after_all_the_whole_window_is(story_points, frame):
    first, second = frame[story_points.feature_columns.categorical[0]] == "a", frame["summary_chars"] > 0
    frame["label"] = np.where(first == second, 8.0, 1.0)  # more than sixty rows can teach
    supposed = (START + pd.Timedelta(days=89)).to_pydatetime()
    rows, note = choose_training_window(story_points, frame, AS_OF, supposed)
    assert len(rows) == 1000
    assert note.startswith("trained on the whole window, which predicts better (mae ")


def test_without_a_change_or_with_too_few_rows_since_it_nothing_is_compared(story_points, frame):
    assert choose_training_window(story_points, frame, AS_OF)[1] is None
    late = (START + pd.Timedelta(days=95)).to_pydatetime()
    assert choose_training_window(story_points, frame, AS_OF, late)[1] is None
