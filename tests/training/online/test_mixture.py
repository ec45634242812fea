import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.specs.experts import ONLINE_EXPERTS
from ml_pipeline.training.backtest import rolling_origin
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.online.explanation import neighbours
from ml_pipeline.training.predictor_files import VersionError
from ml_pipeline.training.reporting.explanation import contributions
from ml_pipeline.training.reporting.importance import importance
from ml_pipeline.training.train import train
from ml_pipeline.training.trained import TrainingError
from ml_pipeline.training.update import UpdateError, update, updates_left

TRAINED_ROWS = 300
LEVELS = np.array([1.0, 2.0, 3.0, 5.0, 8.0, 13.0])


@pytest.fixture(scope="module")
def spec(specs):
    changes = {"ensemble": "online", "candidates": {}}
    found = specs["story_points"]
    return found.model_copy(update={"training": found.training.model_copy(update=changes)})


@pytest.fixture(scope="module")
def history(spec, make_frame):
    """A tenant with story points on few levels; two entries of the last third are still open."""
    frame = make_frame(spec, 450)
    frame["label"] = LEVELS[np.abs(frame["label"].to_numpy()[:, None] - LEVELS).argmin(axis=1)]
    frame.loc[[400, 420], "state"] = "open"
    return frame


@pytest.fixture(scope="module")
def as_of(history):
    return history["label_time"][TRAINED_ROWS - 1]


@pytest.fixture(scope="module")
def trained(spec, history, as_of):
    return train(spec, history.iloc[:TRAINED_ROWS], as_of)


@pytest.fixture(scope="module")
def later(history):
    return history.iloc[TRAINED_ROWS:]


def as_known_at(frame: pd.DataFrame, time: pd.Timestamp) -> pd.DataFrame:
    """What the tenant's frame contained at a time."""
    known = frame[frame["event_time"] <= time].copy()
    unknown = known["label_time"] > time
    known.loc[unknown, "state"] = "open"
    known.loc[unknown, "label"] = np.nan
    known.loc[unknown, "label_time"] = pd.NaT
    return known


def test_a_mixture_beats_the_baseline_and_says_which_experts_carry_it(trained):
    assert trained.candidate == "online"
    assert trained.skill > 0.1
    *experts, mixture = trained.candidates
    assert [record["name"] for record in experts] == [*ONLINE_EXPERTS[:-1], "xgboost"]
    assert sum(mixture["weights"].values()) == pytest.approx(1, abs=0.01)


def test_it_answers_with_a_value_of_the_tenant_and_an_interval_around_it(trained, later, history):
    found = trained.model.predict(later, history)
    assert set(found["value"]) <= set(LEVELS)
    assert (found["lower"] <= found["value"]).all()
    assert (found["value"] <= found["upper"]).all()
    assert found["confidence"].between(0, 1).all()
    inside = (later["label"] >= found["lower"]) & (later["label"] <= found["upper"])
    assert inside.mean() > 0.85


def test_a_past_that_is_computed_at_once_equals_one_that_was_lived_night_by_night(trained, later, history):
    at_once = trained.model.predict(later, history)
    for position in (0, 37, 99, 149):
        row = later.iloc[[position]]
        known = as_known_at(history, row["event_time"].iloc[0])
        lived = trained.model.predict(known[known["entity_id"] == row["entity_id"].iloc[0]], known)
        np.testing.assert_array_equal(lived.to_numpy(), at_once.iloc[[position]].to_numpy())


def test_nights_that_were_missed_are_caught_up(trained, later, history):
    """A version that first predicts after 60 days answers as one that predicted every day."""
    last = later.iloc[-5:]
    pd.testing.assert_frame_equal(
        trained.model.predict(last, history), trained.model.predict(later, history).iloc[-5:], check_exact=True
    )


def test_outcomes_of_the_future_change_no_answer(trained, later, history):
    spoiled = history.copy()
    spoiled.loc[380:, "label"] = 13.0
    before = history.index[TRAINED_ROWS:380]
    expected = trained.model.predict(history.loc[before], history)
    pd.testing.assert_frame_equal(trained.model.predict(spoiled.loc[before], spoiled), expected, check_exact=True)


def test_it_follows_a_change_of_level_without_training(trained, later, history):
    changed = history.copy()
    changed.loc[TRAINED_ROWS:, "label"] = 13.0
    rows = changed.iloc[-100:]
    followed = trained.model.predict(rows, changed)["value"]
    stayed = trained.model.predict(rows)["value"]
    assert (followed == 13.0).mean() > 0.9
    assert (stayed == 13.0).mean() < 0.5


def test_a_saved_version_predicts_the_same_to_the_last_bit(trained, later, history, tmp_path):
    trained.model.save(tmp_path)
    loaded = FittedModel.load(tmp_path)
    pd.testing.assert_frame_equal(
        loaded.predict(later, history), trained.model.predict(later, history), check_exact=True
    )
    assert not list(tmp_path.rglob("*.pkl"))


def test_a_damaged_file_is_an_error_that_names_the_folder(trained, tmp_path):
    trained.model.save(tmp_path)
    (tmp_path / "known.npz").unlink()
    with pytest.raises(VersionError, match="incomplete or damaged"):
        FittedModel.load(tmp_path)


