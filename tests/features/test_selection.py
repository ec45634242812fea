"""Selection: planted features are found, planted noise and duplicates dropped, and agreement is measured."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.features.selection import select, stability
from ml_pipeline.specs import Selection

METHODS = ["importance", "correlation", "mutual_information", "permutation"]
LOSSES = ["absolute_error", "squared_error", "log_loss"]


def planted(loss: str, rows: int = 600, columns: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Columns a and b make the label, "copy" repeats a up to a thousandth, "flat" is constant, "empty" has no value."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, columns)).astype("float32")
    names = [f"noise_{number}" for number in range(columns)]
    names[3], names[7], names[9], names[11], names[13] = "a", "b", "copy", "flat", "empty"
    label = matrix[:, 3] + 0.8 * matrix[:, 7] + 0.3 * rng.normal(size=rows)
    matrix[:, 9] = 5 + matrix[:, 3] + rng.normal(scale=0.001, size=rows)
    matrix[:, 11], matrix[:, 13] = 1.0, np.nan
    matrix[rng.random(rows) < 0.05, 0] = np.nan
    return matrix, (label > 0).astype("float64") if loss == "log_loss" else label, names


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("method", METHODS)
def test_planted_features_come_before_noise(method, loss):
    matrix, label, names = planted(loss)
    matrix, names = np.delete(matrix, 9, axis=1), [name for name in names if name != "copy"]
    assert set(select(matrix, label, names, Selection(method=method, keep=2), loss, seed=0)) == {"a", "b"}


@pytest.mark.parametrize("method", METHODS)
def test_a_column_without_information_is_dropped_even_where_there_is_room(method):
    matrix, label, names = planted("absolute_error")
    chosen = select(matrix, label, names, Selection(method=method, keep=99), "absolute_error", seed=0)
    assert not {"flat", "empty"} & set(chosen)


def test_of_near_duplicates_the_one_closer_to_the_label_stays():
    matrix, label, names = planted("absolute_error")
    chosen = select(matrix, label, names, Selection(method="correlation"), "absolute_error", seed=0)
    assert len({"a", "copy"} & set(chosen)) == 1
    matrix[:, 3] += np.random.default_rng(1).normal(scale=0.2, size=len(matrix))
    chosen = select(matrix, label, names, Selection(method="correlation"), "absolute_error", seed=0)
    assert {"a", "copy"} & set(chosen) == {"copy"}


def test_a_feature_whose_columns_are_not_all_repeated_is_no_duplicate():
    matrix, label, names = planted("absolute_error")
    matrix[:, 9] += np.random.default_rng(1).normal(scale=0.2, size=len(matrix))
    names[9] = names[15] = "pair"  # one column repeats a, the other is its own
    chosen = select(matrix, label, names, Selection(method="correlation"), "absolute_error", seed=0)
    assert {"a", "pair"} <= set(chosen)


@pytest.mark.parametrize("method", METHODS)
def test_columns_of_one_feature_count_as_one_and_are_kept_together(method):
    matrix, label, names = planted("absolute_error")
    names = ["text" if name in ("a", "noise_0", "noise_1") else name for name in names]
    matrix, names = np.delete(matrix, 9, axis=1), [name for name in names if name != "copy"]
    chosen = select(matrix, label, names, Selection(method=method, keep=2), "absolute_error", seed=0)
    assert set(chosen) == {"text", "b"}


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_selects_the_same_features_in_the_same_order(method):
    matrix, label, names = planted("absolute_error")
    first, second = (select(matrix, label, names, Selection(method=method), "absolute_error", 3) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("method", METHODS)
def test_one_feature_is_left_where_none_is_of_use(method):
    matrix, names = np.ones((40, 3), dtype="float32"), ["x", "y", "z"]
    label = np.arange(40) % 7.0
    assert select(matrix, label, names, Selection(method=method), "absolute_error", seed=0) == ["x"]


def test_permutation_does_not_believe_what_the_trees_learnt_by_heart():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(400, 10)).astype("float32")
    matrix[:, 9] = rng.integers(0, 2, 400)  # a flag has one split, a column of noise has hundreds to learn by heart
    label = 0.6 * matrix[:, 9] + rng.normal(size=400)
    names = [*(f"noise_{number}" for number in range(9)), "flag"]
    by_gain, by_permutation = (
        select(matrix, label, names, Selection(method=method, keep=1), "squared_error", seed=0)
        for method in ("importance", "permutation")
    )
    assert by_gain != ["flag"]
    assert by_permutation == ["flag"]


@pytest.mark.parametrize("method", ["importance", "correlation"])
def test_a_thousand_rows_of_sixty_columns_are_selected_in_a_fifth_of_a_second(method):
    matrix, label, names = planted("absolute_error", rows=1000, columns=60)
    select(matrix, label, names, Selection(method=method), "absolute_error", seed=0)  # imports
    times = []
    for _ in range(3):
        started = time.process_time()
        select(matrix, label, names, Selection(method=method), "absolute_error", seed=0)
        times.append(time.process_time() - started)
    assert min(times) < 0.2


FEATURES = [f"f{number}" for number in range(30)]


def test_identical_selections_are_wholly_stable():
    assert stability([FEATURES[:7]] * 4, FEATURES).value == 1.0


@pytest.mark.parametrize("chosen", [FEATURES, []], ids=["everything", "nothing"])
def test_selections_without_a_choice_are_wholly_stable(chosen):
    assert stability([chosen] * 3, FEATURES).value == 1.0


@pytest.mark.parametrize("size", [3, 15, 27])
def test_random_selections_are_not_stable_at_all(size):
    rng = np.random.default_rng(0)
    values = [
        stability([rng.choice(FEATURES, size, replace=False) for _ in range(10)], FEATURES).value for _ in range(200)
    ]
    assert abs(np.mean(values)) < 0.01


def test_the_frequency_is_the_share_of_the_folds_most_frequent_first():
    found = stability([{"f2", "f1"}, {"f2"}, {"f2", "f3"}, {"f2", "f1"}], FEATURES[:4])
    assert list(found.frequency.items()) == [("f2", 1.0), ("f1", 0.5), ("f3", 0.25), ("f0", 0.0)]


@given(st.lists(st.sets(st.sampled_from(FEATURES)), min_size=2, max_size=8))
def test_stability_is_at_most_one_and_one_only_for_identical_selections(selections):
    value = stability(selections, FEATURES).value
    assert value <= 1
    assert (value == 1) == (len({frozenset(one) for one in selections}) == 1)


def test_one_selection_has_no_stability():
    with pytest.raises(ValueError, match="stability needs at least two selections, got 1"):
        stability([FEATURES[:3]], FEATURES)


def test_a_feature_that_was_not_to_choose_from_is_named():
    with pytest.raises(ValueError, match=r"\['zebra'\], which are not in features"):
        stability([{"zebra"}, {"f1"}], FEATURES)
