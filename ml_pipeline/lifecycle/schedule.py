"""How long a tenant's model waits for its next scheduled training, and the hours in which it may start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ml_pipeline.lifecycle.policy import Policy
from ml_pipeline.lifecycle.state import CollectedState
from ml_pipeline.severity import RANK

QUIET_HOURS = 8
MAX_STEPS = 32  # more would only overflow: the longest backoff is reached long before


class Cadence(NamedTuple):
    """Days between scheduled trainings, new labels they wait for, and why it is so long or short."""

    days: float
    samples: int
    factor: float
    why: str


def adaptive_cadence(state: CollectedState, policy: Policy) -> Cadence:
    """The schedule of the tenant's volume class, stretched while the model holds, shortened when something slips.

    Stretched by ``policy.backoff`` while enough matured outcomes show no loss; shortened when the loss rises by MEDIUM
    or more or data quality is below its floor. Stretched once more for each training in a row whose version was not
    promoted: the last ones found nothing better. Never beyond ``policy.max_backoff``.
    """
    base = policy.volume_class(state.weekly_items)
    factor, reasons = 1.0, [f"{state.weekly_items:.0f} new items a week"]
    slip = _slip(state, policy)
    if slip is not None:
        factor = policy.shorten
        reasons.append(slip)
    elif shows_no_loss(state, policy):
        factor = policy.backoff
        reasons.append("the model holds")
    if state.consecutive_rejections:
        factor *= policy.backoff ** min(state.consecutive_rejections, MAX_STEPS)
        reasons.append(
            "the last training was no better"
            if state.consecutive_rejections == 1
            else f"{state.consecutive_rejections} were no better"
        )
    factor = min(factor, policy.max_backoff)
    return Cadence(base.days * factor, base.samples, factor, "; ".join(reasons))


def shows_no_loss(state: CollectedState, policy: Policy) -> bool:
    """Whether matured outcomes are plentiful and show no loss."""
    found = state.degradation
    return (
        found is not None
        and found.status == "stable"
        and RANK[found.severity] == 0
        and found.outcomes >= policy.performance_outcomes
    )


def _slip(state: CollectedState, policy: Policy) -> str | None:
    found = state.degradation
    if found is not None and RANK[found.severity]:
        return f"the loss has risen ({found.severity})"
    if state.quality is not None and state.quality < policy.quality_floor:
        return f"data quality is {state.quality:.0f} of 100"
    return None


def quiet_hours(counts_by_hour: Sequence[int], length: int = QUIET_HOURS) -> tuple[int, ...]:
    """The ``length`` hours in a row, around midnight too, with the least traffic; the earliest start of equals.

    Parameters
    ----------
    counts_by_hour
        24 counts, of the hours 0 to 23 (UTC).

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
