import pickle

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.features.feedback import VERDICT
from ml_pipeline.specs.preprocessing import Preprocessing, Selection
from ml_pipeline.specs.search import Search
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.search.parameters import (
    NO_CONTEXT,
    FoldLosses,
    TrainingContext,
    fitted_with,
    selection_stability,
    tuned,
)
from ml_pipeline.training.splits import folds
from ml_pipeline.training.train import train
from ml_pipeline.training.update import ROUNDS_SHARE, update, updates_left

BAD = {"n_estimators": 40, "max_depth": 3, "learning_rate": 0.002}  # hardly leaves the median
SMALL = Search(trials=12, space={"n_estimators": [20, 60], "max_depth": [2, 4]})


@pytest.fixture
def searching(story_points):
    """A quick specification whose declared parameters are bad, by way of changing parts of it."""

    def made(params=BAD, search=SMALL, **training):
        changes = {"params": params, "search": search, **training}
        features = story_points.features.model_copy(update={"text": []})
        changed = story_points.training.model_copy(update=changes)
        return story_points.model_copy(update={"training": changed, "features": features})

    return made


def search_of(spec, frame, context=NO_CONTEXT):
    return tuned(spec, frame.iloc[:240], frame.iloc[240:], 0, context)


def test_a_search_finds_better_parameters_than_bad_ones_and_says_so(searching, make_frame, as_of):
    spec = searching(candidates={})
    frame = make_frame(spec, 400)
    found, declared = train(spec, frame, as_of), train(searching(search=None, candidates={}), frame, as_of)
    assert found.metrics["mae"] < 0.9 * declared.metrics["mae"]
    assert found.search.used
    assert found.search.gain > 0.1
    assert any("instead of the declared parameters" in note for note in found.notes)


def test_a_search_that_does_not_pay_leaves_the_declared_parameters(searching, make_frame, as_of):
    good = {"n_estimators": 60, "max_depth": 3, "learning_rate": 0.1}
    only_bad = Search(trials=6, space={"learning_rate": [0.0001, 0.001]})
    spec = searching(good, only_bad)
    frame = make_frame(spec, 300)
    found = train(spec, frame, as_of)
    assert not found.search.used
    assert found.search.gain == 0
    assert found.model.params is None
    plain = train(searching(good, None), frame, as_of)
    pd.testing.assert_frame_equal(found.model.predict(frame), plain.model.predict(frame), check_exact=True)


def test_a_search_of_noise_keeps_the_declared_parameters_within_their_error(searching, make_frame):
    noise = make_frame(searching(), 300, signal=0.0)
    report = search_of(searching(), noise)[1]
    assert not report.used
    assert "the declared parameters are kept" in report.sentence()


def test_the_version_answers_the_specification_as_it_was_written(searching, make_frame, as_of):
    spec = searching()
    model = train(spec, make_frame(spec, 300), as_of).model
    assert model.spec_hash == spec.hash
    assert model.params != BAD


def test_the_validation_and_test_parts_do_not_reach_the_search(searching, make_frame, as_of):
    spec = searching()
    frame = make_frame(spec, 400)
    spoiled = frame.copy()
    spoiled.loc[230:, "label"] = 1.0  # train is the oldest 55 %
    first, second = (train(spec, rows, as_of).search.result.trials for rows in (frame, spoiled))
    assert [trial.losses for trial in first] == [trial.losses for trial in second]


def test_the_same_seed_finds_the_same_parameters(searching, make_frame):
    spec = searching()
    frame = make_frame(spec, 300)
    first, second = (search_of(spec, frame)[1] for _ in range(2))
    assert first.params == second.params
    assert [trial.losses for trial in first.result.trials] == [trial.losses for trial in second.result.trials]


def test_fewer_processes_than_the_specification_asks_for_change_no_trial(searching, make_frame):
    frame = make_frame(searching(), 300)
    alone = search_of(searching(search=SMALL.model_copy(update={"processes": 4})), frame, TrainingContext(processes=1))
    two = search_of(searching(search=SMALL.model_copy(update={"processes": 4})), frame, TrainingContext(processes=2))
    tried = [[(trial.params, trial.losses) for trial in report.result.trials] for _, report in (alone, two)]
    assert tried[0] == tried[1]


def test_a_tenant_whose_searches_gained_nothing_gets_fewer_trials(searching, make_frame):
    spec = searching(search=SMALL.model_copy(update={"trials": 80}))
    report = search_of(spec, make_frame(spec, 300), TrainingContext(gains=(0.0, 0.001)))[1]
    assert (report.budget, len(report.result.trials)) == (20, 20)


def test_without_the_adaptive_rule_the_budget_is_what_was_declared(searching, make_frame):
    spec = searching(search=SMALL.model_copy(update={"trials": 14, "adaptive": False}))
    assert search_of(spec, make_frame(spec, 300), TrainingContext(gains=(0.0, 0.0)))[1].budget == 14


def test_open_preprocessing_is_searched_and_fixed_to_what_was_found(searching, make_frame):
    spec = searching().model_copy(update={"preprocessing": Preprocessing(outliers=["cap", "none"], missing="median")})
    chosen, report = search_of(spec, make_frame(spec, 300))
    tried = {trial.params.get("preprocessing.outliers") for trial in report.result.trials if not trial.declared}
    assert tried == {"cap", "none"}
    assert chosen.preprocessing.outliers == report.preprocessing["outliers"]
    assert "preprocessing.outliers" not in chosen.training.params


