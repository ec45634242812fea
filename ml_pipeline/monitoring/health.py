"""Health score from 0 to 100 for a tenant and model, used to sort thousands of models by urgency."""

from __future__ import annotations

import math
from typing import NamedTuple

WEIGHTS = {
    "skill": 20,
    "performance": 20,
    "targets": 5,
    "drift": 15,
    "calibration": 10,
    "completeness": 10,
    "errors": 10,
    "freshness": 5,
    "volume": 5,
}
FULL_SKILL = 0.25  # skill with full marks; half marks at 0 (equal to the baseline), no marks at -0.25
NO_MARKS_LOSS = 0.20  # relative rise of the loss with no marks: the CRITICAL threshold
NO_MARKS_DRIFT = 0.50  # drift score with no marks: the CRITICAL threshold
FRESH_DAYS = 30.0
STALE_DAYS = 180.0
CALIBRATED_GAP = 0.05  # the gap that chance alone gives the coverage of a hundred outcomes
NO_MARKS_GAP = 0.25
NO_MARKS_ERRORS = 0.50
USUAL_VOLUME = 0.05  # p-values of usual days
NO_MARKS_VOLUME = 0.0001


class Health(NamedTuple):
    """The score, and the marks (0 to 100) of its parts; None means unknown."""

    score: float | None
    parts: dict[str, float | None]


def health_score(
    *,
    skill: float | None = None,
    performance_loss: float | None = None,
    targets_met: float | None = None,
    drift_score: float | None = None,
    calibration: float | None = None,
    completeness: float | None = None,
    error_share: float | None = None,
    version_age_days: float | None = None,
    volume: float | None = None,
) -> Health:
    """Weighted mean of the known parts; a part that is None or NaN is left out with its weight.

    ============  ======  ====================  ========================  ================
    part          weight  input                 full marks                no marks
    ============  ======  ====================  ========================  ================
    skill         20      ``skill``             from 0.25 on (half at 0)  at -0.25
    performance   20      ``performance_loss``  no rise                   a rise of 20%
    targets       5       ``targets_met``       all                       none
    drift         15      ``drift_score``       0                         from 0.50 on
    calibration   10      ``calibration``       gap up to 0.05            gap from 0.25 on
    completeness  10      ``completeness``      all                       none
    errors        10      ``error_share``       none                      from half on
    freshness     5       ``version_age_days``  up to 30 days             from 180 days on
    volume        5       ``volume``            p from 0.05 on            p up to 0.0001
    ============  ======  ====================  ========================  ================

    Between full marks and no marks the scale is linear, for the volume linear in the logarithm of p.

    Parameters
    ----------
    skill : float or None
        1 - loss / loss of the baseline, over recent outcomes.
    performance_loss : float or None
        Relative rise of the loss, compared with the version's expected loss.
    targets_met : float or None
        Share of the targets that recent outcomes meet.
    drift_score : float or None
        Score of the drift report.
    calibration : float or None
        Difference between interval coverage and nominal coverage (its sign is ignored), or the expected calibration
        error.
    completeness : float or None
        Share of outcomes that had a prediction.
    error_share : float or None
        Share of the window's runs that failed, or of its days without a report.
    version_age_days : float or None
        Age of the serving version.
    volume : float or None
        P-value of the day's number of new entities, compared with the tenant's earlier days
        (:func:`ml_pipeline.monitoring.anomalies.days.volume_p_value`).

    >>> health_score(skill=0.25, completeness=1.0).score
    100.0
    >>> health_score(skill=0.0, drift_score=0.0).parts["skill"]
    50.0
    """
    gap = None if calibration is None else abs(calibration)
    log_volume = None if volume is None else math.log(max(volume, NO_MARKS_VOLUME))
    marks = {
        "skill": _line(skill, none_at=-FULL_SKILL, full_at=FULL_SKILL),
        "performance": _line(performance_loss, none_at=NO_MARKS_LOSS, full_at=0.0),
        "targets": _line(targets_met, none_at=0.0, full_at=1.0),
        "drift": _line(drift_score, none_at=NO_MARKS_DRIFT, full_at=0.0),
        "calibration": _line(gap, none_at=NO_MARKS_GAP, full_at=CALIBRATED_GAP),
        "completeness": _line(completeness, none_at=0.0, full_at=1.0),
        "errors": _line(error_share, none_at=NO_MARKS_ERRORS, full_at=0.0),
        "freshness": _line(version_age_days, none_at=STALE_DAYS, full_at=FRESH_DAYS),
        "volume": _line(log_volume, none_at=math.log(NO_MARKS_VOLUME), full_at=math.log(USUAL_VOLUME)),
    }
    known = {name: mark for name, mark in marks.items() if mark is not None}
    if not known:
        return Health(None, marks)
    return Health(
        sum(WEIGHTS[name] * mark for name, mark in known.items()) / sum(WEIGHTS[name] for name in known), marks
    )


def _line(value: float | None, none_at: float, full_at: float) -> float | None:
    if value is None or math.isnan(value):
        return None
    return 100.0 * float(min(1.0, max(0.0, (value - none_at) / (full_at - none_at))))
