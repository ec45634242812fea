from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit

from ml_pipeline.features.encoding.preprocessing import TEXT
from ml_pipeline.specs import Preprocessing
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.reporting.explanation import CALIBRATION, OFFSET, RANGE, contributions, in_log_odds, words
from ml_pipeline.training.selection.ensembles import RECENT_MEDIAN, fit_members
from ml_pipeline.training.selection.predictors import Baseline, Member
from ml_pipeline.training.selection.probability_calibration import Calibration
from ml_pipeline.training.train import train

LEARNERS = ("xgboost", "lightgbm", "hist_gradient_boosting", "random_forest", "linear")
MODELS = ("story_points", "lead_time", "rework_risk")


def only(spec, learner):
    """The specification with one candidate."""
    params = {"xgboost": {"n_estimators": 20, "max_depth": 3}, "lightgbm": {"n_estimators": 20}}.get(learner, {})
    updates = {"estimator": learner, "params": params, "candidates": {}}
    return spec.model_copy(update={"training": spec.training.model_copy(update=updates)})


def fitted(spec, rows, members=None):
    return FittedModel.of(spec, "voting", fit_members(spec, rows, 0, members).ensemble, baseline=0.5)


def explained(model, rows):
    """The contributions, and the predictions in their unit."""
    value = model.predict(rows)["value"].to_numpy()
    return contributions(model, rows), logit(value) if in_log_odds(model) else value