def test_rows_that_cannot_be_cut_into_folds_are_trained_on_with_the_declared_parameters(searching, make_frame, as_of):
    spec = searching(search=SMALL.model_copy(update={"gap_days": 5000}))
    trained = train(spec, make_frame(spec, 300), as_of)
    assert trained.search.result is None
    assert any(note.startswith("no search: ") and "5000 days" in note for note in trained.notes)


def test_a_search_without_one_fit_leaves_the_race_its_other_candidates(searching, make_frame, as_of):
    spec = searching({"grow_policy": "nonsense"})
    trained = train(spec, make_frame(spec, 300), as_of)
    assert "no search: 0 of 12 trials" in " ".join(trained.notes)
    assert trained.candidate != "median"


def test_rows_of_feedback_are_not_judged_by(searching, make_frame):
    spec = searching()
    frame = make_frame(spec, 300)
    verdict = np.where(np.arange(300) % 2, None, "accepted")
    taught = frame.assign(**{VERDICT: pd.Series(verdict, dtype=object)}, weight=1.0)
    absurd = taught.copy()
    absurd.loc[290:, "label"] = np.where(absurd.loc[290:, VERDICT].isna(), absurd.loc[290:, "label"], 99.0)
    first, second = (tuned(spec, rows, frame.iloc[240:], 0, NO_CONTEXT)[1] for rows in (taught, absurd))
    assert [trial.losses for trial in first.result.trials] == [trial.losses for trial in second.result.trials]


@pytest.mark.parametrize("estimator", ["xgboost", "lightgbm", "linear"])
@pytest.mark.parametrize("name", ["story_points", "rework_risk"])
def test_the_loss_of_a_fold_is_the_same_in_another_process_and_the_second_time(specs, make_frame, name, estimator):
    spec = specs[name]
    training = spec.training.model_copy(update={"estimator": estimator, "params": {}, "candidates": {}})
    spec = spec.model_copy(update={"training": training})
    frame = make_frame(spec, 300)
    objective = FoldLosses(spec, frame, folds(frame, "expanding", 3), 0)
    first = objective({}, 1)
    assert objective({}, 1) == first
    assert pickle.loads(pickle.dumps(objective))({}, 1) == first


def test_the_loss_of_a_fold_does_not_depend_on_the_rows_after_it(searching, make_frame):
    spec = searching(search=None)
    frame = make_frame(spec, 300)
    parts = folds(frame, "expanding", 3)
    spoiled = frame.copy()
    spoiled.loc[parts[1].validation[0] :, "label"] = 1.0
    first, second = (FoldLosses(spec, rows, parts, 0)({}, 0) for rows in (frame, spoiled))
    assert first == second


def test_an_update_goes_on_with_the_parameters_that_were_found(searching, make_frame, as_of, tmp_path):
    spec = searching(candidates={}, ensemble="none")
    frame = make_frame(spec, 400)
    since = frame["label_time"].iloc[299]
    trained = train(spec, frame.iloc[:300], since)
    trained.model.save(tmp_path)
    loaded = FittedModel.load(tmp_path)
    trees = trained.search.params["n_estimators"]
    assert trees != BAD["n_estimators"]
    updated = update(spec, loaded, frame, as_of, since).model
    assert updated.params == trained.search.params
    assert updated.predictor.rounds == trees + max(round(trees * ROUNDS_SHARE), 1)
    assert updates_left(spec, updated) == updates_left(spec, loaded) - 1


def test_a_point_of_the_search_is_parameters_and_ways_to_preprocess(searching):
    spec = searching().model_copy(update={"preprocessing": Preprocessing(missing=["none", "median"])})
    made = fitted_with(spec, {"max_depth": 2, "preprocessing.missing": "median"})
    assert made.training.params == {"max_depth": 2}
    assert made.preprocessing.missing == "median"


def test_a_training_with_selected_features_says_how_stable_they_are(searching, make_frame, as_of):
    spec = searching(search=None)
    selected = spec.features.model_copy(update={"selection": Selection(method="correlation", keep=1)})
    spec = spec.model_copy(update={"features": selected})
    trained = train(spec, make_frame(spec, 400), as_of)
    assert trained.stability == 1.0
    strongest = spec.feature_columns.numeric[0]
    assert f"always selected: {strongest}" in " ".join(trained.notes)


def test_selections_of_noise_are_not_stable(searching, make_frame):
    spec = searching(search=None)
    selected = spec.features.model_copy(update={"selection": Selection(method="correlation", keep=3)})
    spec = spec.model_copy(update={"features": selected})
    assert selection_stability(spec, make_frame(spec, 300, signal=0.0), 0).value < 0.6


def test_folds_without_a_positive_outcome_change_no_parameters(specs, make_frame):
    spec = specs["rework_risk"]
    timid = Search(trials=6, folds=2, space={"learning_rate": [0.0001, 0.3]})
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"search": timid})})
    frame = make_frame(spec, 300)
    frame["label"] = frame["label"].where(frame.index < 120, 0.0)
    report = search_of(spec, frame)[1]
    assert not report.used
    assert "every fold has too few labels of one class to compare" in report.sentence()
