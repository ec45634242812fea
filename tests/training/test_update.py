import json
from functools import cache

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost

from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.train import train
from ml_pipeline.training.trained import TrainingError
from ml_pipeline.training.update import MAX_GROWTH, UpdateError, update, updates_left

OLD, NEW = 300, 120


def moment(frame, row):
    """The end of the row's day: later labels are new."""
    return frame["label_time"].iloc[row - 1]


def changed(spec, frame):
    """The same features with another level of the label from row ``OLD`` on."""
    later = frame.index >= OLD
    if spec.task == "binary":
        return frame.assign(label=frame["label"].where(~later, 1.0))
    return frame.assign(label=frame["label"].where(~later, np.minimum(frame["label"] * 3, 99)))


@pytest.fixture(scope="module")
def trained(specs, make_frame):
    """``trained(name)``: a model's specification, its rows, the time its version was trained at, and the version."""

    @cache
    def made(name):
        spec = specs[name]
        frame = make_frame(spec, OLD + NEW)
        since = moment(frame, OLD)
        return spec, frame, since, train(spec, frame.iloc[:OLD], since).model

    return lambda name: tuple(part.copy() if isinstance(part, pd.DataFrame) else part for part in made(name))


@pytest.fixture(params=["story_points", "lead_time", "rework_risk"])
def case(request, trained):
    return trained(request.param)


def test_an_update_moves_toward_a_changed_level(case, as_of, make_frame):
    spec, frame, since, model = case
    frame = changed(spec, frame)
    updated = update(spec, model, frame, as_of, since).model
    fresh = changed(spec, make_frame(spec, 2 * OLD, seed=7)).iloc[OLD:]
    errors = [np.abs(version.predict(fresh)["value"] - fresh["label"]).mean() for version in (model, updated)]
    assert errors[1] < 0.85 * errors[0]


def test_an_update_of_unchanged_rows_hardly_changes_the_error(case, as_of, make_frame):
    spec, frame, since, model = case
    updated = update(spec, model, frame, as_of, since).model
    fresh = make_frame(spec, 400, seed=7)
    errors = [np.abs(version.predict(fresh)["value"] - fresh["label"]).mean() for version in (model, updated)]
    assert errors[1] < 1.05 * errors[0]


