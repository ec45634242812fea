"""What sources do to a mixture: corrections, late imports, dates without times, new values, damaged files."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.lifecycle.promotion import judge
from ml_pipeline.training.evidence import evidence_of
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.online.explanation import neighbours
from ml_pipeline.training.predictor_files import VersionError
from ml_pipeline.training.reporting.importance import importance
from ml_pipeline.training.train import train

TRAINED = 300
LEVELS = np.array([1.0, 2.0, 3.0, 5.0, 8.0, 13.0])


@pytest.fixture(scope="module")
def spec(specs):
    found = specs["story_points"]
    return found.model_copy(
        update={"training": found.training.model_copy(update={"ensemble": "online", "candidates": {}})}
    )


@pytest.fixture
def history(spec, make_frame):
    frame = make_frame(spec, 400)
    frame["label"] = LEVELS[np.abs(frame["label"].to_numpy()[:, None] - LEVELS).argmin(axis=1)]
    return frame


def trained_on(spec, rows):
    return train(spec, rows, rows["label_time"].max()).model


def as_open(rows: pd.DataFrame) -> pd.DataFrame:
    unknown = pd.Series(pd.NaT, index=rows.index, dtype=rows["label_time"].dtype)
    return rows.assign(state="open", label=np.nan, label_time=unknown)


def test_corrections_of_old_labels_do_not_displace_the_newest_ones(spec, history):
    history["issue_type"] = "a"
    history["label"] = np.where(history.index < 60, 13.0, 2.0)
    model = trained_on(spec, history[:TRAINED])
    corrected = history.copy()
    corrected.loc[:25, "label"] = 3.0
    asked = history.iloc[[TRAINED]]
    before, after = (model.predict(asked, frame) for frame in (history, corrected))
    assert after["value"].tolist() == before["value"].tolist() == [2.0]
    assert after["confidence"].iloc[0] == pytest.approx(before["confidence"].iloc[0], abs=0.05)


def test_the_order_of_the_history_does_not_matter(spec, history):
    model = trained_on(spec, history[:TRAINED])
    corrected = history.copy()
    corrected.loc[40:65, "label"] = np.random.default_rng(0).choice(LEVELS, 26)
    shuffled = corrected.sample(frac=1, random_state=1)
    expected = model.predict(corrected[TRAINED:], corrected)
    pd.testing.assert_frame_equal(model.predict(corrected[TRAINED:], shuffled), expected, check_exact=True)


def test_an_outcome_that_is_dated_with_the_day_of_its_row_is_not_known_to_the_row(spec, history):
    day = pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(np.arange(len(history)) // 2, unit="D")
    dated = history.assign(event_time=day, label_time=day, label=np.random.default_rng(0).choice(LEVELS, len(history)))
    dated["text"] = [f"word{number} other{number}" for number in range(len(dated))]
    model = trained_on(spec, dated[:TRAINED])
    row = dated.iloc[[350]]
    lived = model.predict(as_open(row), dated[dated["event_time"] < day[350]])
    pd.testing.assert_frame_equal(model.predict(row, dated), lived, check_exact=True)


def test_the_label_of_the_last_row_changes_no_earlier_test_prediction(spec, history):
    other = history.copy()
    other.loc[399, "label"] = 4.0
    first, second = (train(spec, rows, rows["label_time"].max()).test_predictions[:-1] for rows in (history, other))
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_labels_of_the_future_change_nothing_where_there_are_many_values(spec, history):
    history["label"] = 1.0 + np.arange(len(history)) % 63
    model = trained_on(spec, history[:TRAINED])
    later = history.copy()
    later.loc[TRAINED:, "label"] = 31.5
    future = later.copy()
    future.loc[390, "label"] = 40.5
    row = later.iloc[[360]]
    lived = model.predict(as_open(row), later[:360])
    pd.testing.assert_frame_equal(model.predict(future[350:], future).loc[[360]], lived, check_exact=True)
    pd.testing.assert_frame_equal(model.predict(row.assign(label=40.5), later), lived, check_exact=True)


def test_outcomes_that_are_imported_late_count_as_if_they_had_been_there(spec, history):
    model = trained_on(spec, history[:TRAINED].drop(index=range(200, 280)))
    late = history.copy()
    late.loc[200:279, "label"] = 13.0
    past = model.predictor.past(history.iloc[[310]], late)
    known = past.known.take(np.arange(past.seen[0]))
    assert (known.label == 13.0).sum() >= 80
    assert (np.diff(known.night) >= 0).all()
    assert len(known) == (history["label_time"] < history["event_time"][310].floor("D")).sum()


def test_labels_that_come_again_after_the_training_leave_probabilities(spec, history):
    """Their groups changed too, so that what is undone was not in the group that is asked."""
    history["issue_type"] = np.where(history.index.isin([*range(200, 260), 310]), "a", "b")
    model = trained_on(spec, history[:TRAINED])
    again = history.copy()
    again.loc[230:258, "issue_type"] = "b"
    again.loc[230:258, "label"] = np.where(again.loc[230:258, "label"] == 1, 2.0, 1.0)
    again.loc[230:258, "label_time"] = history["label_time"][TRAINED]
    found = model.predict(again[310:], again)
    assert found["confidence"].between(0, 1).all()
    (similar,) = neighbours(model.predictor, again.iloc[[390]], again)
    assert len({one.entity for one in similar}) == len(similar)


def test_outcomes_that_are_revised_later_leave_the_scale_of_earlier_ones(spec, history):
    """What was undone is no label of its own: a prediction made before the revision equals one made after it."""
    history["label"] = np.where(history.index < TRAINED, 1.0, history["label"])
    model = trained_on(spec, history[:TRAINED])
    revised = history.copy()
    revised.loc[250:289, "label"] = 13.0
    revised.loc[250:289, "label_time"] = history["label_time"][380]
    asked = history.iloc[[370]]
    lived = model.predict(as_open(asked), history[:370])
    later = model.predict(pd.concat([asked, revised.iloc[[395]]]), revised)
    pd.testing.assert_frame_equal(later.iloc[[0]], lived, check_exact=True)


def test_a_mixture_far_below_the_baseline_is_rejected(spec, history):
    evidence = evidence_of(spec, train(spec, history, history["label_time"].max()), None, history, None)
    verdicts = {
        factor: judge(replace(evidence, value=factor * evidence.baseline_value)).verdict for factor in (1.05, 1.2)
    }
    assert verdicts == {1.05: "promote", 1.2: "reject"}
    assert judge(replace(evidence, value=1.05 * evidence.baseline_value, min_skill=-0.02)).verdict == "reject"


@pytest.mark.parametrize("content", [b"garbage", None])
def test_damaged_outcomes_are_an_error_of_the_version(spec, history, tmp_path, content):
    trained_on(spec, history[:TRAINED]).save(tmp_path)
    path = tmp_path / "known.npz"
    path.write_bytes(path.read_bytes()[:-500] if content is None else content)
    with pytest.raises(VersionError, match="incomplete or damaged"):
        FittedModel.load(tmp_path)


def test_learners_count_in_the_importance(spec, history):
    alone = spec.model_copy(update={"training": spec.training.model_copy(update={"experts": ("training", "learners")})})
    assert sum(importance(trained_on(alone, history)).values()) == pytest.approx(1)
