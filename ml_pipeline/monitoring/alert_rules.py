"""When an alert is news, when people are told, when they are told again, and how often a dead channel is tried."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LEVELS = ("LOW", "MEDIUM", "HIGH", "CRITICAL")
NEW, AGAIN, RAISED = "new", "again", "raised"


def rank(level: str) -> int:
    """Position of a level; higher is worse.

    Raises
    ------
    ValueError
        If it is none.

    >>> rank("HIGH") > rank("MEDIUM")
    True
    """
    if level not in LEVELS:
        raise ValueError(f"alert level is {level!r}; the levels are {', '.join(LEVELS)}")
    return LEVELS.index(level)


def highest(levels: Iterable[str]) -> str:
    """The worst of some levels."""
    return max(levels, key=rank)


@dataclass(frozen=True)
class OpenAlert:
    """An alert of the same tenant, model and kind that was raised within the silence."""

    alert_id: str
    level: str
    acknowledged: bool


def assess(standing: Sequence[OpenAlert], level: str) -> tuple[str, OpenAlert | None]:
    """What an alert of ``level`` is, beside the standing ones (newest last), and the one that it belongs to.

    ``again``: one stands that is as bad, and only counts up. ``raised``: the one that stands is milder and open, and
    takes the higher level. ``new``: nothing stands, or somebody acknowledged the milder one, which says nothing about
    this.
    """
    rank(level)
    if not standing:
        return NEW, None
    worst = max(enumerate(standing), key=lambda item: (rank(item[1].level), item[0]))[1]
    if rank(worst.level) >= rank(level):
        return AGAIN, worst
    return (NEW, None) if worst.acknowledged else (RAISED, worst)


@dataclass(frozen=True)
class Notification:
    """That people are, or will be, told about a tenant's model."""

    level: str
    due_at: dt.datetime


def due_at(now: dt.datetime, level: str, others: Sequence[Notification], cool_down: dt.timedelta) -> dt.datetime:
    """When people are told of an alert of ``level``, given the other notifications of the same tenant and model.

    At once if nobody was told anything within the cool-down, or only of lower levels. Otherwise at the cool-down's
    end, in one message with everything that waits for it; never later than one cool-down from now.
    """
    told = [other for other in others if now - cool_down < other.due_at <= now]
    waiting = [other.due_at for other in others if other.due_at > now]
    if not told and not waiting:
        return now
    if told and rank(level) > max(rank(other.level) for other in told):
        return now
    end = max(waiting) if waiting else max(other.due_at for other in told) + cool_down
    return min(end, now + cool_down)


def is_news(as_of: dt.datetime, now: dt.datetime, within: dt.timedelta) -> bool:
    """Whether an alert is about a moment so recent that people are told: a backfill of last month is not."""
    return now - as_of <= within


def escalation(level: str) -> str | None:
    """The level at which people are told again of an alert that nobody acknowledged; None for LOW and MEDIUM."""
    return "CRITICAL" if rank(level) >= rank("HIGH") else None


def backoff(attempts: int, first: dt.timedelta, longest: dt.timedelta) -> dt.timedelta:
    """Pause after the failure number ``attempts`` (from 1): doubled each time, at most ``longest``.

    >>> backoff(3, dt.timedelta(seconds=30), dt.timedelta(hours=1)).total_seconds()
    120.0
    """
    doublings = min(attempts - 1, 32)
    return min(first * 2**doublings, longest)