def test_an_updated_version_predicts_the_same_bits_after_saving_and_loading_and_can_be_updated_again(
    case, as_of, tmp_path
):
    spec, frame, since, model = case
    middle = moment(frame, OLD + NEW // 2)
    first = update(spec, model, frame.iloc[: OLD + NEW // 2], middle, since).model
    first.save(tmp_path)
    loaded = FittedModel.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.predict(frame), first.predict(frame), check_exact=True)
    again = [update(spec, version, frame, as_of, middle).model for version in (loaded, first)]
    pd.testing.assert_frame_equal(*(version.predict(frame) for version in again), check_exact=True)


def test_the_same_seed_gives_the_same_bits_whatever_the_order_of_the_rows(case, as_of):
    spec, frame, since, model = case
    shuffled = frame.sample(frac=1, random_state=1).reset_index(drop=True)
    first, second = (update(spec, model, rows, as_of, since, seed=3) for rows in (frame, shuffled))
    pd.testing.assert_frame_equal(first.model.predict(frame), second.model.predict(frame), check_exact=True)
    assert first.metrics == second.metrics


def test_the_version_given_stays_as_it_is(case, as_of):
    spec, frame, since, model = case
    before = model.predict(frame)
    update(spec, model, frame, as_of, since)
    pd.testing.assert_frame_equal(model.predict(frame), before, check_exact=True)


def test_labels_of_the_test_part_do_not_reach_the_predictions_it_is_judged_by(case, as_of):
    spec, frame, since, model = case
    spoiled = frame.copy()
    spoiled.loc[spoiled.index[-30:], "label"] = 1.0
    values = [update(spec, model, rows, as_of, since).test_predictions["value"] for rows in (frame, spoiled)]
    assert len(values[0]) >= 30
    pd.testing.assert_series_equal(*values, check_exact=True)


def test_what_became_known_last_is_held_out_however_old_the_entity(case, as_of):
    spec, frame, since, model = case
    frame.loc[OLD - 5 : OLD + 4, "label_time"] = as_of
    updated = update(spec, model, frame, as_of, since)
    assert updated.rows["new"] == NEW + 5
    assert set(frame.loc[OLD - 5 : OLD + 4, "entity_id"]) <= set(updated.test_predictions["entity_id"])


def test_labels_known_no_earlier_than_those_of_the_test_part_do_not_reach_the_judged_fit(case, as_of):
    spec, frame, since, model = case
    frame.loc[frame.index[-50:], "label_time"] = as_of
    spoiled = frame.copy()
    spoiled.loc[spoiled.index[-50:], "label"] = 1.0
    first, second = (update(spec, model, rows, as_of, since) for rows in (frame, spoiled))
    pd.testing.assert_series_equal(first.test_predictions["value"], second.test_predictions["value"], check_exact=True)
    assert first.rows["train"] == NEW - 50
    assert any("new rows left out of the evaluated fit" in note for note in first.notes)


def test_the_report_is_that_of_a_training_and_compares_with_the_version_as_it_was(case, as_of):
    spec, frame, since, model = case
    frame = changed(spec, frame)
    updated = update(spec, model, frame, as_of, since)
    full = train(spec, frame, as_of)
    assert set(updated.metrics) == set(full.metrics)
    assert list(updated.test_predictions) == list(full.test_predictions)
    assert updated.rows["new"] == NEW
    before, after = (record[spec.headline_metric] for record in updated.candidates)
    assert after == pytest.approx(updated.metrics[spec.headline_metric], rel=0.05)
    assert before > after
    json.dumps([updated.candidates, updated.metrics, updated.rows, updated.notes])


def test_the_interval_follows_the_residuals_of_the_new_rows(trained, as_of):
    spec, frame, since, model = trained("story_points")
    rng = np.random.default_rng(0)
    noisy = frame["label"].where(frame.index < OLD, np.clip(rng.lognormal(1.5, 1.5, len(frame)), 0.1, 99))
    updated = update(spec, model, frame.assign(label=noisy), as_of, since).model
    widths = [version.interval.above - version.interval.below for version in (model, updated)]
    assert widths[1] > 1.5 * widths[0]


@pytest.mark.parametrize("name", ["story_points", "rework_risk"])
def test_a_constant_is_fitted_again(specs, make_frame, as_of, name):
    spec = specs[name]
    frame = make_frame(spec, OLD + NEW, signal=0.0)
    since = moment(frame, OLD)
    model = train(spec, frame.iloc[:OLD], since).model
    updated = update(spec, model, frame, as_of, since)
    expected = frame["label"].median() if spec.task == "regression" else frame["label"].mean()
    assert updated.candidate == model.candidate
    assert updated.model.predictor.value == pytest.approx(expected)
    assert updates_left(spec, updated.model) is None


def test_too_few_new_labels_are_refused_with_the_numbers_and_the_remedy(case, as_of):
    spec, frame, _, model = case
    since = moment(frame, len(frame) - 20)
    with pytest.raises(UpdateError, match=rf"{spec.name}: 20 labels are new .* needs 60\. Wait for more labels"):
        update(spec, model, frame, as_of, since)


def test_a_version_of_another_specification_is_refused(trained, as_of):
    spec, frame, since, model = trained("story_points")
    other = spec.model_copy(update={"max_open_days": 99})
    assert updates_left(other, model) == 0
    with pytest.raises(UpdateError, match=r"trained from another specification .* Train in full"):
        update(other, model, frame, as_of, since)


def test_a_label_that_was_not_known_is_refused(case):
    spec, frame, since, model = case
    with pytest.raises(TrainingError, match="have no label known at"):
        update(spec, model, frame, since, since)


@pytest.mark.parametrize("name", ["story_points", "rework_risk"])
def test_updates_end_when_the_trees_are_half_as_many_again(trained, as_of, name):
    spec, frame, since, model = trained(name)
    left = updates_left(spec, model)
    assert left == 5
    for done in range(1, left + 1):
        model = update(spec, model, frame, as_of, since).model
        assert updates_left(spec, model) == left - done
    assert model.predictor.rounds == 40 + left * 4 == MAX_GROWTH * 40
    with pytest.raises(UpdateError, match=r"60 trees; .* 1\.5 times the number of a full training\. Train in full"):
        update(spec, model, frame, as_of, since)


def test_an_update_fits_less_than_a_third_of_the_trees_and_rows_of_a_training(trained, as_of, monkeypatch):
    spec, frame, since, model = trained("lead_time")
    fitted = []  # rows x trees of each fit
    for library in (xgboost, lightgbm):

        def counted(settings, rows, num_boost_round, fit=library.train, **more):
            made = fit(settings, rows, num_boost_round=num_boost_round, **more)
            count = rows.num_data() if isinstance(rows, lightgbm.Dataset) else rows.num_row()
            fitted.append(count * num_boost_round)
            return made

        monkeypatch.setattr(library, "train", counted)
    update(spec, model, frame, as_of, since)
    of_update, fitted[:] = sum(fitted), []
    train(spec, frame, as_of)
    assert 0 < of_update < sum(fitted) / 3


def test_labels_that_are_feedback_wait_for_a_training_in_full(case, as_of):
    spec, frame, since, model = case
    said = np.where((frame.index >= OLD) & (frame.index % 4 == 0), "accepted", None)
    told = frame.assign(weight=1.0, feedback=pd.Series(said, dtype=object))
    updated = update(spec, model, told, as_of, since)
    assert updated.rows["new"] == NEW - NEW // 4
    assert not updated.test_predictions["entity_id"].isin(told.loc[told["feedback"].notna(), "entity_id"]).any()
