import numpy as np
import pandas as pd
import pytest

from ml_pipeline.features.feedback import VERDICT
from ml_pipeline.training.selection.model_selection import baselines, fit_again, row_losses, select_model


def with_training(spec, **changes):
    return spec.model_copy(update={"training": spec.training.model_copy(update=changes)})


def halves(frame, at):
    return frame.iloc[:at], frame.iloc[at:].reset_index(drop=True)


def records(selection):
    return {record["name"]: record for record in selection.candidates}


@pytest.fixture
def parts(story_points, make_frame):
    return halves(make_frame(story_points, 300), 220)


def test_the_ensemble_holds_every_candidate_from_both_offsets_and_the_offsets_themselves(story_points, parts):
    selection = select_model(story_points, *parts, seed=0)
    assert selection.selected == "voting"
    assert [member.name for member in selection.predictor.members] == [
        "xgboost from median",
        "xgboost from recent",
        "linear from median",
        "linear from recent",
        "median from median",
        "recent_median from recent",
    ]
    assert selection.predictor.weights.sum() == pytest.approx(1)


def test_a_binary_race_has_each_candidate_once_and_a_calibration(rework_risk, make_frame):
    selection = select_model(rework_risk, *halves(make_frame(rework_risk, 400), 300), seed=0)
    assert [member.name for member in selection.predictor.members] == ["lightgbm", "linear"]
    assert records(selection)["voting"]["calibration"] == selection.predictor.calibration.method


def test_without_an_ensemble_the_best_single_candidate_is_selected(story_points, parts):
    selection = select_model(with_training(story_points, ensemble="none"), *parts, seed=0)
    losses = {name: record["mae"] for name, record in records(selection).items() if name in ("xgboost", "linear")}
    assert selection.selected == min(losses, key=losses.get)
    assert {member.candidate for member in selection.predictor.members} == {selection.selected}


def test_stacking_predicts_a_weighted_mean(story_points, parts):
    train_rows, validation = parts
    selection = select_model(with_training(story_points, ensemble="stacking"), train_rows, validation, seed=0)
    assert (selection.selected, selection.predictor.combine) == ("stacking", "mean")
    values = selection.predictor.member_values(validation)
    assert selection.predictor.predict(validation) == pytest.approx(values @ selection.predictor.weights)


def test_further_candidates_join_the_vote(story_points, parts):
    more = {"linear": {}, "random_forest": {"n_estimators": 20}, "hist_gradient_boosting": {"max_iter": 20}}
    selection = select_model(with_training(story_points, candidates=more), *parts, seed=0)
    assert {"xgboost", "median", "recent_median", *more} == {member.candidate for member in selection.predictor.members}
    assert all(records(selection)[name]["error"] is None for name in more)


def test_what_the_held_out_rows_hold_does_not_reach_the_fits(story_points, parts):
    train_rows, validation = parts
    spoiled = validation.assign(label=1.0)
    first, second = (select_model(story_points, train_rows, rows, seed=0).predictor for rows in (validation, spoiled))
    values = [predictor.member_values(validation) for predictor in (first, second) if predictor is not None]
    assert np.array_equal(*values)


def test_with_few_rows_the_validation_part_alone_gives_the_weights(story_points, make_frame):
    train_rows, validation = halves(make_frame(story_points, 130), 100)
    selection = select_model(story_points, train_rows, validation, seed=0)
    baseline = baselines(story_points, train_rows)["median"]
    assert records(selection)["median"]["mae"] == pytest.approx(row_losses(story_points, validation, baseline).mean())


def test_with_more_rows_the_newer_half_of_the_train_part_counts_too(story_points, parts):
    train_rows, validation = parts
    selection = select_model(story_points, train_rows, validation, seed=0)
    older, newer = train_rows.iloc[:110], train_rows.iloc[110:]
    losses = [
        row_losses(story_points, newer, baselines(story_points, older)["median"]),
        row_losses(story_points, validation, baselines(story_points, train_rows)["median"]),
    ]
    assert records(selection)["median"]["mae"] == pytest.approx(np.concatenate(losses).mean())


def test_a_refit_keeps_the_weights_and_learns_only_members_that_have_one(story_points, parts):
    train_rows, validation = parts
    chosen = select_model(story_points, train_rows, validation, seed=0).predictor
    weights = np.array([0.6, 0.0, 0.4, 0.0, 0.0, 0.0])
    again = fit_again(story_points, type(chosen)(**(vars(chosen) | {"weights": weights})), train_rows, seed=0)
    assert [member.name for member in again.members] == ["xgboost from median", "linear from median"]
    assert again.weights == pytest.approx([0.6, 0.4])


