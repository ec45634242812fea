"""Whether the loss on matured outcomes has risen, against what, and why."""

from __future__ import annotations

import dataclasses
import json
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_pipeline.monitoring.degradation.root_cause import root_cause_of
from ml_pipeline.monitoring.performance import degradation, scored_outcomes
from ml_pipeline.specs import load_specs

SPECS = load_specs()
SPEC = SPECS["story_points"]
START = pd.Timestamp("2025-01-01", tz="UTC")


def day_number(number: int) -> date:
    return (START + pd.Timedelta(days=number)).date()


def history(
    days: int = 90,
    a_day: int = 10,
    *,
    change: int = 10_000,
    factor: float = 2.0,
    constant_factor: float | None = None,
    origin: str = "live",
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Outcomes and predictions whose errors grow by ``factor`` from day ``change`` on."""
    rng = np.random.default_rng(seed)
    n = days * a_day
    day = np.repeat(np.arange(days), a_day)
    after = day >= change
    label = rng.lognormal(1.5, 0.5, n)
    error = rng.choice([-1, 1], n) * rng.lognormal(0, 0.8, n) * np.where(after, factor, 1)
    constant = rng.lognormal(0.5, 0.5, n) * np.where(after, constant_factor or 1.0, 1)
    time = START + pd.to_timedelta(day * 24 + rng.integers(1, 23, n), unit="h")
    entity = [f"E-{number}" for number in range(n)]
    outcomes = pd.DataFrame(
        {"entity_id": entity, "event_time": time - pd.Timedelta(days=5), "label_time": time, "label": label}
    )
    predictions = pd.DataFrame(
        {
            "entity_id": entity,
            "predicted_at": time - pd.Timedelta(days=4),
            "value": label + error,
            "lower": label + error - 3,
            "upper": label + error + 3,
            "baseline": label + constant,
            "version": 1,
            "origin": origin,
        }
    )
    return outcomes.assign(label_time=time.astype("datetime64[us, UTC]")), predictions.assign(
        predicted_at=predictions["predicted_at"].astype("datetime64[us, UTC]")
    )


def scored(*arguments, **named) -> pd.DataFrame:
    return scored_outcomes("regression", *history(*arguments, **named))


def test_a_doubled_loss_is_reported_with_its_numbers():
    found = degradation(SPEC, scored(change=85), day_number(89))
    assert (found.status, found.severity) == ("degraded", "CRITICAL")
    assert found.rise == pytest.approx(found.loss / found.expected - 1)
    assert 0.6 < found.rise < 1.6
    assert abs(date.fromisoformat(found.since) - day_number(85)) <= timedelta(days=1)
    assert found.outcomes + found.baseline_outcomes == 900
    assert found.evidence["rate"] <= found.evidence["false_alarms"] == 0.0005
    assert found.rule["met"] is True
    assert found.reason.startswith(f"the mae rose to {found.loss:.3g} on the {found.outcomes} outcomes since ")


def test_a_quiet_stream_is_stable_and_compares_its_last_week():
    found = degradation(SPEC, scored(), day_number(89))
    assert (found.status, found.severity, found.since) == ("stable", None, None)
    assert (found.outcomes, found.baseline_outcomes) == (70, 830)
    assert "no significant rise" in found.reason


@pytest.mark.parametrize(("factor", "severity"), [(1.15, "HIGH"), (1.075, "MEDIUM"), (1.5, "CRITICAL")])
def test_the_severity_is_that_of_the_rise(factor, severity):
    found = degradation(SPEC, scored(160, 200, change=80, factor=factor, seed=3), day_number(159))
    assert found.status == "degraded"
    assert found.severity == severity


def test_a_significant_rise_too_small_for_a_severity_is_not_a_degradation():
    found = degradation(SPEC, scored(160, 600, change=80, factor=1.04), day_number(159))
    assert found.evidence["alarm"]
    assert (found.status, found.severity) == ("stable", None)


def test_a_loss_that_came_back_is_no_longer_degraded():
    outcomes, predictions = history(90, 10)
    error = predictions["value"] - outcomes["label"]
    bad = (outcomes["label_time"] >= START + pd.Timedelta(days=60)) & (
        outcomes["label_time"] < START + pd.Timedelta(days=75)
    )
    predictions["value"] = outcomes["label"] + error * np.where(bad, 3, 1)
    rows = scored_outcomes("regression", outcomes, predictions)
    assert degradation(SPEC, rows, day_number(74)).status == "degraded"
    assert degradation(SPEC, rows, day_number(89)).status == "stable"


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), at=st.integers(20, 89))
def test_a_backfilled_day_equals_the_report_of_that_day(seed, at):
    outcomes, predictions = history(change=70, seed=seed)
    end = START + pd.Timedelta(days=at + 1)
    then = scored_outcomes(
        "regression", outcomes[outcomes["label_time"] < end], predictions[predictions["predicted_at"] < end]
    )
    lived = degradation(SPEC, then, day_number(at))
    shuffled = scored_outcomes(
        "regression", outcomes.sample(frac=1, random_state=1), predictions.sample(frac=1, random_state=2)
    )
    assert degradation(SPEC, shuffled, day_number(at)) == lived


def test_a_day_without_outcomes_says_what_the_day_before_said():
    rows = scored(change=85)
    today = degradation(SPEC, rows, day_number(90))
    assert (today.status, today.since) == ("degraded", degradation(SPEC, rows, day_number(89)).since)


def test_without_recent_outcomes_nothing_is_said():
    found = degradation(SPEC, scored(change=85), day_number(120))
    assert found.status == "insufficient_data"
    assert found.reason == "insufficient data: no outcome with a prediction in the 28 days up to 2025-05-01"


def test_a_change_needs_enough_outcomes_on_both_sides():
    found = degradation(SPEC, scored(13, 3), day_number(12))
    assert found.status == "insufficient_data"
    assert "39 outcomes" in found.reason
    assert found.loss is not None


def test_nothing_at_all_is_insufficient_and_json_safe():
    rows = scored().iloc[:0]
    found = degradation(SPEC, rows, day_number(10))
    assert found.status == "insufficient_data"
    json.dumps(dataclasses.asdict(found), allow_nan=False)


@pytest.mark.parametrize("model", ["story_points", "lead_time"])
def test_a_report_goes_into_json_as_it_is(model):
    found = degradation(SPECS[model], scored(change=85), day_number(89))
    assert json.loads(json.dumps(dataclasses.asdict(found), allow_nan=False)) == dataclasses.asdict(found)


def test_backtested_outcomes_are_the_reference_before_there_were_live_ones():
    outcomes, predictions = history(change=60)
    predictions.loc[outcomes["label_time"] < START + pd.Timedelta(days=60), ["origin", "version"]] = ["backtest", 0]
    rows = scored_outcomes("regression", outcomes, predictions)
    found = degradation(SPEC, rows, day_number(65), serving_since=day_number(60))
    assert (found.status, found.since) == ("degraded", day_number(60).isoformat())
    assert found.baseline_outcomes == 600


def test_entities_that_took_too_long_for_a_backtest_are_not_held_against_one():
    outcomes, predictions = history(change=60)
    late = outcomes["label_time"] >= START + pd.Timedelta(days=60)
    outcomes.loc[late, "event_time"] -= pd.Timedelta(days=100)
    predictions.loc[~late, ["origin", "version"]] = ["backtest", 0]
    rows = scored_outcomes("regression", outcomes, predictions)
    assert degradation(SPEC, rows, day_number(65), serving_since=day_number(60)).status != "degraded"


def test_a_new_version_is_held_against_what_was_before_it_and_later_to_itself():
    rows = scored(120, 10, change=60)
    assert degradation(SPEC, rows, day_number(65), serving_since=day_number(60)).status == "degraded"
    assert degradation(SPEC, rows, day_number(90), serving_since=day_number(60)).status == "degraded"
    later = degradation(SPEC, rows, day_number(98), serving_since=day_number(60))
    assert later.status == "stable"
    assert later.outcomes + later.baseline_outcomes == 390


def test_a_change_is_not_looked_for_before_the_version_served():
    rows = scored(100, 10, change=80)
    found = degradation(SPEC, rows, day_number(99), serving_since=day_number(83))
    assert date.fromisoformat(found.since) >= day_number(83)


def test_from_no_loss_at_all_is_critical():
    outcomes, predictions = history(change=80)
    before = outcomes["label_time"] < START + pd.Timedelta(days=80)
    predictions["value"] = np.where(before, outcomes["label"], predictions["value"])
    found = degradation(SPEC, scored_outcomes("regression", outcomes, predictions), day_number(89))
    assert (found.severity, found.rise, found.expected) == ("CRITICAL", None, 0.0)
    assert "from 0" in found.reason


def test_targets_are_met_or_not_and_raise_nothing():
    found = degradation(SPEC, scored(), day_number(89))
    assert set(found.targets) == {"r2", "mae"}
    assert found.targets["mae"]["met"] is (found.targets["mae"]["value"] <= 2.0)
    assert found.targets["r2"]["met"] is (found.targets["r2"]["value"] >= 0.7)
    assert degradation(SPEC, scored(), day_number(300)).targets["mae"] == {"target": 2.0, "value": None, "met": None}


@pytest.mark.parametrize(("half_width", "drifted"), [(4.5, False), (0.5, True)])
def test_intervals_that_cover_too_little_have_drifted(half_width, drifted):
    outcomes, predictions = history()
    predictions = predictions.assign(lower=predictions["value"] - half_width, upper=predictions["value"] + half_width)
    found = degradation(SPEC, scored_outcomes("regression", outcomes, predictions), day_number(89)).calibration
    assert found["drifted"] is drifted
    assert (found["kind"], found["expected"], found["outcomes"]) == ("interval_coverage", 0.9, 280)


def binary_history(probability: float, actual: float) -> pd.DataFrame:
    outcomes, predictions = history()
    positive = np.random.default_rng(1).random(len(outcomes)) < actual
    return scored_outcomes(
        "binary",
        outcomes.assign(label=positive.astype(float)),
        predictions.assign(value=probability, lower=np.nan, upper=np.nan, baseline=0.3),
    )


@pytest.mark.parametrize(("actual", "drifted"), [(0.3, False), (0.33, False), (0.55, True)])
def test_probabilities_are_held_to_the_share_of_positives(actual, drifted):
    found = degradation(SPECS["rework_risk"], binary_history(0.3, actual), day_number(89)).calibration
    assert found["drifted"] is drifted
    assert found["expected"] == pytest.approx(0.3)


def test_of_an_outcome_reported_twice_the_first_counts():
    outcomes, predictions = history(20, 5)
    again = outcomes.assign(label=99.0, label_time=outcomes["label_time"] + pd.Timedelta(days=2))
    both = pd.concat([again, outcomes, outcomes], ignore_index=True)
    pd.testing.assert_frame_equal(
        scored_outcomes("regression", both, predictions), scored_outcomes("regression", outcomes, predictions)
    )


def test_an_outcome_from_before_its_prediction_has_none():
    outcomes, predictions = history(20, 5)
    late = predictions.assign(predicted_at=outcomes["label_time"] + pd.Timedelta(hours=1))
    assert scored_outcomes("regression", outcomes, late).empty


def test_outcomes_from_the_future_of_the_day_are_left_out():
    rows = scored(change=85)
    assert degradation(SPEC, rows, day_number(80)) == degradation(
        SPEC, rows[rows["label_time"] < START + pd.Timedelta(days=81)], day_number(80)
    )


def test_labels_and_predictions_without_a_value_are_left_out():
    outcomes, predictions = history(20, 5)
    outcomes.loc[0, "label"] = np.nan
    outcomes.loc[1, "label_time"] = pd.NaT
    predictions.loc[2, "value"] = np.nan
    predictions.loc[3, "baseline"] = np.nan
    rows = scored_outcomes("regression", outcomes, predictions)
    assert set(outcomes["entity_id"]) - set(rows["entity_id"]) == {"E-0", "E-1", "E-2"}
    assert rows["baseline_loss"].isna().sum() == 1
    assert rows["label_time"].is_monotonic_increasing


def test_other_inputs_are_data_drift():
    found = degradation(SPEC, scored(change=85), day_number(89))
    assert root_cause_of(found, "drift").name == "data_drift"


def test_the_same_inputs_with_other_outcomes_are_concept_drift():
    cause = root_cause_of(degradation(SPEC, scored(change=85), day_number(89)), "stable")
    assert cause.name == "concept_drift"
    assert cause.reason.startswith(
        "concept drift: the same inputs lead to other outcomes than before (loss of the model +"
    )


def test_a_loss_that_rose_for_the_constant_too_is_a_change_of_the_outcomes():
    found = degradation(SPEC, scored(change=80, constant_factor=2.0), day_number(89))
    assert abs(found.relative_rise) < 0.5
    assert root_cause_of(found, "stable").name == "outcome_change"


@pytest.mark.parametrize("drift_status", ["insufficient_data", None])
def test_without_a_drift_report_the_cause_is_unknown(drift_status):
    assert root_cause_of(degradation(SPEC, scored(change=85), day_number(89)), drift_status).name == "unknown"


def test_what_is_not_degraded_has_no_cause():
    assert root_cause_of(degradation(SPEC, scored(), day_number(89)), "drift").name == "none"
