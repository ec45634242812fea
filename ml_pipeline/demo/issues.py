"""Simulated issues: story points and durations, partly predictable from author, text and time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from ml_pipeline.demo import vocabulary
from ml_pipeline.demo.arrivals import ISSUE_STREAM, Arrivals, arrivals, as_times, known_by
from ml_pipeline.demo.items import ITEM_DRAWS, TEXT_DRAWS, Items, choose, items_of, omit, texts
from ml_pipeline.demo.organisation import Organisation
from ml_pipeline.demo.staff import Staff
from ml_pipeline.demo.working_time import DAY, HOURS_A_DAY, add_working_hours, season


class _IssueType(NamedTuple):
    name: str
    share: float
    hours: float  # median duration in working hours, including waiting
    points: float  # geometric mean of the estimates; NaN for types without estimates


_TYPES = (
    _IssueType("Story", 0.38, 90.0, 3.1),
    _IssueType("Task", 0.24, 70.0, 2.4),
    _IssueType("Bug", 0.24, 35.0, 1.9),
    _IssueType("Epic", 0.06, 320.0, np.nan),
    _IssueType("Sub-task", 0.08, 30.0, np.nan),
)
_TYPE_NAMES = np.array([kind.name for kind in _TYPES], dtype=object)
_TYPE_HOURS = np.array([kind.hours for kind in _TYPES])
_TYPE_POINTS = np.array([kind.points for kind in _TYPES])
_PRIORITIES = np.array(["Low", "Medium", "High", "Critical"], dtype=object)
_PRIORITY_SHARES = (0.25, 0.45, 0.22, 0.08)
_PRIORITY_DELAY = np.array([0.4, 0.0, -0.3, -0.8])  # log scale
_SCALE = np.array([1.0, 2.0, 3.0, 5.0, 8.0, 13.0])
_BETWEEN_POINTS = np.sqrt(_SCALE[:-1] * _SCALE[1:])

_ESTIMATED = 0.9  # share of stories, tasks and bugs that get an estimate if they are not done before
_NEVER_RESOLVED = 0.04
_NO_PRIORITY, _NO_DESCRIPTION = 0.05, 0.12
_QUEUE_WINDOW = 28 * DAY  # issues open for longer are treated as inactive

_DRAWS = (
    *ITEM_DRAWS,
    *("type", "opening", "priority", "priority_missing", "hidden_effort", "points_noise", "duration_noise"),
    *("estimated", "estimate_delay", "start", "never_resolved"),
)


def simulated_issues(organisation: Organisation, staff: Staff) -> pd.DataFrame:
    """Rows of ``source.issues`` as known at the organisation's end."""
    arrived = arrivals(
        organisation, ISSUE_STREAM, organisation.issues_per_week, _DRAWS, TEXT_DRAWS, warm_up=_QUEUE_WINDOW
    )
    items = items_of(organisation, staff, arrived)
    kind = choose(arrived.draws["type"], [kind.share for kind in _TYPES])
    opening = _openings(kind, arrived.draws["opening"])
    priority = choose(arrived.draws["priority"], _PRIORITY_SHARES)
    # Effort that the text indicates, plus effort that is unknown at creation.
    effort = items.meaning * (vocabulary.TOPIC_EFFORT[items.topic] + vocabulary.OPENING_EFFORT[opening])
    effort += 0.25 * arrived.normal("hidden_effort")
    hours = _working_hours(organisation, arrived, items, kind, priority, effort)
    summary, description = texts(organisation, arrived, items, opening, usually_missing=_NO_DESCRIPTION)
    no_priority = organisation.missing_share(_NO_PRIORITY, arrived.created)
    frame = pd.DataFrame(
        {
            "issue_type": _TYPE_NAMES[kind],
            "team": staff.teams[items.team],
            "reporter": items.author,
            "priority": omit(_PRIORITIES[priority], arrived.draws["priority_missing"] < no_priority),
            "created_at": as_times(arrived.created),
            **_course(organisation, arrived, items, kind, hours, effort),
            "summary": summary,
            "description": description,
        }
    )
    frame = frame.iloc[arrived.since(organisation.start.timestamp())].reset_index(drop=True)
    frame.insert(0, "issue_key", [f"{organisation.tenant_id.upper()}-{n}" for n in range(1, len(frame) + 1)])
    return frame


