"""Levels, silence, cool-down, escalation and backoff, as tables and as properties."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.monitoring.alert_rules import (
    AGAIN,
    NEW,
    RAISED,
    Notification,
    OpenAlert,
    assess,
    backoff,
    due_at,
    escalation,
    is_news,
)
from ml_pipeline.severity import LEVELS, highest, rank

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
MINUTE = dt.timedelta(minutes=1)
COOL_DOWN = 60 * MINUTE


def at(minutes: float) -> dt.datetime:
    return NOON + minutes * MINUTE


def told(level: str, minutes: float) -> Notification:
    return Notification(level, at(minutes))


def test_levels_are_ordered_from_low_to_critical():
    assert sorted(["CRITICAL", "LOW", "HIGH", "MEDIUM"], key=rank) == list(LEVELS)
    assert highest(["MEDIUM", "CRITICAL", "LOW"]) == "CRITICAL"


def test_a_level_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"alert level is 'high'; the levels are LOW, MEDIUM, HIGH, CRITICAL"):
        rank("high")
    with pytest.raises(ValueError, match="'WARN'"):
        assess([], "WARN")


OPEN_MEDIUM, OPEN_HIGH = OpenAlert("1", "MEDIUM", False), OpenAlert("2", "HIGH", False)
SEEN_MEDIUM, SEEN_HIGH = OpenAlert("3", "MEDIUM", True), OpenAlert("4", "HIGH", True)


@pytest.mark.parametrize(
    ("standing", "level", "expected"),
    [
        ([], "LOW", (NEW, None)),
        ([OPEN_MEDIUM], "MEDIUM", (AGAIN, OPEN_MEDIUM)),
        ([OPEN_MEDIUM], "LOW", (AGAIN, OPEN_MEDIUM)),
        ([OPEN_MEDIUM], "HIGH", (RAISED, OPEN_MEDIUM)),
        ([SEEN_MEDIUM], "MEDIUM", (AGAIN, SEEN_MEDIUM)),
        ([SEEN_MEDIUM], "HIGH", (NEW, None)),
        ([OPEN_MEDIUM, OPEN_HIGH], "HIGH", (AGAIN, OPEN_HIGH)),
        ([OPEN_HIGH, OPEN_MEDIUM], "MEDIUM", (AGAIN, OPEN_HIGH)),
        ([SEEN_HIGH, OPEN_HIGH], "HIGH", (AGAIN, OPEN_HIGH)),
        ([SEEN_MEDIUM, OPEN_HIGH], "CRITICAL", (RAISED, OPEN_HIGH)),
    ],
)
def test_an_alert_is_new_or_seen_again_or_raises_the_one_that_stands(standing, level, expected):
    assert assess(standing, level) == expected


@pytest.mark.parametrize(
    ("level", "others", "expected"),
    [
        ("LOW", [], 0),
        ("LOW", [told("CRITICAL", -60)], 0),
        ("LOW", [told("LOW", -59)], 1),
        ("HIGH", [told("HIGH", -10)], 50),
        ("HIGH", [told("MEDIUM", -10)], 0),
        ("MEDIUM", [told("LOW", -10), told("HIGH", -20)], 50),
        ("MEDIUM", [told("HIGH", -50), told("HIGH", 10)], 10),
        ("CRITICAL", [told("HIGH", -50), told("HIGH", 10)], 0),
        ("LOW", [told("LOW", 0)], 60),
        ("LOW", [told("LOW", 60 * 24)], 60),
    ],
    ids=str,
)
def test_people_are_told_at_once_or_at_the_end_of_the_cool_down(level, others, expected):
    assert due_at(NOON, level, others, COOL_DOWN) == at(expected)


@given(
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from(LEVELS)), max_size=60).map(
        lambda alerts: sorted(alerts, key=lambda alert: alert[0])
    )
)
def test_within_a_cool_down_people_are_told_only_of_something_worse_and_of_everything_in_time(alerts):
    waiting: list[tuple[dt.datetime, str]] = []  # due, level
    for minute, level in alerts:
        now = at(minute)
        when = due_at(now, level, [Notification(known, due) for due, known in waiting], COOL_DOWN)
        if when == now:  # it takes along what waits, as `records.raise_alert` has it
            waiting = [(min(due, now), known) for due, known in waiting]
        assert now <= when <= now + COOL_DOWN
        waiting.append((when, level))
    messages = {due: highest(level for other, level in waiting if other == due) for due, _ in waiting}
    for due, level in messages.items():
        before = [rank(known) for other, known in messages.items() if due - COOL_DOWN < other < due]
        assert all(rank(level) > known for known in before)


def test_without_a_cool_down_people_are_told_at_once():
    assert due_at(NOON, "LOW", [told("CRITICAL", -1)], dt.timedelta(0)) == NOON


def test_an_alert_about_a_time_long_gone_is_no_news():
    two_days = dt.timedelta(hours=48)
    assert is_news(NOON - two_days, NOON, two_days)
    assert not is_news(NOON - two_days - MINUTE, NOON, two_days)
    assert is_news(NOON + MINUTE, NOON, two_days)


def test_only_high_and_critical_alerts_escalate_and_to_critical():
    assert [escalation(level) for level in LEVELS] == [None, None, "CRITICAL", "CRITICAL"]


@given(st.integers(1, 10_000))
def test_pauses_grow_up_to_the_longest(attempts: int):
    first, longest = dt.timedelta(seconds=30), dt.timedelta(hours=1)
    pause = backoff(attempts, first, longest)
    assert first <= pause <= longest
    assert pause <= backoff(attempts + 1, first, longest)


def test_thirty_attempts_with_the_default_pauses_take_a_day():
    first, longest = dt.timedelta(seconds=30), dt.timedelta(hours=1)
    total = sum((backoff(attempts, first, longest) for attempts in range(1, 30)), dt.timedelta(0))
    assert dt.timedelta(hours=22) < total < dt.timedelta(hours=26)
