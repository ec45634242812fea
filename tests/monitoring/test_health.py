"""The health score: its range, its direction, and what it does without some of its parts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.monitoring.health import WEIGHTS, health_score

RISING = ("skill", "targets_met", "completeness", "volume")  # the higher, the better
FALLING = ("performance_loss", "drift_score", "calibration", "error_share", "version_age_days")

finite = st.floats(0, 500)
inputs = st.fixed_dictionaries({name: st.one_of(st.none(), finite) for name in RISING + FALLING})


def test_the_weights_add_up_to_one_hundred():
    assert sum(WEIGHTS.values()) == 100


def test_nothing_known_has_no_score_and_no_marks():
    score, parts = health_score()
    assert score is None
    assert parts == dict.fromkeys(WEIGHTS)


def test_a_missing_part_leaves_its_weight_out():
    assert health_score(skill=0.0).score == pytest.approx(50)
    expected = (WEIGHTS["skill"] * 50 + WEIGHTS["completeness"] * 100) / (WEIGHTS["skill"] + WEIGHTS["completeness"])
    assert health_score(skill=0.0, completeness=1.0).score == pytest.approx(expected)


def test_not_a_number_is_unknown():
    assert health_score(calibration=float("nan"), volume=float("nan"), skill=0.0).score == pytest.approx(50)


@given(inputs)
def test_the_score_stays_within_its_parts(values):
    score, parts = health_score(**values)
    known = [mark for mark in parts.values() if mark is not None]
    if known:
        assert all(0 <= mark <= 100 for mark in known)
        assert min(known) - 1e-9 <= score <= max(known) + 1e-9


@given(inputs, st.sampled_from(RISING + FALLING), finite, finite)
def test_no_part_raises_the_score_when_it_worsens(values, name, first, second):
    worse, better = sorted((first, second), reverse=name in FALLING)
    assert health_score(**values | {name: worse}).score <= health_score(**values | {name: better}).score + 1e-9


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"skill": 0.2}, {"skill": 0.1}),
        ({"performance_loss": 0.01}, {"performance_loss": 0.1}),
        ({"targets_met": 1.0}, {"targets_met": 0.5}),
        ({"drift_score": 0.0}, {"drift_score": 0.2}),
        ({"calibration": 0.06}, {"calibration": 0.1}),
        ({"completeness": 0.9}, {"completeness": 0.5}),
        ({"error_share": 0.0}, {"error_share": 0.1}),
        ({"version_age_days": 40}, {"version_age_days": 100}),
        ({"volume": 0.03}, {"volume": 0.001}),
    ],
)
def test_each_part_lowers_the_score_when_it_worsens(better, worse):
    assert health_score(**worse).score < health_score(**better).score


@pytest.mark.parametrize(
    ("best", "worst"),
    [
        ({"calibration": 0.05}, {"calibration": -0.25}),
        ({"error_share": 0.0}, {"error_share": 0.5}),
        ({"volume": 0.05}, {"volume": 0.0}),
        ({"targets_met": 1.0}, {"targets_met": 0.0}),
    ],
)
def test_the_ends_of_each_part_are_the_documented_ones(best, worst):
    assert health_score(**best).score == pytest.approx(100)
    assert health_score(**worst).score == pytest.approx(0)


def test_losing_to_the_constant_baseline_costs_more_than_half_of_the_skill_marks():
    assert health_score(skill=-0.05).parts["skill"] < 50


def test_numbers_of_numpy_give_a_result_for_json():
    health = health_score(skill=np.float64(0.1), drift_score=np.float32(0.2), volume=np.float64(0.01))
    assert json.loads(json.dumps(health, allow_nan=False))[0] == health.score
