"""The health score: its range, its direction, and what it does without some of its parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.monitoring.health import WEIGHTS, health_score

number = st.one_of(st.none(), st.floats(-10, 500))


def test_the_weights_add_up_to_one_hundred():
    assert sum(WEIGHTS.values()) == 100


def test_nothing_known_has_no_score():
    assert health_score().score is None


def test_a_missing_part_leaves_its_weight_out():
    assert health_score(skill=0.0).score == pytest.approx(50)
    assert health_score(skill=0.0, completeness=1.0).score == pytest.approx((30 * 50 + 15 * 100) / 45)


@given(number, number, number, number, number)
def test_the_score_stays_within_its_parts(skill, loss, drift, completeness, age):
    score, parts = health_score(
        skill=skill, performance_loss=loss, drift_score=drift, completeness=completeness, version_age_days=age
    )
    known = [mark for mark in parts.values() if mark is not None]
    if known:
        assert all(0 <= mark <= 100 for mark in known)
        assert min(known) - 1e-9 <= score <= max(known) + 1e-9


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"skill": 0.2}, {"skill": 0.1}),
        ({"performance_loss": 0.01}, {"performance_loss": 0.1}),
        ({"drift_score": 0.0}, {"drift_score": 0.2}),
        ({"completeness": 0.9}, {"completeness": 0.5}),
        ({"version_age_days": 40}, {"version_age_days": 100}),
    ],
)
def test_each_part_lowers_the_score_when_it_worsens(better, worse):
    assert health_score(**worse).score < health_score(**better).score


def test_losing_to_the_constant_baseline_costs_more_than_half_of_the_skill_marks():
    assert health_score(skill=-0.05).parts["skill"] < 50
