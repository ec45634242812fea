"""One number from 0 to 100 for a tenant and model, so that the worst of thousands come first in a list."""

from __future__ import annotations

from typing import NamedTuple

WEIGHTS = {"skill": 30, "performance": 25, "drift": 20, "completeness": 15, "freshness": 10}
FULL_SKILL = 0.25  # skill with full marks; none are left at -0.25, half at the constant baseline's level
NO_MARKS_LOSS = 0.20  # relative rise of the loss at which no marks are left: the CRITICAL threshold
NO_MARKS_DRIFT = 0.50  # drift score at which no marks are left: the CRITICAL threshold
FRESH_DAYS = 30.0
STALE_DAYS = 180.0


class Health(NamedTuple):
    """The score, ``None`` when nothing is known, and the marks (0 to 100, ``None`` where unknown) it is made of."""

    score: float | None
    parts: dict[str, float | None]


def health_score(
    *,
    skill: float | None = None,
    performance_loss: float | None = None,
    drift_score: float | None = None,
    completeness: float | None = None,
    version_age_days: float | None = None,
) -> Health:
    """Weighted mean of the parts that are known; a missing part leaves its weight out.

    Parameters
    ----------
    skill : float or None
        1 - loss / loss of the constant baseline, over recent outcomes. Weight 30: full marks from 0.25 on, half at 0,
        none at -0.25.
    performance_loss : float or None
        Relative rise of the loss against the version's expectation. Weight 25: none left at 20 %.
    drift_score : float or None
        Score of the drift report. Weight 20: none left at 0.50.
    completeness : float or None
        Share of outcomes that had a prediction. Weight 15.
    version_age_days : float or None
        Age of the serving version. Weight 10: full marks up to 30 days, none from 180 on.

    >>> health_score(skill=0.25, completeness=1.0).score
    100.0
    >>> health_score(skill=0.0, drift_score=0.0).parts["skill"]
    50.0
    """
    marks = {
        "skill": _line(skill, none_at=-FULL_SKILL, full_at=FULL_SKILL),
        "performance": _line(performance_loss, none_at=NO_MARKS_LOSS, full_at=0.0),
        "drift": _line(drift_score, none_at=NO_MARKS_DRIFT, full_at=0.0),
        "completeness": _line(completeness, none_at=0.0, full_at=1.0),
        "freshness": _line(version_age_days, none_at=STALE_DAYS, full_at=FRESH_DAYS),
    }
    known = {name: mark for name, mark in marks.items() if mark is not None}
    if not known:
        return Health(None, marks)
    return Health(
        sum(WEIGHTS[name] * mark for name, mark in known.items()) / sum(WEIGHTS[name] for name in known), marks
    )


def _line(value: float | None, none_at: float, full_at: float) -> float | None:
    if value is None:
        return None
    return 100.0 * min(1.0, max(0.0, (value - none_at) / (full_at - none_at)))
