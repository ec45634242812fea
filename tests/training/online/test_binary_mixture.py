import numpy as np
import pandas as pd
import pytest

from ml_pipeline.lifecycle.promotion import judge
from ml_pipeline.training.evidence import evidence_of
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.reporting.explanation import contributions, in_log_odds
from ml_pipeline.training.train import train

ROWS = 300


@pytest.fixture(scope="module")
def spec(specs):
    found = specs["rework_risk"]
    return found.model_copy(update={"training": found.training.model_copy(update={"ensemble": "mean"})})


@pytest.fixture(scope="module")
def history(spec, make_frame):
    return make_frame(spec, 400)


@pytest.fixture(scope="module")
def as_of(history):
    return history["label_time"][ROWS - 1]


@pytest.fixture(scope="module")
def trained(spec, history, as_of):
    return train(spec, history.iloc[:ROWS], as_of)


@pytest.fixture(scope="module")
def later(history):
    return history.iloc[ROWS:]


def test_the_mean_of_the_experts_ranks_and_is_better_than_the_prior(trained):
    assert trained.candidate == "mean"
    assert trained.metrics["roc_auc"] > 0.75
    assert trained.metrics["brier"] < trained.baseline_metrics["brier"]
    weights = trained.candidates[-1]["weights"]
    assert weights == dict.fromkeys(["lightgbm", "linear", "forest:90", "forest:365", "forest:3000"], 0.2)


def test_it_predicts_probabilities_and_no_interval(trained, later, history):
    found = trained.model.predict(later, history)
    assert found["value"].between(0, 1).all()
    assert found[["lower", "upper"]].isna().all(axis=None)
    np.testing.assert_allclose(found["confidence"], np.maximum(found["value"], 1 - found["value"]))


def test_outcomes_move_the_base_rate_without_training(trained, later, history):
    changed = history.copy()
    changed.loc[ROWS:, "label"] = 1.0
    followed = trained.model.predict(changed.iloc[-20:], changed)["value"].mean()
    assert followed > trained.model.predict(changed.iloc[-20:])["value"].mean() + 0.05


def test_a_label_that_is_revised_is_undone(trained, history, as_of):
    """A commit that counted as clean and was found guilty later counts as guilty only."""
    row = history.iloc[[-1]]
    clean = np.flatnonzero((history["label"] == 0) & (history.index < ROWS))[:100]
    revised = history.copy()
    revised.loc[clean, "label"] = 1.0
    revised.loc[clean, "label_time"] = as_of + pd.Timedelta(days=2)
    before, after = (trained.model.predict(row, frame)["value"].iloc[0] for frame in (history, revised))
    assert after > before + 0.05
    past = trained.model.predictor.past(row, revised)
    entities = (history["label_time"] <= row["event_time"].iloc[0].floor("D")).sum()
    assert past.known.count[: past.seen[0]].sum() == entities


def test_contributions_are_in_shares_and_sum_to_the_probability(trained, later, history):
    parts = contributions(trained.model, later, history)
    assert not in_log_odds(trained.model)
    np.testing.assert_allclose(parts.sum(axis=1), trained.model.predict(later, history)["value"], atol=1e-9)


def test_a_saved_version_predicts_the_same(trained, later, history, tmp_path):
    trained.model.save(tmp_path)
    found = FittedModel.load(tmp_path).predict(later, history)
    pd.testing.assert_frame_equal(found, trained.model.predict(later, history), check_exact=True)


@pytest.mark.parametrize(("positives", "candidate"), [(9, "prior"), (10, "mean")])
def test_below_ten_outcomes_of_a_class_the_prior_predicts(spec, history, as_of, positives, candidate):
    rows = history.iloc[:ROWS].copy()
    rows["label"] = 0.0
    rows.loc[np.linspace(0, ROWS - 1, positives).astype(int), "label"] = 1.0
    found = train(spec, rows, as_of)
    assert found.candidate == candidate
    if candidate == "prior":
        assert "one class has 9 known outcomes, a mixture needs 10 of either" in found.notes[-1]


def test_a_mixture_that_is_no_better_than_the_prior_is_promoted_all_the_same(spec, make_frame, as_of):
    noise = make_frame(spec, ROWS, signal=0.0)
    trained = train(spec, noise, noise["label_time"].max())
    decision = judge(evidence_of(spec, trained, None, noise, None))
    assert decision.verdict == "promote"
    assert decision.reason.startswith(("near_baseline", "baseline_beaten"))


def test_a_gate_on_the_skill_still_holds(spec, make_frame):
    gated = spec.model_copy(update={"gate": spec.gate.model_copy(update={"min_skill": 0.5})})
    noise = make_frame(gated, ROWS, signal=0.0)
    trained = train(gated, noise, noise["label_time"].max())
    assert judge(evidence_of(gated, trained, None, noise, None)).verdict == "reject"
