"""The test for a rise of a stream of losses."""

from __future__ import annotations

import datetime as dt
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_pipeline.monitoring.degradation.detector import rise, savage_scores

START = np.datetime64("2025-01-01")


def days_of(days: int, a_day: int) -> np.ndarray:
    return START + np.repeat(np.arange(days), a_day)


def stream(seed: int, days: int = 60, a_day: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).lognormal(0, 1, days * a_day)


def doubled_from(losses: np.ndarray, day: int, a_day: int = 30) -> np.ndarray:
    return np.where(np.arange(len(losses)) >= day * a_day, 2 * losses, losses)


def test_a_doubled_loss_is_found_within_two_days_and_dated():
    losses = doubled_from(stream(0), 58)
    found = rise(losses, days_of(60, 30))
    assert found.alarm
    assert abs(found.since - dt.date(2025, 2, 28)) <= dt.timedelta(days=1)
    assert found.before + found.after == 1800


def test_a_fall_is_no_rise():
    losses = stream(0)
    falling = np.where(np.arange(1800) >= 1500, losses / 3, losses)
    assert not rise(falling, days_of(60, 30)).alarm


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.sampled_from([2.0**-20, 0.25, 4.0, 2.0**30]))
def test_the_unit_does_not_matter(seed, scale):
    losses = doubled_from(stream(seed, 30, 10), 25, 10)
    assert rise(losses * scale, days_of(30, 10)) == rise(losses, days_of(30, 10))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_within_a_day_matters_to_rounding_only(seed):
    losses, days = doubled_from(stream(seed, 30, 10), 25, 10), days_of(30, 10)
    order = np.lexsort((np.random.default_rng(seed).random(300), days))
    assert rise(losses[order], days).rate == pytest.approx(rise(losses, days).rate, rel=1e-6)


@pytest.mark.parametrize(
    ("losses", "days"),
    [
        (np.empty(0), np.empty(0, "datetime64[D]")),
        (np.arange(39.0), days_of(39, 1)),
        (np.ones(500), days_of(50, 10)),
        (np.arange(500.0), days_of(1, 500)),
    ],
    ids=["nothing", "too few", "all the same", "one day"],
)
def test_where_nothing_can_be_compared_there_is_no_alarm_and_no_day(losses, days):
    found = rise(losses, days)
    assert (found.alarm, found.since, found.rate) == (False, None, 1.0)


def test_no_change_is_found_before_the_first_day_allowed():
    losses = doubled_from(stream(0), 40)
    assert rise(losses, days_of(60, 30), first=dt.date(2025, 2, 20)).since >= dt.date(2025, 2, 20)
    assert rise(losses, days_of(60, 30), first=dt.date(2026, 1, 1)).since is None


def test_days_without_outcomes_leave_no_gap_in_the_calendar():
    days = days_of(60, 30)
    kept = (days.astype(int) % 7) < 5
    found = rise(doubled_from(stream(0), 50)[kept], days[kept])
    assert found.alarm
    assert found.since in (dt.date(2025, 2, 20), dt.date(2025, 2, 21))


def exponential(rng: np.random.Generator, days: int, a_day: int) -> np.ndarray:
    return rng.exponential(size=days * a_day)


def errors(rng: np.random.Generator, days: int, a_day: int) -> np.ndarray:
    return (rng.random(days * a_day) < 0.1).astype(float)


def heavy(rng: np.random.Generator, days: int, a_day: int) -> np.ndarray:
    return rng.lognormal(0, 2, days * a_day)


def day_effects(rng: np.random.Generator, days: int, a_day: int) -> np.ndarray:
    return rng.exponential(size=days * a_day) * np.repeat(rng.lognormal(0, 0.1, days), a_day)


def alarmed(make, days: int, a_day: int, rate: float, streams: int) -> float:
    """Share of quiet streams with an alarm, looked at daily over their second half."""
    rng = np.random.default_rng(11)
    alarms = 0
    for _ in range(streams):
        losses = make(rng, days, a_day)
        looks = range(days // 2 * a_day, days * a_day, a_day)
        alarms += any(rise(losses[:n], days_of(days, a_day)[:n], false_alarms=rate).alarm for n in looks)
    return alarms / streams


@pytest.mark.parametrize("make", [exponential, errors, heavy])
@pytest.mark.parametrize(("days", "a_day"), [(60, 30), (120, 4)])
def test_quiet_streams_looked_at_daily_keep_to_the_rate_of_false_alarms(make, days, a_day):
    rate, streams = 0.01, 60
    expected = days / 2 * rate
    assert alarmed(make, days, a_day, rate, streams) <= expected + 2 * np.sqrt(expected / streams)


def test_mild_day_effects_do_not_multiply_the_alarms():
    assert alarmed(day_effects, 120, 30, 0.002, 40) <= 0.3  # 0.12 expected where days have no effect


@pytest.mark.parametrize("make", [exponential, errors, heavy])
def test_the_chance_given_to_the_last_two_days_is_what_it_says(make):
    rng = np.random.default_rng(12)
    days = days_of(40, 30)
    rates = np.array([rise(make(rng, 40, 30), days, recent_share=1 - 1e-9).rate for _ in range(600)])
    assert (rates <= 0.05).mean() <= 0.07
    assert (rates <= 0.01).mean() <= 0.02


def test_the_same_inputs_with_other_outcomes_show_best_at_equal_predictions():
    rng = np.random.default_rng(13)
    days, predictions = days_of(60, 30), rng.lognormal(0, 2, 1800)
    losses = doubled_from(predictions * rng.lognormal(0, 0.5, 1800), 58)
    found = rise(losses, days, predictions)
    assert (found.alarm, found.given_prediction) == (True, True)
    assert found.rate < rise(losses, days).rate / 10


def test_predictions_that_break_show_among_all():
    rng = np.random.default_rng(14)
    predictions = doubled_from(doubled_from(rng.lognormal(0, 1, 1800), 58), 58)
    losses = predictions * rng.lognormal(0, 0.5, 1800)
    found = rise(losses, days_of(60, 30), predictions)
    assert (found.alarm, found.given_prediction) == (True, False)


def test_three_thousand_outcomes_take_milliseconds():
    losses, days = stream(0, 100, 30), days_of(100, 30)
    rise(losses, days)
    started = time.process_time()
    for _ in range(20):
        rise(losses, days)
    assert (time.process_time() - started) / 20 < 0.02  # 2 ms where nothing else runs


def test_scores_have_mean_zero_and_share_ties():
    scores = savage_scores(np.array([3.0, 1.0, 2.0, 2.0]))
    assert scores.sum() == pytest.approx(0)
    assert scores[2] == scores[3]
    assert scores[1] < scores[2] < scores[0]


@pytest.mark.filterwarnings("error")
def test_equal_losses_throughout_never_alarm_and_give_numbers():
    days = np.repeat(np.datetime64("2026-01-01") + np.arange(60), 10)
    found = rise(np.full(600, 2.0), days, np.full(600, 5.0))
    assert not found.alarm
    assert np.isfinite([found.rate, found.z, found.overdispersion]).all()
