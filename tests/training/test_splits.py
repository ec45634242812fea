import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.training.splits import folds, time_split


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
    with pytest.raises(ValueError, match="2 matured rows cannot be split"):
        time_split(frame_of(2), 0.2, 0.2)


RANDOM_METHODS = ("kfold", "stratified", "grouped")


def labelled(rows: int, **kwargs) -> pd.DataFrame:
    frame = frame_of(rows, **kwargs)
    random = np.random.default_rng(3)
    return frame.assign(label=random.integers(0, 2, rows).astype(float), team=random.choice(list("abcdefg"), rows))


@given(
    rows=st.integers(180, 400),
    count=st.integers(2, 6),
    gap=st.integers(0, 10),
    method=st.sampled_from(["expanding", "rolling"]),
    delays=st.lists(st.floats(0, 40), min_size=400, max_size=400),
    seed=st.integers(0, 9),
)
def test_no_fold_in_time_trains_on_a_label_unknown_a_gap_before_its_start(rows, count, gap, method, delays, seed):
    frame = frame_of(rows, np.array(delays[:rows])).sample(frac=1, random_state=seed).reset_index(drop=True)
    for fold in folds(frame, method, count, gap):
        start = frame["event_time"].iloc[fold.validation].min()
        assert (frame["label_time"].iloc[fold.train] < start - pd.Timedelta(days=gap)).all()


def test_folds_in_time_validate_the_newer_half_once_oldest_first():
    validated = np.concatenate([fold.validation for fold in folds(frame_of(200), "expanding", 3)])
    assert validated.tolist() == list(range(100, 200))


def test_expanding_folds_train_on_everything_older_and_rolling_ones_on_as_many_rows_each():
    frame = frame_of(200, label_days=0.0)
    assert [len(fold.train) for fold in folds(frame, "expanding", 2)] == [100, 150]
    assert [fold.train.tolist() for fold in folds(frame, "rolling", 2)] == [list(range(100)), list(range(50, 150))]


def test_a_fold_in_time_without_enough_known_labels_is_refused_rather_than_left_unpurged():
    with pytest.raises(ValueError, match=r"only 13 of 40 labels were known 0 days before 2024-02-10"):
        folds(frame_of(80, label_days=27.5), "expanding", 2)


@given(rows=st.integers(20, 200), count=st.integers(2, 5), method=st.sampled_from(RANDOM_METHODS))
def test_random_folds_validate_every_row_once_and_train_on_all_the_others(rows, count, method):
    made = folds(labelled(rows), method, count, group="team")
    assert sorted(np.concatenate([fold.validation for fold in made])) == list(range(rows))
    assert all(sorted([*fold.train, *fold.validation]) == list(range(rows)) for fold in made)


@pytest.mark.parametrize("method", RANDOM_METHODS)
def test_random_folds_follow_from_the_seed(method):
    def validated(seed: int) -> list[list[int]]:
        return [fold.validation.tolist() for fold in folds(labelled(100), method, 3, group="team", seed=seed)]

    assert validated(1) == validated(1) != validated(2)


def test_stratified_folds_have_the_same_share_of_a_rare_class():
    frame = labelled(100).assign(label=np.arange(100) % 20 == 0)
    assert [int(frame["label"].iloc[fold.validation].sum()) for fold in folds(frame, "stratified", 5)] == [1] * 5


def test_stratified_folds_have_labels_of_the_same_mean_when_the_label_is_a_number():
    frame = labelled(200).assign(label=np.random.default_rng(0).lognormal(size=200))
    means = [frame["label"].iloc[fold.validation].mean() for fold in folds(frame, "stratified", 4)]
    assert np.ptp(means) < 0.2


def test_grouped_folds_never_train_on_the_group_they_are_judged_by():
    frame = labelled(120)
    frame.loc[::9, "team"] = None
    for fold in folds(frame, "grouped", 3, group="team"):
        assert not set(frame["team"].iloc[fold.train]) & set(frame["team"].iloc[fold.validation])


def test_fewer_groups_than_folds_are_refused_with_the_column():
    with pytest.raises(ValueError, match="column 'team' has 7 levels, too few for 8 folds"):
        folds(labelled(100), "grouped", 8, group="team")


def test_too_few_rows_for_the_folds_are_refused_with_their_number():
    with pytest.raises(ValueError, match="5 matured rows cannot be split into 3 folds"):
        folds(labelled(5), "kfold", 3)
