"""Alert rules: new or repeated alerts, notification times, escalation, and retries of a failed channel."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from ml_pipeline.severity import rank

NEW, AGAIN, RAISED = "new", "again", "raised"


@dataclass(frozen=True)
class OpenAlert:
    """An alert of the same tenant, model and kind that was raised within the suppression period."""

    alert_id: str
    level: str
    acknowledged: bool


def assess(standing: Sequence[OpenAlert], level: str) -> tuple[str, OpenAlert | None]:
    """Classify an alert of ``level`` against the open alerts (newest last), and return the one that it updates.

    - ``again``: an open alert is at least as severe; only its counter increases.
    - ``raised``: the open alert is less severe and not acknowledged; it takes the higher level.
    - ``new``: no alert is open, or the less severe one is acknowledged, which does not cover the higher level.
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
    """A sent or scheduled notification about a tenant's model."""

    level: str
    due_at: dt.datetime


def due_at(now: dt.datetime, level: str, others: Sequence[Notification], cool_down: dt.timedelta) -> dt.datetime:
    """When to notify about an alert of ``level``, given the other notifications of the same tenant and model.

    Immediately if no notification was sent within the cool-down, or only notifications of lower levels. Otherwise at
    the end of the cool-down, in one message with all waiting alerts, but not later than one cool-down from now.
    """
    sent = [other for other in others if now - cool_down < other.due_at <= now]
    waiting = [other.due_at for other in others if other.due_at > now]
    if not sent and not waiting:
        return now
    if sent and rank(level) > max(rank(other.level) for other in sent):
        return now
    end = max(waiting) if waiting else max(other.due_at for other in sent) + cool_down
    return min(end, now + cool_down)


def is_news(as_of: dt.datetime, now: dt.datetime, within: dt.timedelta) -> bool:
    """Whether the as-of time of an alert is recent enough for a notification; that of a backfill usually is not."""
    return now - as_of <= within


def escalation(level: str) -> str | None:
    """The level of the reminder for an alert that is not acknowledged; None (no reminder) for LOW and MEDIUM."""
    return "CRITICAL" if rank(level) >= rank("HIGH") else None


def backoff(attempts: int, first: dt.timedelta, longest: dt.timedelta) -> dt.timedelta:
    """Pause after failure number ``attempts`` (from 1): doubled each time, at most ``longest``.

    >>> backoff(3, dt.timedelta(seconds=30), dt.timedelta(hours=1)).total_seconds()
    120.0
    """
    doublings = min(attempts - 1, 32)
    return min(first * int(2**doublings), longest)
