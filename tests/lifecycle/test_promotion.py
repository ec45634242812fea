"""The verdict on a challenger."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from ml_pipeline.lifecycle.promotion import (
    FALL_BACK,
    BusinessValue,
    Evidence,
    judge,
    mean_interval,
    relative_gain,
)

FIRST = Evidence("mae", 1.5, 2.0, 0.0, False, np.array([]), np.array([]))


def against(champion_minus_ours: float, pairs: int = 40) -> Evidence:
    ours = np.linspace(1, 2, pairs)
    return dataclasses.replace(FIRST, losses=ours, champion_losses=ours + champion_minus_ours, champion=3)


def test_a_first_version_that_beats_the_constant_is_promoted_with_its_numbers():
    decision = judge(FIRST)
    assert decision.verdict == "promote"
    numbers = "mae 1.5 against 2 of the baseline (skill 25.0%, needed more than 0.0%)"
    assert decision.reason == f"baseline_beaten: {numbers}"
    assert decision.numbers["skill"] == pytest.approx(0.25)


@pytest.mark.parametrize("value", [2.0, 2.5])
def test_a_version_no_better_than_the_constant_is_rejected(value: float):
    decision = judge(dataclasses.replace(FIRST, value=value))
    assert decision.verdict == "reject"
    assert decision.reason.startswith("baseline_not_beaten")


def test_a_constant_that_won_the_race_is_rejected_whatever_its_value():
    decision = judge(dataclasses.replace(FIRST, candidate_is_baseline=True))
    assert (decision.verdict, decision.reason.split(":")[0]) == ("reject", "baseline_not_beaten")


def test_the_declared_skill_must_be_exceeded():
    assert judge(dataclasses.replace(FIRST, min_skill=0.25)).verdict == "reject"
    assert judge(dataclasses.replace(FIRST, min_skill=0.2499)).verdict == "promote"


def test_a_challenger_better_on_the_same_entities_replaces_the_champion():
    decision = judge(against(0.2))
    assert decision.verdict == "promote"
    assert "champion version 3 on 40 entities (gain 0.2" in decision.reason


def test_a_challenger_worse_on_the_same_entities_is_rejected():
    decision = judge(against(-0.2))
    assert (decision.verdict, decision.reason.split(":")[0]) == ("reject", "champion_not_beaten")


def noisy(gain: float, pairs: int, seed: int = 0, *, days: int = 0) -> Evidence:
    """Paired losses that differ by ``gain`` on average, standard deviation 1; over so many days."""
    rng = np.random.default_rng(seed)
    ours = 5 + rng.normal(0, 1, pairs)
    difference = rng.normal(0, 1, pairs)
    evidence = dataclasses.replace(
        FIRST, losses=ours, champion_losses=ours + difference - difference.mean() + gain, champion=3
    )
    if not days:
        return evidence
    times = np.datetime64("2025-03-01T12:00", "us") + np.arange(pairs) * days // pairs * np.timedelta64(1, "D")
    return dataclasses.replace(evidence, label_times=times)


def test_fewer_than_ten_common_entities_leave_the_champion_whatever_they_say():
    decision = judge(against(0.2, pairs=9))
    assert decision.reason == "too_few_pairs: 9 of 30 entities that neither it nor champion version 3 was fitted on"


def test_few_common_entities_need_a_significant_gain():
    unclear, significant = judge(noisy(0.1, 20)), judge(noisy(1.5, 20))
    assert (unclear.verdict, unclear.reason.split(":")[0]) == ("reject", "too_few_pairs")
    assert "where 30 or a significant gain is needed" in unclear.reason
    assert (significant.verdict, significant.reason.split(":")[0]) == ("promote", "better")


def test_enough_common_entities_need_no_proof():
    decision = judge(noisy(0.01, 30))
    assert decision.verdict == "promote"
    assert decision.numbers["gain_lower"] < 0 < decision.numbers["gain"] < decision.numbers["gain_upper"]


def changed(older_gain: float, recent_gain: float, recent: int = 15) -> Evidence:
    older, newer = noisy(older_gain, 60, days=20), noisy(recent_gain, recent, 1, days=5)
    times = [older.label_times, newer.label_times + np.timedelta64(30, "D")]
    return dataclasses.replace(
        older,
        losses=np.concatenate([older.losses, newer.losses]),
        champion_losses=np.concatenate([older.champion_losses, newer.champion_losses]),
        label_times=np.concatenate(times),
        changed_at=np.datetime64("2025-03-31"),
    )


def test_outcomes_since_a_change_overrule_the_older_ones_where_they_prove_a_gain():
    decision = judge(changed(-1.0, 1.5))
    assert decision.verdict == "promote"
    assert decision.reason.startswith("better_since_change: mean loss ")
    assert "on 15 entities (gain 1.5, " in decision.reason
    assert (decision.numbers["recent_pairs"], decision.numbers["pairs"]) == (15, 75)
    assert decision.numbers["gain"] < 0 < decision.numbers["recent_gain_lower"]


def test_outcomes_since_a_change_overrule_the_older_ones_where_they_prove_a_loss():
    decision = judge(changed(1.0, -1.5))
    assert (decision.verdict, decision.reason.split(":")[0]) == ("reject", "worse_since_change")


@pytest.mark.parametrize(("older", "recent", "pairs"), [(-1.0, 0.2, 15), (-1.0, 9.0, 9)])
def test_outcomes_since_a_change_that_prove_nothing_leave_it_to_all(older, recent, pairs):
    evidence = changed(older, recent, pairs)
    decision = judge(evidence)
    assert decision.verdict == ("reject" if decision.numbers["gain"] < 0 else "promote")
    assert decision.reason.split(":")[0] in ("champion_not_beaten", "better")


def test_a_change_without_label_times_leaves_it_to_all():
    evidence = dataclasses.replace(against(0.2), changed_at=np.datetime64("2025-03-31"))
    assert judge(evidence).numbers["recent_pairs"] == 0


def test_every_number_of_a_decision_goes_into_json():
    for evidence in (changed(-1.0, 1.5), changed(-1.0, 1.0, 1), against(0.2, pairs=1)):
        json.dumps(judge(evidence).numbers, allow_nan=False)


def test_the_interval_does_not_depend_on_the_order():
    rng = np.random.default_rng(0)
    values, days = rng.lognormal(0, 1, 50), rng.integers(0, 12, 50)
    order = rng.permutation(50)
    assert mean_interval(values[order], days[order]) == pytest.approx(mean_interval(values, days))
    assert mean_interval(values[order]) == pytest.approx(mean_interval(values))


def test_the_interval_covers_the_mean_also_where_days_move_together():
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(200):
        days = np.repeat(np.arange(25), 4)
        lower, upper = mean_interval(rng.normal(0, 1, 100) + rng.normal(0, 0.7, 25)[days], days)
        missed += not lower <= 0 <= upper
    assert missed <= 22  # 10 expected


def test_of_one_value_the_mean_is_anywhere():
    assert mean_interval(np.array([1.0])) == (-np.inf, np.inf)


def test_a_champion_does_not_excuse_a_challenger_below_the_baseline():
    decision = judge(dataclasses.replace(against(0.2), value=2.5))
    assert decision.reason.startswith("baseline_not_beaten")


def test_a_baseline_without_error_can_only_be_matched():
    assert relative_gain(0.0, 0.0) == 0.0
    assert relative_gain(0.1, 0.0) == float("-inf")


def against_a_constant(champion_error: float, constant_error: float, pairs: int = 60, **changes) -> Evidence:
    """A challenger that does not beat the constant, and a champion with an error of its own."""
    rng = np.random.default_rng(4)
    hard = rng.exponential(size=pairs)
    times = np.datetime64("2026-01-01T00", "us") + np.arange(pairs) * np.timedelta64(12, "h")
    values = {"losses": constant_error * hard * 1.1, "champion_losses": champion_error * hard, "label_times": times}
    evidence = Evidence("mae", 1.1 * constant_error, constant_error, 0.0, False, champion=3, **values)
    return dataclasses.replace(evidence, baseline_losses=constant_error * hard, **changes)


def test_a_champion_that_is_significantly_worse_than_the_baseline_gives_way_to_it():
    decision = judge(against_a_constant(champion_error=2.0, constant_error=1.0))
    assert decision.verdict == FALL_BACK
    assert decision.reason.startswith("champion_worse_than_baseline: the baseline has mean loss ")
    assert "the challenger is no better: baseline_not_beaten: mae 1.1 against 1 of the baseline" in decision.reason
    assert decision.numbers["baseline_gain_lower"] > 0


@pytest.mark.parametrize(
    ("champion_error", "pairs"), [(1.0, 60), (0.8, 60), (2.0, 9)], ids=["as good", "better", "too few entities"]
)
def test_a_champion_that_is_not_significantly_worse_than_the_baseline_stays(champion_error, pairs):
    assert judge(against_a_constant(champion_error, 1.0, pairs)).verdict == "reject"


def test_only_the_outcomes_since_a_change_tell_the_champion_from_the_constant():
    evidence = against_a_constant(champion_error=2.0, constant_error=1.0)
    assert judge(dataclasses.replace(evidence, changed_at=np.datetime64("2026-01-20"))).verdict == FALL_BACK
    assert judge(dataclasses.replace(evidence, changed_at=np.datetime64("2026-01-29"))).verdict == "reject"


CLOSE = BusinessValue("close", "Share within one point", 0.4, 0.3)


def test_a_business_metric_without_a_gate_is_a_number_of_the_decision_and_no_obstacle():
    decision = judge(dataclasses.replace(FIRST, business=(CLOSE,)))
    assert decision.verdict == "promote"
    assert (decision.numbers["business_close"], decision.numbers["business_close_baseline"]) == (0.4, 0.3)


@pytest.mark.parametrize(
    ("better", "gate", "verdict"),
    [("higher", 0.4, "promote"), ("higher", 0.41, "reject"), ("lower", 0.4, "promote"), ("lower", 0.39, "reject")],
)
def test_a_gate_is_the_least_or_the_most_that_is_needed(better, gate, verdict):
    gated = dataclasses.replace(CLOSE, better=better, gate=gate)
    assert judge(dataclasses.replace(FIRST, business=(gated,))).verdict == verdict


def test_a_missed_gate_names_metric_value_and_bar_also_against_a_champion():
    gated = dataclasses.replace(CLOSE, gate=0.5)
    decision = judge(dataclasses.replace(against(0.2), business=(gated,)))
    assert decision.verdict == "reject"
    assert decision.reason.startswith(
        "gate_not_reached: close 0.4, needed at least 0.5 (Share within one point); better: mean loss"
    )
    assert decision.numbers["business_close_gate"] == 0.5


def test_a_gated_metric_without_a_value_is_not_reached():
    decision = judge(dataclasses.replace(FIRST, business=(dataclasses.replace(CLOSE, value=None, gate=0.1),)))
    assert "close no value, needed at least 0.1" in decision.reason


def test_a_rejection_by_the_loss_is_told_as_such_whatever_the_gates():
    worse = dataclasses.replace(FIRST, value=2.5, business=(dataclasses.replace(CLOSE, gate=0.5),))
    assert judge(worse).reason.startswith("baseline_not_beaten")