@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("name", MODELS)
def test_contributions_sum_to_the_prediction_for_every_learner(specs, make_frame, name, learner):
    spec, rows = only(specs[name], learner), make_frame(specs[name], 200)
    found, value = explained(fitted(spec, rows), rows)
    assert found.sum(axis=1).to_numpy() == pytest.approx(value, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_version_explains_what_it_was_not_trained_on(specs, make_frame, as_of, name):
    spec = specs[name]
    model, rows = train(spec, make_frame(spec, 300), as_of).model, make_frame(spec, 50, seed=1)
    found, value = explained(model, rows)
    assert not isinstance(model.predictor, Baseline)
    assert found.sum(axis=1).to_numpy() == pytest.approx(value, rel=1e-5, abs=1e-5)
    assert set(spec.feature_columns.all) <= set(found.columns)
    assert list(found.index) == list(rows.index)


def test_the_column_and_the_word_that_the_label_depends_on_contribute_most(story_points, make_frame, as_of):
    rows = make_frame(story_points, 400)
    size = contributions(train(story_points, rows, as_of).model, rows).drop(columns=OFFSET).abs().mean()
    assert set(size.nlargest(2).index) == {story_points.feature_columns.numeric[0], TEXT}


@pytest.fixture(scope="module")
def log_scale_model(specs, make_frame):
    return fitted(specs["lead_time"], make_frame(specs["lead_time"], 150))


@settings(max_examples=40, deadline=None)
@given(weights=st.lists(st.floats(0.01, 1.0), min_size=6, max_size=6), combine=st.sampled_from(["median", "mean"]))
def test_whatever_the_members_weigh_their_contributions_add_up_to_the_answer(
    log_scale_model, specs, make_frame, weights, combine
):
    weighted = replace(log_scale_model.predictor, weights=np.array(weights) / sum(weights), combine=combine)
    found, value = explained(replace(log_scale_model, predictor=weighted), make_frame(specs["lead_time"], 20, seed=1))
    assert found.sum(axis=1).to_numpy() == pytest.approx(value, rel=1e-5)


def test_a_median_is_explained_by_the_two_members_in_the_middle_alone(story_points, make_frame):
    rows = make_frame(story_points, 150)
    members = [Member("xgboost", "median"), Member("linear", "median"), Member("random_forest", "median")]
    spec = story_points.model_copy(
        update={
            "training": story_points.training.model_copy(update={"candidates": {"linear": {}, "random_forest": {}}})
        }
    )
    model = fitted(spec, rows, members)
    values = model.predictor.member_values(rows)
    found = contributions(model, rows)["random_forest"].to_numpy()
    is_middle = values.argsort(axis=1)[:, 1] == 2
    assert (found[~is_middle] == 0).all()
    alone = replace(model, predictor=model.predictor.only([2]))
    assert found[is_middle] == pytest.approx(contributions(alone, rows)["random_forest"].to_numpy()[is_middle])


def test_on_the_log_scale_contributions_keep_their_proportions(specs, make_frame):
    spec, rows = specs["lead_time"], make_frame(specs["lead_time"], 150)
    model = fitted(spec, rows, [Member("xgboost", "median", "log")])
    raw = model.predictor.members[0].learner.contributions(model.predictor.matrices(rows)["trees"])
    feature = spec.feature_columns.numeric[0]
    position = model.predictor.preprocessors["trees"].features.index(feature)
    found = contributions(model, rows)
    rest = found.drop(columns=OFFSET).sum(axis=1).to_numpy()
    assert found[feature].to_numpy() / rest == pytest.approx(raw[:, position] / raw[:, :-1].sum(axis=1), rel=1e-3)
    assert found[OFFSET].nunique() == 1


def test_contributions_that_cancel_out_on_the_log_scale_stay_finite(specs, make_frame):
    spec, rows = specs["lead_time"], make_frame(specs["lead_time"], 150)
    model = fitted(spec, rows, [Member("linear", "median", "log")])
    (member,) = model.predictor.members
    still = replace(member, learner=replace(member.learner, coefficients=0 * member.learner.coefficients))
    found, value = explained(replace(model, predictor=replace(model.predictor, members=(still,))), rows)
    assert (found.drop(columns=OFFSET) == 0).all(axis=None)
    assert found[OFFSET].to_numpy() == pytest.approx(value)


@pytest.mark.parametrize("ceiling", [4.0, 12.0])
@pytest.mark.parametrize("scale", ["identity", "log"])
@pytest.mark.parametrize("offset", ["median", "recent"])
def test_a_member_at_its_ceiling_is_explained_up_to_there(story_points, make_frame, offset, scale, ceiling):
    rows = make_frame(story_points, 150)
    rows["history_recent_median"] = np.linspace(1, 9, 150)
    model = fitted(story_points, rows, [Member("xgboost", offset, scale)])
    found, value = explained(replace(model, predictor=replace(model.predictor, ceiling=ceiling)), rows)
    assert value.min() < value.max() == pytest.approx(ceiling)
    assert found.sum(axis=1).to_numpy() == pytest.approx(value, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("name", "candidate"), [("story_points", "median"), ("rework_risk", "prior")])
def test_of_a_baseline_everything_is_offset(specs, make_frame, name, candidate):
    rows = make_frame(specs[name], 20)
    found, value = explained(FittedModel.of(specs[name], candidate, Baseline(0.25), baseline=0.25), rows)
    assert list(found.columns) == [OFFSET]
    assert found[OFFSET].to_numpy() == pytest.approx(value)


def test_the_recent_median_alone_is_all_offset_and_moves_with_each_row(story_points, make_frame):
    rows = make_frame(story_points, 150)
    rows["history_recent_median"] = np.linspace(1, 9, 150)
    model = fitted(story_points, rows)
    alone = replace(model, predictor=model.predictor.only([5]))
    assert model.predictor.members[5].candidate == RECENT_MEDIAN
    assert contributions(alone, rows)[OFFSET].to_numpy() == pytest.approx(np.linspace(1, 9, 150))


def test_a_forest_that_explains_nothing_adds_under_its_own_name(story_points, make_frame):
    spec, rows = only(story_points, "random_forest"), make_frame(story_points, 150)
    found = contributions(fitted(spec, rows, [Member("random_forest", "median")]), rows)
    assert (found["random_forest"] != 0).any()
    assert (found[list(spec.feature_columns.all)] == 0).all(axis=None)


@pytest.mark.parametrize(
    "calibration",
    [
        Calibration("sigmoid", intercept=-0.7, slope=0.4),
        Calibration("isotonic", knots=((-2.0, 0.1), (0.0, 0.3), (3.0, 0.95))),
    ],
    ids=lambda calibration: calibration.method,
)
def test_calibrated_contributions_sum_to_the_log_odds_of_the_probability(rework_risk, make_frame, calibration):
    rows = make_frame(rework_risk, 200)
    model = fitted(rework_risk, rows)
    plain = contributions(model, rows)
    calibrated = replace(model, predictor=replace(model.predictor, calibration=calibration))
    found, value = explained(calibrated, rows)
    assert found.sum(axis=1).to_numpy() == pytest.approx(value, abs=1e-5)
    assert (CALIBRATION in found) == (calibration.method == "isotonic")
    feature = rework_risk.feature_columns.numeric[0]
    slope = calibration.slope if calibration.method == "sigmoid" else 1.0
    assert found[feature].to_numpy() == pytest.approx(slope * plain[feature].to_numpy())


def test_a_value_outside_the_labels_range_says_how_far_it_was_moved(story_points, make_frame):
    rows = make_frame(story_points, 150)
    narrow = replace(fitted(story_points, rows), at_most=5.0)
    found, value = explained(narrow, rows)
    moved = found[RANGE] != 0
    assert found.sum(axis=1).to_numpy() == pytest.approx(value, rel=1e-5)
    assert 0 < moved.sum() < len(rows)
    assert (value[moved.to_numpy()] == 5.0).all()
    assert RANGE not in contributions(fitted(story_points, rows), rows)


def test_levels_and_flags_of_missing_values_count_for_their_column(story_points, make_frame):
    rows = make_frame(story_points, 200)
    signal = story_points.feature_columns.numeric[0]
    rows[signal] = rows[signal].where(rows[signal] > 0)
    keys = Preprocessing(missing="median", missing_indicator=True, categorical="onehot")
    found = contributions(fitted(story_points.model_copy(update={"preprocessing": keys}), rows), rows)
    assert set(found.columns) == {OFFSET, *story_points.feature_columns.all}


def test_the_words_of_a_text_add_what_the_linear_member_makes_of_them(story_points, make_frame):
    rows = make_frame(story_points, 200)
    model = fitted(story_points, rows, [Member("linear", "median", "log")])
    (found,) = words(model, rows[:1])
    assert set(found) == set(rows["text"][0].split())
    with_crash = rows[rows["text"].str.contains("crash")]
    assert all(max(line, key=line.get) == "crash" for line in words(model, with_crash))


def test_words_are_calibrated_like_everything_else(rework_risk, make_frame):
    rows = make_frame(rework_risk, 200)
    model = fitted(rework_risk, rows, [Member("linear", "none")])
    half = replace(model, predictor=replace(model.predictor, calibration=Calibration("temperature", slope=0.5)))
    (plain,), (halved,) = words(model, rows[:1]), words(half, rows[:1])
    assert halved == pytest.approx({word: amount / 2 for word, amount in plain.items()})


def test_trees_alone_name_no_words(story_points, make_frame):
    rows = make_frame(story_points, 150)
    assert words(fitted(story_points, rows, [Member("xgboost", "median")]), rows[:2]) == [{}, {}]
