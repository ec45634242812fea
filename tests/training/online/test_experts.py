import numpy as np
import pytest
from scipy.sparse import csr_matrix

from ml_pipeline.training.online.experts import (
    ByGroup,
    Forest,
    HalfLife,
    Neighbours,
    Past,
    Probability,
    Residuals,
    Training,
    Window,
    experts_of,
)
from ml_pipeline.training.online.timeline import Encoded, Known


def past_of(positions, seen, *, nights=None, leaves=None, groups=None, terms=None, values=None, asked=None) -> Past:
    """Known outcomes at these grid positions, and one row per entry of ``seen``; ``asked`` are its encoded parts."""
    known, rows, asked = len(positions), len(seen), asked or {}

    def encoded(length, parts):
        return Encoded(
            leaves=np.array(parts.get("leaves", np.zeros((length, 1))), dtype="int32").reshape(length, -1),
            terms=None if terms is None else csr_matrix(np.array(parts["terms"], dtype=float)),
            group=np.array(parts.get("groups", np.zeros(length, dtype=int))),
            values=np.array(parts.get("values", np.zeros((length, 0)))).reshape(length, -1),
        )

    given = {"leaves": leaves, "groups": groups, "terms": terms, "values": values}
    mine = encoded(known, {name: part for name, part in given.items() if part is not None})
    positions = np.array(positions)
    nights = np.arange(known) if nights is None else np.array(nights)
    one = np.ones(known, dtype=np.int64)
    outcomes = Known(positions.astype(str), positions, positions.astype(float), nights, mine, one, nights)
    grid, training = np.array([0.0, 1.0, 2.0]), np.array([0.5, 0.25, 0.25])
    night = np.zeros(rows, dtype=np.int64)
    return Past(
        grid, grid, outcomes, encoded(rows, asked), night, np.array(seen), 0, training, np.zeros(known, dtype=bool)
    )


def test_a_window_reads_the_last_outcomes_that_the_row_saw():
    past = past_of([0, 0, 1, 2], seen=[0, 2, 3, 4])
    found = Window(2).forecast(past)
    assert np.isnan(found[0]).all()
    assert found[1:].tolist() == [[1.0, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]]


def test_an_outcome_counts_half_as_much_as_one_that_is_newer_by_the_half_life():
    found = HalfLife(10).forecast(past_of([0, 1], seen=[2], nights=[0, 10]))
    assert found.tolist() == [[pytest.approx(1 / 3), pytest.approx(2 / 3), 0]]


def test_a_half_life_of_the_distant_past_loses_no_outcome():
    found = HalfLife(1).forecast(past_of([0, 1], seen=[1], nights=[-100_000, 0]))
    assert found.tolist() == [[1.0, 0, 0]]


def test_a_group_is_shrunk_toward_the_outcomes_of_all():
    past = past_of([0, 0, 1, 1], seen=[4, 4], groups=[0, 0, 1, 1], asked={"groups": [1, 7]})
    own, unknown = ByGroup(50).forecast(past).tolist()
    assert own == pytest.approx([5 / 12, 7 / 12, 0])  # 2 outcomes of its own, 10 of all with equal shares
    assert unknown == pytest.approx([0.5, 0.5, 0])


def test_the_training_labels_never_change():
    assert Training().forecast(past_of([2], seen=[0, 1])).tolist() == [[0.5, 0.25, 0.25]] * 2


def test_a_forest_averages_the_leaves_that_hold_a_known_outcome():
    leaves = [[0, 4], [0, 5], [1, 5]]
    past = past_of([0, 1, 2], seen=[3, 3, 0], leaves=leaves, asked={"leaves": [[0, 5], [2, 6], [0, 5]]})
    found = Forest(10_000).forecast(past)
    # First tree: half 0, half 1. Second tree: half 1, half 2. A leaf without outcomes and a row without a past sleep.
    assert found[0] == pytest.approx([0.25, 0.5, 0.25], abs=1e-3)
    assert np.isnan(found[1:]).all()


def test_neighbours_are_the_most_similar_texts_that_the_row_saw():
    terms = [[1.0, 0, 0], [0.8, 0.6, 0], [1.0, 0, 0]]
    asked = {"terms": [[1.0, 0, 0], [0, 0, 1.0]]}
    found = Neighbours(1).forecast(past_of([0, 1, 2], seen=[2, 3], terms=terms, asked=asked))
    assert found[0].tolist() == [1.0, 0, 0]  # the third one is as similar, but was not known
    assert np.isnan(found[1]).all()


def test_without_text_neighbours_sleep():
    assert np.isnan(Neighbours(3).forecast(past_of([0], seen=[1]))).all()


