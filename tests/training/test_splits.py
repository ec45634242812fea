import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.training.splits import time_split


def frame_of(rows: int, label_days: float | np.ndarray = 0.5) -> pd.DataFrame:
    event_time = pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(np.arange(rows), unit="D")
    return pd.DataFrame(
        {
            "entity_id": [f"E-{i:04d}" for i in range(rows)],
            "event_time": event_time,
            "label_time": event_time + pd.to_timedelta(np.broadcast_to(label_days, rows), unit="D"),
        }
    )


@given(rows=st.integers(20, 300), validation=st.floats(0.1, 0.39), test=st.floats(0.1, 0.5), seed=st.integers(0, 9))
def test_parts_cover_every_row_once_and_lie_in_order_whatever_the_order_of_the_rows(rows, validation, test, seed):
    frame = frame_of(rows).sample(frac=1, random_state=seed).reset_index(drop=True)
    split = time_split(frame, validation, test)
    parts = np.concatenate([split.train, split.validation, split.test])
    assert sorted(parts) == list(range(rows))
    assert frame["event_time"].iloc[parts].is_monotonic_increasing


def test_equal_event_times_are_ordered_by_entity():
    frame = frame_of(50)
    frame["event_time"] = frame["event_time"].iloc[0]
    shuffled = frame.iloc[::-1].reset_index(drop=True)
    split = time_split(shuffled, 0.2, 0.2)
    assert shuffled["entity_id"].iloc[split.test].tolist() == frame["entity_id"].iloc[40:].tolist()


def test_a_label_that_was_not_known_when_validation_began_is_purged_from_train():
    split = time_split(frame_of(200, label_days=10.5), 0.2, 0.2)
    assert split.train.tolist() == list(range(110))
    assert split.purged == {"train": 10, "validation": 10, "refit": 10}


def test_a_label_known_at_the_very_moment_the_next_part_begins_counts_as_unknown():
    split = time_split(frame_of(200, label_days=1.0), 0.2, 0.2)
    assert split.purged["train"] == 1


def test_rows_purged_from_train_return_for_the_refit_if_known_by_then():
    split = time_split(frame_of(200, label_days=10.5), 0.2, 0.2)
    assert set(range(110, 120)) <= set(split.refit)


def test_a_purge_that_would_leave_too_few_rows_is_not_made_and_the_split_says_so():
    split = time_split(frame_of(60, label_days=20.5), 0.2, 0.2)
    assert len(split.train) == 36
    assert split.purged["train"] == 0
    assert "train" in split.unpurged


def test_a_split_without_late_labels_has_nothing_to_purge():
    split = time_split(frame_of(200, label_days=0.0), 0.2, 0.2)
    assert (set(split.purged.values()), split.unpurged) == ({0}, ())


def test_too_few_rows_to_cut_are_refused_with_their_number():
    with pytest.raises(ValueError, match="2 matured rows cannot be cut"):
        time_split(frame_of(2), 0.2, 0.2)