def test_a_seed_gives_equal_versions(spec, history, as_of, trained, tmp_path):
    again = train(spec, history.iloc[:TRAINED_ROWS], as_of)
    for name, model in (("first", trained.model), ("second", again.model)):
        model.save(tmp_path / name)
    first, second = (json.loads((tmp_path / name / "version.json").read_text()) for name in ("first", "second"))
    assert first == second


def test_the_contributions_of_the_experts_sum_to_the_answer(trained, later, history):
    parts = contributions(trained.model, later, history)
    value = trained.model.predict(later, history)["value"]
    np.testing.assert_allclose(parts.sum(axis=1), value, atol=1e-9)
    assert "expert:forest:90" in parts


def test_the_neighbours_are_known_entities_with_similar_texts(trained, later, history):
    row = later.iloc[[50]]
    (found,) = neighbours(trained.model.predictor, row, history)
    known = as_known_at(history, row["event_time"].iloc[0].normalize())
    assert len(found) == 10
    assert {one.entity for one in found} <= set(known.loc[known["state"] == "matured", "entity_id"])
    assert [one.similarity for one in found] == sorted((one.similarity for one in found), reverse=True)


def test_importance_names_the_features_that_the_experts_read(trained):
    shares = importance(trained.model)
    assert sum(shares.values()) == pytest.approx(1)
    assert "text" in shares


def test_an_update_is_refused_because_outcomes_are_taken_up_every_night(spec, trained, history, as_of):
    assert updates_left(spec, trained.model) == 0
    rows = history[history["state"] == "matured"]
    with pytest.raises(UpdateError, match="takes up outcomes every night"):
        update(spec, trained.model, rows, rows["label_time"].max(), as_of)


def test_labels_that_are_all_equal_give_that_label(spec, history, as_of):
    rows = history.iloc[:TRAINED_ROWS].assign(label=3.0)
    found = train(spec, rows, as_of).model.predict(history.iloc[-3:])
    assert found[["value", "lower", "upper"]].to_numpy().tolist() == [[3.0] * 3] * 3


def test_too_few_rows_are_refused(spec, history, as_of):
    with pytest.raises(TrainingError, match="50 matured rows"):
        train(spec, history.iloc[:50], as_of)


def test_a_backtest_predicts_as_a_version_of_that_time_did(spec, history):
    start = history["event_time"][TRAINED_ROWS]
    found = rolling_origin(spec, history, start, start + pd.Timedelta(days=1))
    assert len(found) > 20
    assert set(found["value"]) <= set(LEVELS)


def test_rows_that_were_open_at_the_training_count_as_soon_as_they_mature(spec, history, as_of):
    """Their outcomes are new to the version, although they arrived before it."""
    late = history.copy()
    late.loc[200:299, "label_time"] = as_of + pd.Timedelta(days=1)
    rows = late[(late["label_time"] <= as_of)]
    model = train(spec, rows, as_of).model
    after = late.iloc[310:311]
    changed = late.copy()
    changed.loc[200:299, "label"] = 13.0
    assert model.predict(after, changed)["confidence"].iloc[0] != model.predict(after, late)["confidence"].iloc[0]


def test_the_plots_show_the_weights_over_time(spec, trained):
    from ml_pipeline.training.reporting.plots import picture

    assert trained.expert_weights.shape[1] == len(ONLINE_EXPERTS)
    np.testing.assert_allclose(trained.expert_weights.sum(axis=1), 1)
    assert picture(spec, trained) != picture(spec, replace(trained, expert_weights=None))


def test_labels_above_all_that_training_knew_are_predicted_as_soon_as_they_come(trained, history):
    changed = history.copy()
    changed.loc[TRAINED_ROWS:, "label"] = 40.0
    found = trained.model.predict(changed.iloc[-50:], changed)
    assert (found["value"] == 40.0).mean() > 0.9
    assert (trained.model.predict(changed.iloc[-50:])["upper"] <= 13.0).all()


def test_a_version_trained_on_a_broken_export_turns_away_from_it_when_the_source_is_corrected(spec, history, as_of):
    broken = history.iloc[:TRAINED_ROWS].assign(label=lambda rows: rows["label"] * 3)
    model = train(spec, broken, as_of).model
    rows = history.iloc[TRAINED_ROWS + 1 :]
    rows = rows[rows["state"] == "matured"]
    wrong, right = (
        (model.predict(rows, frame)["value"] - rows["label"]).abs()
        for frame in (pd.concat([broken, history.iloc[TRAINED_ROWS:]]), history)
    )
    two_nights = slice(0, 4)
    assert right.iloc[two_nights].mean() < 0.7 * wrong.iloc[two_nights].mean()
    assert (
        right.mean()
        < 1.1
        * (train(spec, history.iloc[:TRAINED_ROWS], as_of).model.predict(rows, history)["value"] - rows["label"])
        .abs()
        .mean()
    )


def test_a_candidate_that_fails_is_named_and_the_others_predict(spec, history, as_of):
    failing = spec.model_copy(
        update={"training": spec.training.model_copy(update={"candidates": {"linear": {"alpha": -1}}})}
    )
    found = train(failing, history.iloc[:TRAINED_ROWS], as_of)
    assert found.skill > 0.1
    assert any(note.startswith("linear failed: ") for note in found.notes)