def test_a_learner_forecasts_its_value_with_its_residuals_and_sleeps_without_them():
    past = past_of([0], seen=[1, 1], values=[[np.nan]], asked={"values": [[1.0], [np.nan]]})
    assert np.isnan(Residuals(0).forecast(past)).all()
    known = Past(**{**vars(past), "residuals": (np.array([-1.0, 0.0, 0.1, 5.0]),)})
    found = Residuals(0).forecast(known)
    assert found[0].tolist() == [0.25, 0.5, 0.25]
    assert np.isnan(found[1]).all()


def test_residuals_of_outcomes_since_the_training_replace_the_oldest_and_those_of_trained_rows_do_not():
    past = past_of([2] * 60, seen=[10, 60], values=[[1.0]] * 60, asked={"values": [[1.0], [1.0]]})
    changes = {"residuals": (np.zeros(50),), "fresh": np.arange(60) >= 5}
    found = Residuals(0).forecast(Past(**{**vars(past), **changes}))
    assert found[0].tolist() == [0, 0.9, 0.1]  # five of the ten that it saw are fresh
    assert found[1].tolist() == [0, 0, 1]


def test_a_learner_sleeps_when_the_labels_that_it_was_fitted_on_were_corrected():
    past = past_of([1], seen=[1], values=[[1.0]], asked={"values": [[1.0]]})
    changes = {"residuals": (np.zeros(5),), "fit_holds": False}
    assert np.isnan(Residuals(0).forecast(Past(**{**vars(past), **changes}))).all()


@pytest.mark.parametrize(
    "expert", [Window(2), HalfLife(5), ByGroup(2), Forest(5), Neighbours(2)], ids=lambda expert: type(expert).__name__
)
def test_an_expert_reads_nothing_that_a_row_has_not_seen(expert):
    rng = np.random.default_rng(0)
    positions = rng.integers(0, 3, 30)
    parts = {"leaves": rng.integers(0, 3, (30, 4)), "groups": rng.integers(0, 2, 30), "terms": rng.random((30, 5))}
    row = {name: part[:1] for name, part in parts.items()}
    everything = expert.forecast(past_of(positions, seen=[12], asked=row, **parts))
    before = {name: part[:12] for name, part in parts.items()}
    assert everything.tolist() == expert.forecast(past_of(positions[:12], seen=[12], asked=row, **before)).tolist()


def test_names_give_experts_and_learners_stand_for_the_candidates():
    names = ["last:50", "half_life:90", "group:50", "training", "forest:365", "neighbours:10", "learners"]
    assert experts_of(names, ["xgboost", "linear"], "regression") == [
        ("last:50", Window(50)),
        ("half_life:90", HalfLife(90)),
        ("group:50", ByGroup(50)),
        ("training", Training()),
        ("forest:365", Forest(365)),
        ("neighbours:10", Neighbours(10)),
        ("xgboost", Residuals(0)),
        ("linear", Residuals(1)),
    ]


def test_a_classifier_gives_probabilities_and_its_forest_a_prior():
    found = experts_of(["learners", "forest:90"], ["lightgbm"], "binary")
    assert found == [("lightgbm", Probability(0)), ("forest:90", Forest(90, prior=1.0))]


def test_a_prior_counts_in_each_leaf_as_one_outcome_of_the_night():
    past = past_of([1, 1, 0], seen=[3, 3], leaves=[[0], [0], [1]], nights=[0, 0, 0], asked={"leaves": [[0], [7]]})
    full, empty = Forest(10_000, prior=1.0).forecast(past)
    assert full == pytest.approx([1 / 9, 8 / 9, 0], abs=1e-3)  # (0 + 1/3) / 3 and (2 + 2/3) / 3
    assert empty == pytest.approx([1 / 3, 2 / 3, 0], abs=1e-3)


def test_an_outcome_that_is_revised_is_undone_and_counts_as_the_new_one():
    past = past_of([0, 0, 1], seen=[2, 3], nights=[0, 1, 2], leaves=[[0], [0], [0]])
    known = past.known
    newer = known.take(np.array([2]))
    newer = Known(**{**vars(newer), "entity": known.entity[:1]})
    revised = known.take(np.arange(2)).followed_by(known.take(np.arange(2)).revised_by(newer))
    assert revised.count.tolist() == [1, 1, -1, 1]
    later = Past(**{**vars(past), "known": revised, "seen": np.array([2, 4])})
    before, after = Forest(10_000).forecast(later)
    assert before == pytest.approx([1, 0, 0])
    assert after == pytest.approx([0.5, 0.5, 0], abs=1e-3)
