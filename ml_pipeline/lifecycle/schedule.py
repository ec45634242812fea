"""Adaptive schedule: days between scheduled trainings, and the quiet hours in which a training may start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ml_pipeline.lifecycle.policy import Policy
from ml_pipeline.lifecycle.state import CollectedState
from ml_pipeline.severity import RANK

QUIET_HOURS = 8
MAX_STEPS = 32  # rejected trainings that count: prevents an overflow, far beyond the longest backoff


class Cadence(NamedTuple):
    """Days between scheduled trainings, the new labels that they wait for, and the reason."""

    days: float
    samples: int
    factor: float
    why: str


def adaptive_cadence(state: CollectedState, policy: Policy) -> Cadence:
    """Schedule of the tenant's volume class, lengthened or shortened by what is known about the model.

    The number of days, for an online ensemble at least ``policy.online_days``, is multiplied by

    - ``policy.shorten`` if the loss has risen, or data quality is below ``policy.quality_floor``;
    - else ``policy.backoff`` if enough matured outcomes show no rise of the loss;
    - ``policy.backoff`` again for each rejected training in a row.

    The product is at most ``policy.max_backoff``.

    Parameters
    ----------
    state : CollectedState
        What is known about the tenant and the model.
    policy : Policy
        Volume classes and factors.

    Returns
    -------
    Cadence
        Days, new labels, the factor, and the reason as text.
    """
    base = policy.volume_class(state.weekly_items)
    days, factor, reasons = base.days, 1.0, [f"{state.weekly_items:.0f} new items a week"]
    if state.is_online and days < policy.online_days:
        days = policy.online_days
        reasons.append("it takes up outcomes every night")
    found = state.degradation
    if found is not None and RANK[found.severity]:
        factor = policy.shorten
        reasons.append(f"the loss has risen ({found.severity})")
    elif state.quality is not None and state.quality < policy.quality_floor:
        factor = policy.shorten
        reasons.append(f"data quality is {state.quality:.0f} of 100")
    elif shows_no_loss(state, policy):
        factor = policy.backoff
        reasons.append("the loss has not risen")
    if state.consecutive_rejections:
        factor *= policy.backoff ** min(state.consecutive_rejections, MAX_STEPS)
        reasons.append(
            "the last training was rejected"
            if state.consecutive_rejections == 1
            else f"the last {state.consecutive_rejections} trainings were rejected"
        )
    factor = min(factor, policy.max_backoff)
    return Cadence(days * factor, base.samples, factor, "; ".join(reasons))


def shows_no_loss(state: CollectedState, policy: Policy) -> bool:
    """Whether at least ``policy.performance_outcomes`` matured outcomes show no rise of the loss."""
    found = state.degradation
    return (
        found is not None
        and found.status == "stable"
        and RANK[found.severity] == 0
        and found.outcomes >= policy.performance_outcomes
    )


def quiet_hours(counts_by_hour: Sequence[int], length: int = QUIET_HOURS) -> tuple[int, ...]:
    """The ``length`` consecutive hours with the least traffic, possibly across midnight; the earliest of equals.

    Parameters
    ----------
    counts_by_hour : sequence of int
        24 counts, for the hours 0 to 23 (UTC).
    length : int
        Number of hours.

    Returns
    -------
    tuple of int
        Hours (UTC) in order.

    Raises
    ------
    ValueError
        If there are not 24 counts, or ``length`` is not from 1 to 24.

    >>> quiet_hours([0] * 5 + [9] * 17 + [0] * 2, length=4)
    (0, 1, 2, 3)
    >>> quiet_hours([1] + [9] * 21 + [1] * 2, length=3)
    (22, 23, 0)
    """
    if len(counts_by_hour) != 24 or not 1 <= length <= 24:
        raise ValueError(f"got {len(counts_by_hour)} counts and a length of {length}; give 24 counts and 1 to 24 hours")
    windows = [tuple((start + step) % 24 for step in range(length)) for start in range(24)]
    return min(windows, key=lambda hours: sum(counts_by_hour[hour] for hour in hours))