def _openings(kind: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    bug = _TYPE_NAMES[kind] == "Bug"
    actions = uniform * vocabulary.ACTIONS
    return np.where(bug, vocabulary.ACTIONS + uniform * vocabulary.SYMPTOMS, actions).astype(int)


def _course(
    organisation: Organisation, arrived: Arrivals, items: Items, kind: np.ndarray, hours: np.ndarray, effort: np.ndarray
) -> dict[str, object]:
    """Start, estimate and resolution, empty if after the organisation's end."""
    draws, end = arrived.draws, organisation.end.timestamp()
    finished = add_working_hours(arrived.created, hours)
    resolved = np.where(draws["never_resolved"] < _NEVER_RESOLVED, np.nan, finished)
    started = add_working_hours(arrived.created, hours * (0.2 + 0.6 * draws["start"]))
    estimated = known_by(end, _estimate_times(arrived, kind, resolved))
    points = _points(organisation, arrived, items, kind, effort)
    return {
        "started_at": as_times(known_by(end, started)),
        "estimated_at": as_times(estimated),
        "resolved_at": as_times(known_by(end, resolved)),
        "story_points": np.where(np.isnan(estimated), np.nan, points),
    }


def _working_hours(
    organisation: Organisation,
    arrived: Arrivals,
    items: Items,
    kind: np.ndarray,
    priority: np.ndarray,
    effort: np.ndarray,
) -> np.ndarray:
    """Working hours from creation to resolution: lognormal, longer if the team has many open issues."""
    created = arrived.created
    log_factor = 0.85 * effort + _PRIORITY_DELAY[priority] + items.habits.duration + items.style.duration
    log_factor += 0.4 * (1 - season(created)) + 0.45 * arrived.normal("duration_noise")
    hours = organisation.factor("label", created) * _TYPE_HOURS[kind] * np.exp(log_factor)
    in_work = _open_items(created, add_working_hours(created, hours), items.team)
    weekly = organisation.issues_per_week / organisation.teams
    slowed: np.ndarray = hours * ((1 + in_work) / (1 + weekly)) ** 0.3
    return slowed


def _open_items(created: np.ndarray, finished: np.ndarray, team: np.ndarray) -> np.ndarray:
    """Number of the team's issues that were open, and within the queue window, when the item was created."""
    left = np.minimum(finished, created + _QUEUE_WINDOW)
    count = np.empty(len(created))
    for number in np.unique(team):
        own = np.flatnonzero(team == number)
        count[own] = np.arange(len(own)) - np.searchsorted(np.sort(left[own]), created[own], side="right")
    return count


def _points(
    organisation: Organisation, arrived: Arrivals, items: Items, kind: np.ndarray, effort: np.ndarray
) -> np.ndarray:
    """Estimates on the planning poker scale, NaN for types without estimates."""
    log_factor = 0.9 * effort + items.habits.points + items.style.points + 0.2 * arrived.normal("points_noise")
    exact = organisation.factor("label", arrived.created) * _TYPE_POINTS[kind] * np.exp(log_factor)
    return np.where(np.isnan(exact), np.nan, _SCALE[np.searchsorted(_BETWEEN_POINTS, exact)])


def _estimate_times(arrived: Arrivals, kind: np.ndarray, resolved: np.ndarray) -> np.ndarray:
    """Estimate times, one to ten days after creation; NaN for types without points and issues resolved before."""
    delay = HOURS_A_DAY * (1.4 + 4.6 * arrived.draws["estimate_delay"] ** 3)
    when = add_working_hours(arrived.created, delay)
    given = (arrived.draws["estimated"] < _ESTIMATED) & ~np.isnan(_TYPE_POINTS[kind]) & ~(resolved < when)
    return np.where(given, when, np.nan)
