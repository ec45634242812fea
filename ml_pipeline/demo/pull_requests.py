"""Simulated pull requests: the rework that reviews request, partly predictable from author, text and size."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ml_pipeline.demo import vocabulary
from ml_pipeline.demo.arrivals import PULL_REQUEST_STREAM, Arrivals, arrivals, as_times, known_by
from ml_pipeline.demo.items import ITEM_DRAWS, TEXT_DRAWS, Items, choose, items_of, texts
from ml_pipeline.demo.organisation import Organisation
from ml_pipeline.demo.staff import Staff
from ml_pipeline.demo.working_time import add_working_hours

_KINDS = np.array(["human", "agent", "bot"], dtype=object)
_KIND_SHARES = (0.80, 0.14, 0.06)
_HUMAN = 0
_MACHINE_LOG_ODDS = np.array([0.0, 0.6, -1.6])  # added in place of a person's habit
_MACHINES = np.array([None, "coding-agent", "dependency-bot"], dtype=object)
_REPOSITORIES = np.array(["-service", "-web"], dtype=object)
_REPOSITORY_SHARES = (0.6, 0.4)

_MEDIAN_LINES, _LINES_SPREAD = 60.0, 1.2

_BASE_LOG_ODDS = -0.6  # of a request for changes
_MOST_REQUESTS = 12
_REVIEW_HOURS = 10.0  # median working hours of a review without requested changes
_NEVER_CLOSED = 0.03
_STRAY_COMMIT = 0.15  # share of pull requests with an unrequested commit after the review
_NO_BODY = 0.08

_DRAWS = (
    *ITEM_DRAWS,
    *("kind", "repository", "opening", "lines", "deleted", "files", "diff_missing"),
    *("hidden_risk", "requests", "extra_commits", "stray_commits", "review_hours", "never_closed"),
)


def simulated_pull_requests(organisation: Organisation, staff: Staff) -> pd.DataFrame:
    """Rows of ``source.pull_requests`` as known at the organisation's end."""
    arrived = arrivals(organisation, PULL_REQUEST_STREAM, organisation.pull_requests_per_week, _DRAWS, TEXT_DRAWS)
    items = items_of(organisation, staff, arrived)
    kind = choose(arrived.draws["kind"], _KIND_SHARES)
    opening = (arrived.draws["opening"] * vocabulary.ACTIONS).astype(int)
    repository = staff.teams[items.team] + _REPOSITORIES[choose(arrived.draws["repository"], _REPOSITORY_SHARES)]
    lines = _lines(organisation, arrived, opening)
    requested = _changes_requested(organisation, arrived, items, kind, opening, lines)
    closed = known_by(organisation.end.timestamp(), _closing_times(arrived, lines, requested))
    title, body = texts(organisation, arrived, items, opening, usually_missing=_NO_BODY)
    return pd.DataFrame(
        {
            "pull_request": [f"{name}#{number}" for number, name in enumerate(repository, start=1)],
            "repository": repository,
            "author": np.where(kind == _HUMAN, items.author, _MACHINES[kind]),
            "author_kind": _KINDS[kind],
            "team": staff.teams[items.team],
            "created_at": as_times(arrived.created),
            "closed_at": as_times(closed),
            "title": title,
            "body": body,
            **_diff(organisation, arrived, lines),
            **_review(arrived, requested, closed),
        }
    )


def _lines(organisation: Organisation, arrived: Arrivals, opening: np.ndarray) -> np.ndarray:
    """Changed lines: lognormal, more for openings that indicate more work, and in a campaign."""
    log_factor = _LINES_SPREAD * arrived.normal("lines") + 0.5 * vocabulary.OPENING_EFFORT[opening]
    changed: np.ndarray = _MEDIAN_LINES * np.exp(log_factor) * (1 + organisation.share("covariate", arrived.created))
    return changed


def _diff(organisation: Organisation, arrived: Arrivals, lines: np.ndarray) -> dict[str, np.ndarray]:
    deletions = np.floor(lines * 0.6 * arrived.draws["deleted"])
    files = np.ceil(lines**0.6 * (0.2 + 0.3 * arrived.draws["files"]))
    unknown = arrived.draws["diff_missing"] < organisation.missing_share(0.0, arrived.created)
    counts = {"changed_files": files, "additions": np.ceil(lines) - deletions, "deletions": deletions}
    return {name: np.where(unknown, np.nan, count) for name, count in counts.items()}


def _changes_requested(
    organisation: Organisation,
    arrived: Arrivals,
    items: Items,
    kind: np.ndarray,
    opening: np.ndarray,
    lines: np.ndarray,
) -> np.ndarray:
    """Number of reviews that request changes: geometric, with constant odds of a further one."""
    announced = vocabulary.TOPIC_EFFORT[items.topic] + vocabulary.OPENING_EFFORT[opening]
    log_odds = _BASE_LOG_ODDS + items.meaning * (1.1 * announced + 0.6 * np.log(lines / _MEDIAN_LINES))
    log_odds += np.where(kind == _HUMAN, items.habits.rework, _MACHINE_LOG_ODDS[kind]) + items.style.rework
    log_odds += 0.4 * arrived.normal("hidden_risk") + np.log(organisation.factor("label", arrived.created))
    again = -np.log1p(np.exp(-log_odds))
    requests: np.ndarray = np.minimum(np.floor(np.log1p(-arrived.draws["requests"]) / again), _MOST_REQUESTS)
    return requests


def _closing_times(arrived: Arrivals, lines: np.ndarray, requested: np.ndarray) -> np.ndarray:
    """Closing times, working hours to days after opening, later with each requested change; NaN if never closed."""
    alone = _REVIEW_HOURS * np.exp(0.9 * arrived.normal("review_hours")) * (lines / _MEDIAN_LINES) ** 0.3
    closed = add_working_hours(arrived.created, alone * (1 + 0.7 * requested))
    return np.where(arrived.draws["never_closed"] < _NEVER_CLOSED, np.nan, closed)


def _review(arrived: Arrivals, requested: np.ndarray, closed: np.ndarray) -> dict[str, np.ndarray]:
    """Counts of a finished review: each requested change gives a review cycle and at least one commit."""
    rework = requested + np.floor(1.5 * requested * arrived.draws["extra_commits"])
    counts = {
        "review_cycles": 1 + requested,
        "rework_commit_count": rework,
        "changes_requested": requested,
        "commits_after_first_review": rework + (arrived.draws["stray_commits"] < _STRAY_COMMIT),
    }
    return {name: np.where(np.isnan(closed), np.nan, count) for name, count in counts.items()}