def test_a_refit_of_the_recent_median_alone_learns_nothing_but_the_median(story_points, parts):
    train_rows, validation = parts
    chosen = select_model(story_points, train_rows, validation, seed=0).predictor
    alone = type(chosen)(**(vars(chosen) | {"weights": np.array([0.0, 0, 0, 0, 0, 1])}))
    again = fit_again(story_points, alone, train_rows, seed=0)
    new = validation.assign(history_recent_median=np.where(np.arange(len(validation)) % 2, 7.0, np.nan))
    assert again.predict(new) == pytest.approx(np.where(np.arange(len(new)) % 2, 7.0, train_rows["label"].median()))


def test_a_level_that_moves_brings_the_members_that_follow_it_to_the_fore(story_points, make_frame):
    frame = make_frame(story_points, 400, signal=0.0)
    moved = frame.index >= 200
    frame["label"] = frame["label"].where(~moved, frame["label"] * 4).clip(upper=99)
    frame["history_recent_median"] = np.where(frame.index >= 220, 4.0, 1.0) * frame["label"].head(200).median()
    train_rows, validation = halves(frame, 320)
    weights = records(select_model(story_points, train_rows, validation, seed=0))["voting"]["weights"]
    steady = sum(weight for name, weight in weights.items() if name.endswith("from median"))
    assert steady < 0.5


def test_the_same_rows_in_another_order_give_the_same_selection(story_points, parts):
    train_rows, validation = parts
    shuffled = validation.sample(frac=1, random_state=0).reset_index(drop=True)
    first, second = (select_model(story_points, train_rows, rows, seed=0) for rows in (validation, shuffled))
    assert first.candidates == second.candidates
    pd.testing.assert_series_equal(
        pd.Series(first.predictor.predict(validation)), pd.Series(second.predictor.predict(validation))
    )


def test_held_out_rows_of_one_class_are_not_informative(rework_risk, make_frame):
    train_rows, validation = halves(make_frame(rework_risk, 130), 100)
    selection = select_model(rework_risk, train_rows, validation.assign(label=0.0), seed=0)
    assert selection.selected == "prior"
    assert selection.reason == (
        "no candidate beat the prior: the held-out rows have fewer than 5 labels of one class, too few to compare"
    )


def test_an_improvement_that_no_candidate_reaches_leaves_the_baseline(story_points, parts):
    selection = select_model(with_training(story_points, min_improvement_se=100.0), *parts, seed=0)
    assert selection.selected == "median"
    assert selection.reason == (
        "no candidate beat the median: it does not hold for the ensemble that its loss on held-out rows is below the "
        "baseline's by more than 100 standard errors of their difference"
    )


def test_with_a_negative_improvement_learners_are_selected_unless_they_are_clearly_worse(story_points, make_frame):
    noise = halves(make_frame(story_points, 300, signal=0.0), 220)
    assert select_model(with_training(story_points, min_improvement_se=1.0), *noise, seed=0).selected == "median"
    assert select_model(with_training(story_points, min_improvement_se=-100.0), *noise, seed=0).selected == "voting"


def test_people_s_feedback_is_trained_on_and_decides_no_race(story_points, parts):
    train_rows, validation = parts
    verdict = np.where(np.arange(len(train_rows)) % 3 == 0, "accepted", None)
    told = train_rows.assign(weight=1.0, **{VERDICT: verdict})
    spoiled = told.assign(label=told["label"].where(told[VERDICT].isna() | (told.index < 110), 99.0))
    first, second = (records(select_model(story_points, rows, validation, seed=0)) for rows in (told, spoiled))
    newer = train_rows.iloc[110:][told[VERDICT].isna().to_numpy()[110:]]
    judged = [
        row_losses(story_points, newer, baselines(story_points, told.iloc[:110])["median"]),
        row_losses(story_points, validation, baselines(story_points, told)["median"]),
    ]
    assert first["median"]["mae"] == pytest.approx(np.concatenate(judged).mean())
    assert second["median"]["mae"] < 2 * first["median"]["mae"]


def test_the_pooled_baseline_is_the_own_one_shrunk_toward_the_others(story_points, rework_risk, make_frame):
    rows = make_frame(story_points, 150)
    own, drawn = (baselines(story_points, rows, pooled=40.0)[name].value for name in ("median", "pooled"))
    assert drawn == pytest.approx((150 * own + 50 * 40) / 200)
    assert "pooled" not in baselines(rework_risk, make_frame(rework_risk, 150))


def test_the_pooled_baseline_is_selected_where_it_is_significant_and_no_learner_is(rework_risk, make_frame):
    train_rows, validation = halves(make_frame(rework_risk, 130, signal=0.0), 100)
    train_rows = train_rows.assign(label=np.arange(100) % 2.0)
    validation = validation.assign(label=(np.arange(30) % 5 == 0) * 1.0)
    spec = with_training(rework_risk, calibration="none")
    assert select_model(spec, train_rows, validation, seed=0).selected == "prior"
    selection = select_model(spec, train_rows, validation, seed=0, pooled=0.2)
    assert selection.selected == "pooled"
    assert selection.predictor.value == pytest.approx((100 * 0.5 + 50 * 0.2) / 150)
