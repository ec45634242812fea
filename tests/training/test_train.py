import numpy as np
import pandas as pd
import pytest

from ml_pipeline.lifecycle.promotion import judge
from ml_pipeline.training.evidence import evidence_of
from ml_pipeline.training.search.parameters import TrainingContext
from ml_pipeline.training.selection.ensembles import fit_members
from ml_pipeline.training.selection.model_selection import baselines, select_model
from ml_pipeline.training.train import train
from ml_pipeline.training.trained import TrainingError, baseline_instead


def with_training(spec, **changes):
    return spec.model_copy(update={"training": spec.training.model_copy(update=changes)})


def test_a_signal_is_found_and_beats_the_baseline(story_points, make_frame, as_of):
    trained = train(story_points, make_frame(story_points, 300), as_of)
    assert trained.candidate == "voting"
    assert trained.skill > 0.15


def test_noise_leaves_the_baseline_selected_and_a_note_says_so(story_points, make_frame, as_of):
    trained = train(story_points, make_frame(story_points, 300, signal=0.0), as_of)
    assert trained.candidate == "median"
    assert trained.skill == 0.0
    assert any("no candidate beat the median" in note for note in trained.notes)


def test_a_binary_model_answers_with_probabilities_and_no_interval(rework_risk, make_frame, as_of):
    trained = train(rework_risk, make_frame(rework_risk, 400), as_of)
    assert trained.candidate == "voting"
    assert trained.test_predictions["value"].between(0, 1).all()
    assert trained.test_predictions[["lower", "upper"]].isna().all(axis=None)


def test_a_binary_model_of_one_class_falls_back_to_the_prior(rework_risk, make_frame, as_of):
    trained = train(rework_risk, make_frame(rework_risk, 200).assign(label=1.0), as_of)
    assert trained.candidate == "prior"
    assert trained.skill is None


def test_the_same_seed_gives_the_same_predictions_to_the_last_bit(story_points, make_frame, as_of):
    frame = make_frame(story_points, 200)
    first, second = (train(story_points, frame, as_of, seed=3).model.predict(frame) for _ in range(2))
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_the_order_of_the_rows_does_not_change_the_evaluation(story_points, make_frame, as_of):
    frame = make_frame(story_points, 200)
    shuffled = frame.sample(frac=1, random_state=1).reset_index(drop=True)
    assert train(story_points, shuffled, as_of).metrics == train(story_points, frame, as_of).metrics


def test_labels_of_the_test_part_do_not_reach_the_predictions_it_is_judged_by(story_points, make_frame, as_of):
    frame = make_frame(story_points, 200)
    spoiled = frame.copy()
    spoiled.loc[150:, "label"] = 1.0
    values = [train(story_points, rows, as_of).test_predictions["value"] for rows in (frame, spoiled)]
    pd.testing.assert_series_equal(*values, check_exact=True)


def test_intervals_cover_about_as_often_as_declared(story_points, make_frame, as_of):
    coverage = [
        train(story_points, make_frame(story_points, 300, seed), as_of).metrics["interval_coverage"]
        for seed in range(5)
    ]
    assert 0.82 <= np.mean(coverage) <= 0.97


def test_values_and_interval_ends_stay_inside_the_range_of_the_label(story_points, make_frame, as_of):
    trained = train(story_points, make_frame(story_points, 200), as_of)
    extreme = make_frame(story_points, 50, seed=9).assign(history_recent_median=1e9)
    assert trained.model.predict(extreme)[["value", "lower", "upper"]].stack().between(0, 100).all()


@pytest.mark.parametrize("estimator", ["xgboost", "lightgbm"])
def test_an_estimator_that_fails_is_recorded_and_the_constant_wins(story_points, make_frame, as_of, estimator):
    wrong = {"max_depth": "deep", "learning_rate": "fast"}
    spec = with_training(story_points, estimator=estimator, params=wrong, candidates={})
    trained = train(spec, make_frame(spec, 150), as_of)
    assert trained.candidate == "median"
    assert "training.params" in trained.candidates[-1]["error"]


def test_where_one_candidate_fails_the_others_race_on_and_the_failure_is_reported(story_points, make_frame, as_of):
    spec = with_training(story_points, params={"max_depth": "deep"})
    trained = train(spec, make_frame(spec, 300), as_of)
    assert trained.candidate == "voting"
    assert {member.candidate for member in trained.model.predictor.members} == {"linear", "median", "recent_median"}
    assert any(note.startswith("xgboost failed") for note in trained.notes)


def test_the_race_reports_every_candidate_with_its_validation_loss(story_points, make_frame):
    frame = make_frame(story_points, 200)
    selection = select_model(story_points, frame.iloc[:150], frame.iloc[150:], seed=0)
    assert [record["name"] for record in selection.candidates] == [
        "median",
        "recent_median",
        "xgboost",
        "linear",
        "voting",
    ]
    assert all(record["mae"] > 0 for record in selection.candidates)


