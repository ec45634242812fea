"""The verdict on a challenger."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ml_pipeline.lifecycle.promotion import Evidence, judge, losses, relative_gain

FIRST = Evidence("mae", 1.5, 2.0, 0.0, False, np.array([]), np.array([]))


def against(champion_minus_ours: float, pairs: int = 40) -> Evidence:
    ours = np.linspace(1, 2, pairs)
    return dataclasses.replace(FIRST, losses=ours, champion_losses=ours + champion_minus_ours, champion=3)


def test_a_first_version_that_beats_the_constant_is_promoted_with_its_numbers():
    decision = judge(FIRST)
    assert decision.verdict == "promote"
    numbers = "mae 1.5 against 2 of the constant (skill 25.0 %, needed more than 0.0 %)"
    assert decision.reason == f"baseline_beaten: {numbers}"
    assert decision.numbers["skill"] == pytest.approx(0.25)


@pytest.mark.parametrize("value", [2.0, 2.5])
def test_a_version_no_better_than_the_constant_is_rejected(value: float):
    decision = judge(dataclasses.replace(FIRST, value=value))
    assert decision.verdict == "reject"
    assert decision.reason.startswith("baseline_not_beaten")


def test_a_constant_that_won_the_race_is_rejected_whatever_its_value():
    decision = judge(dataclasses.replace(FIRST, candidate_is_constant=True))
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


def test_too_few_common_entities_leave_the_champion():
    decision = judge(against(0.2, pairs=29))
    assert decision.reason == "too_few_pairs: 29 of 30 entities that neither it nor champion version 3 was fitted on"


def test_a_champion_does_not_excuse_a_challenger_below_the_baseline():
    decision = judge(dataclasses.replace(against(0.2), value=2.5))
    assert decision.reason.startswith("baseline_not_beaten")


def test_a_baseline_without_error_can_only_be_matched():
    assert relative_gain(0.0, 0.0) == 0.0
    assert relative_gain(0.1, 0.0) == float("-inf")


def test_losses_are_absolute_errors_or_squared_errors_of_the_probability():
    assert losses("regression", np.array([1.0, 4.0]), np.array([2.0, 2.0])).tolist() == [1.0, 2.0]
    assert losses("binary", np.array([1.0, 0.0]), np.array([0.5, 0.2])).tolist() == pytest.approx([0.25, 0.04])