def test_slices_count_every_test_row_once(specs, make_frame, as_of):
    spec = specs["lead_time"]
    trained = train(spec, make_frame(spec, 200), as_of)
    assert sum(part["count"] for part in trained.slices.values()) == trained.rows["test"]


def test_too_few_rows_are_refused_with_the_numbers(story_points, make_frame, as_of):
    with pytest.raises(TrainingError, match=r"story_points: 99 matured rows, training\.min_rows is 100"):
        train(story_points, make_frame(story_points, 99), as_of)


def test_a_label_from_after_as_of_is_refused_and_its_entity_named(story_points, make_frame, as_of):
    frame = make_frame(story_points, 120)
    frame.loc[7, "label_time"] = as_of + pd.Timedelta(seconds=1)
    with pytest.raises(TrainingError, match=r"1 of 120 rows .* 'E-00007'"):
        train(story_points, frame, as_of)


def test_a_label_that_the_log_cannot_take_is_refused(specs, make_frame, as_of):
    frame = make_frame(specs["lead_time"], 120)
    frame.loc[0, "label"] = -2.0
    with pytest.raises(TrainingError, match=r"lead_time: a label is -2\.0"):
        train(specs["lead_time"], frame, as_of)


@pytest.mark.parametrize("name", ["story_points", "rework_risk"])
def test_the_learning_curve_has_the_fits_that_were_made_anyway_from_the_smallest_on(specs, make_frame, as_of, name):
    spec = specs[name]
    trained = train(spec, make_frame(spec, 400), as_of)
    older, whole, judged = trained.learning_curve
    assert older.rows == pytest.approx(trained.rows["train"] / 2, abs=1)
    assert (whole.rows, judged.rows) == (trained.rows["train"], trained.rows["all"] - trained.rows["test"])
    assert all(point.loss < point.baseline for point in trained.learning_curve)
    chosen = next(record for record in trained.candidates if record["name"] == trained.candidate)
    held_out = {older.rows: trained.rows["train"] - older.rows, whole.rows: trained.rows["validation"]}
    mean = np.average([older.loss, whole.loss], weights=list(held_out.values()))
    assert mean == pytest.approx(chosen[spec.headline_metric], rel=0.01)


def test_a_constant_has_no_learning_curve(story_points, make_frame, as_of):
    assert train(story_points, make_frame(story_points, 300, signal=0.0), as_of).learning_curve == []


def test_constants_count_a_label_by_its_weight(story_points, rework_risk, make_frame):
    regression, binary = make_frame(story_points, 4), make_frame(rework_risk, 4)
    regression = regression.assign(label=[1.0, 2.0, 3.0, 50.0], weight=[1.0, 1.0, 1.0, 0.01])
    assert baselines(story_points, regression)["median"].value == pytest.approx(2.0, abs=0.02)
    binary = binary.assign(label=[1.0, 0.0, 0.0, 0.0], weight=[1.0, 1 / 3, 1 / 3, 1 / 3])
    assert baselines(rework_risk, binary)["prior"].value == pytest.approx(0.5)


def test_equal_weights_leave_the_constants_as_they_are(story_points, make_frame):
    frame = make_frame(story_points, 101)
    weighted, plain = (baselines(story_points, rows) for rows in (frame.assign(weight=1.0), frame))
    assert [one.value for one in weighted.values()] == pytest.approx([one.value for one in plain.values()])


def test_a_row_of_hardly_any_weight_hardly_changes_a_version(story_points, make_frame):
    frame = make_frame(story_points, 200).assign(weight=1.0)
    absurd = frame.tail(40).assign(label=99.0, weight=1e-6)
    with_absurd = pd.concat([frame.iloc[:160], absurd], ignore_index=True)
    without, with_them = (fit_members(story_points, rows, 0).ensemble for rows in (frame.iloc[:160], with_absurd))
    unseen = make_frame(story_points, 100, seed=5)
    assert np.abs(with_them.predict(unseen) - without.predict(unseen)).mean() < 0.5


def test_a_pooled_baseline_is_judged_by_its_skill_and_is_not_the_tenants_own_baseline(rework_risk, make_frame, as_of):
    frame = make_frame(rework_risk, 130, signal=0.0)
    frame["label"] = np.where(frame.index < 70, frame.index % 2.0, frame.index % 7 == 0)
    spec = with_training(rework_risk, calibration="none")
    trained = train(spec, frame, as_of, context=TrainingContext(pooled=0.1))
    assert trained.candidate == "pooled"
    decision = judge(evidence_of(spec, trained, None, frame, None))
    assert decision.verdict == "promote"
    assert decision.numbers["skill"] == pytest.approx(trained.skill)
    own = baseline_instead(spec, trained)
    assert (own.candidate, own.model.predictor.value) == ("prior", trained.model.baseline)
