"""Retraining decision: a pure function from the state of a tenant's model and a policy to a decision with reasons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal, NamedTuple

from ml_pipeline.lifecycle.policy import Policy
from ml_pipeline.lifecycle.safeguards import AnyTrigger, Safeguard, check
from ml_pipeline.lifecycle.schedule import adaptive_cadence
from ml_pipeline.lifecycle.state import (
    Action,
    Champion,
    CollectedState,
    DegradationFinding,
    DriftFinding,
    Flags,
    LastFit,
    Request,
    State,
)
from ml_pipeline.severity import Severity
from ml_pipeline.timeutil import DAY

__all__ = [
    "Champion",
    "CollectedState",
    "DegradationFinding",
    "DriftFinding",
    "Flags",
    "LastFit",
    "Policy",
    "Request",
    "RetrainingDecision",
    "Safeguard",
    "State",
    "calls_for_decision",
    "decide",
]


@dataclass(frozen=True)
class RetrainingDecision:
    """Result of :func:`decide`: retrain now, blocked by safeguards, or no trigger. All ``numbers`` are JSON values.

    ``action`` is ``train``, or ``update`` for the trigger ``volume``: a warm start that adds trees to the champion.
    """

    verdict: Literal["retrain", "blocked", "none"]
    action: Action | None
    trigger: AnyTrigger | None
    severity: Severity | None
    safeguards: tuple[Safeguard, ...]
    reason: str
    numbers: dict[str, Any]

    @property
    def blocked_by(self) -> tuple[str, ...]:
        """Names of the safeguards that block the retraining."""
        return tuple(guard.name for guard in self.safeguards if guard.blocks)


class _Occasion(NamedTuple):
    """A trigger that applies, with the sentence that explains it."""

    trigger: AnyTrigger
    action: Action
    severity: Severity | None
    sentence: str


def decide(state: State, policy: Policy) -> RetrainingDecision:
    """Decide whether ``policy`` retrains in ``state``.

    The triggers, in order of urgency, are a person's request, degradation, drift, schedule and volume. The first one
    whose safeguards all pass or are overridden starts the retraining. If there is none, the most urgent trigger is
    blocked. A report is a trigger only if it is newer than the last fit, which already used its data, and not dated
    after now (the clock may have been set back).

    Parameters
    ----------
    state : State
        What is known about the tenant and the model. Who decides for many tenants at once must count each ``retrain``
        in ``fleet_trainings`` of the next state.
    policy : Policy
        Triggers, schedule and limits.

    Returns
    -------
    RetrainingDecision
        Verdict, trigger, safeguards, the reason as text, and the numbers.

    >>> from datetime import datetime, timezone
    >>> now = datetime(2026, 3, 1, tzinfo=timezone.utc)
    >>> state = State("acme", "story_points", now, matured=40, new_labels=40, new_labels_since_training=40,
    ...     weekly_items=60.0, flags=Flags(True, True, True))
    >>> decide(state, Policy()).reason
    'Blocked: schedule. There is no version yet. Blocked by samples: 40 of 100 matured labels.'
    """
    occasions = list(_occasions(state, policy))
    decisions = [_decide(state, policy, occasion) for occasion in occasions]
    if not decisions:
        numbers = _numbers(state, policy, (), [])
        return RetrainingDecision("none", None, None, None, (), _reason_without_trigger(state, policy), numbers)
    return next((decision for decision in decisions if decision.verdict == "retrain"), decisions[0])


def calls_for_decision(state: CollectedState, policy: Policy) -> bool:
    """Whether there is a trigger. Schedule and volume do not count if automatic retraining is off."""
    most_urgent = next(_occasions(state, policy), None)
    return most_urgent is not None and (all(state.flags) or most_urgent.trigger not in ("schedule", "volume"))


def _occasions(state: CollectedState, policy: Policy) -> Iterator[_Occasion]:
    if state.request is not None:
        why = f": {state.request.reason}" if state.request.reason else ""
        yield _Occasion("manual", "train", None, f"Requested by {state.request.by}{why}.")
    if "degradation" in policy.triggers:
        yield from _degradation(state, policy)
    if "drift" in policy.triggers:
        yield from _drift(state, policy)
    if "schedule" in policy.triggers:
        yield from _schedule(state, policy)
    if "volume" in policy.triggers:
        yield from _volume(state, policy)


def _degradation(state: CollectedState, policy: Policy) -> Iterator[_Occasion]:
    found = state.degradation
    if found is None or found.severity is None or not _is_news(state, policy, found.day):
        return
    rise = "has risen" if found.rise is None else f"has risen by {found.rise:.0%}"
    since = f" since {found.since}" if found.since else ""
    yield _Occasion("degradation", "train", found.severity, f"The loss {rise} on {found.outcomes} outcomes{since}.")


def _drift(state: CollectedState, policy: Policy) -> Iterator[_Occasion]:
    found = state.drift
    if found is None or found.status != "drift" or not _is_news(state, policy, found.day):
        return
    if not found.alert and found.severity is None:  # one or two of many columns, as in most weeks of a real tenant
        return
    score = "" if found.score is None else f" with a score of {found.score:.2f}"
    sentence = f"Drift on {found.day}{score}" + (f": {found.reason}" if found.reason else "")
    yield _Occasion("drift", "train", found.severity, sentence.rstrip(".") + ".")


def _is_news(state: CollectedState, policy: Policy, day: date) -> bool:
    """Whether a report is not dated after now, not too old, and newer than the last fit."""
    end = datetime.combine(day, time(), UTC) + DAY
    past = datetime.combine(day, time(), UTC) <= state.now
    young = state.now - end <= timedelta(days=policy.report_days)
    return past and young and (state.last_fit is None or end > state.last_fit.at)


def _schedule(state: CollectedState, policy: Policy) -> Iterator[_Occasion]:
    if state.last_training is None:
        if state.new_labels > 0:
            sentence = "There is no version yet." if state.champion is None else "No training is on record."
            yield _Occasion("schedule", "train", None, sentence)
        return
    interval = adaptive_cadence(state, policy)
    days = state.days_since(state.last_training.at)
    if days >= interval.days and state.new_labels_since_training >= interval.samples:
        new = f"{state.new_labels_since_training} new labels (needed {interval.samples})"
        sentence = f"{days:.1f} days since the last training (due after {interval.days:g}: {interval.why}), {new}."
        yield _Occasion("schedule", "train", None, sentence)


def _volume(state: CollectedState, policy: Policy) -> Iterator[_Occasion]:
    """Warm-start update on many new labels; not for a degraded model, and not after a rejected update."""
    found, fit = state.degradation, state.last_fit
    degrading = found is not None and found.severity is not None
    rejected = fit is not None and fit.action == "update" and not fit.promoted
    if state.champion is None or state.updates_left == 0 or degrading or rejected:
        return
    if state.new_labels >= policy.update_labels:
        sentence = f"{state.new_labels} new labels since the last fit (an update needs {policy.update_labels})."
        yield _Occasion("volume", "update", None, sentence)


def _decide(state: State, policy: Policy, occasion: _Occasion) -> RetrainingDecision:
    guards = check(state, policy, occasion.trigger, occasion.severity)
    blocking = [guard for guard in guards if guard.blocks]
    what = f"{occasion.trigger} {occasion.severity}" if occasion.severity else occasion.trigger
    numbers = _numbers(state, policy, guards, [guard.name for guard in blocking])
    if blocking:
        blockers = "; ".join(f"{guard.name}: {guard.sentence}" for guard in blocking)
        reason = f"Blocked: {what}. {occasion.sentence} Blocked by {blockers}."
        return RetrainingDecision("blocked", None, occasion.trigger, occasion.severity, guards, reason, numbers)
    overridden = [guard for guard in guards if guard.overridden]
    passed = f"All {len(guards)} safeguards passed."
    if overridden:
        named = "; ".join(f"{guard.name} by {guard.overridden} ({guard.sentence})" for guard in overridden)
        passed = f"{len(guards) - len(overridden)} of {len(guards)} safeguards passed, overridden: {named}."
    started = "Retrain" if occasion.action == "train" else "Update"
    reason = f"{started}: {what}. {occasion.sentence} {passed}"
    return RetrainingDecision("retrain", occasion.action, occasion.trigger, occasion.severity, guards, reason, numbers)


def _reason_without_trigger(state: State, policy: Policy) -> str:
    if "schedule" not in policy.triggers:
        return "No trigger."
    if state.last_training is None:
        return "No trigger: no label is known yet."
    interval = adaptive_cadence(state, policy)
    waited = f"{state.days_since(state.last_training.at):.1f} of {interval.days:g} days"
    labels = f"{state.new_labels_since_training} of {interval.samples} new labels"
    return f"No trigger; the schedule waits ({interval.why}): {waited} and {labels} since the last training."


def _numbers(state: State, policy: Policy, guards: tuple[Safeguard, ...], blocked_by: list[str]) -> dict[str, Any]:
    interval = adaptive_cadence(state, policy)
    drift, degradation = state.drift, state.degradation
    return {
        "policy": policy.name,
        "matured": state.matured,
        "new_labels": state.new_labels,
        "new_labels_since_training": state.new_labels_since_training,
        "weekly_items": state.weekly_items,
        "interval_days": interval.days,
        "interval_samples": interval.samples,
        "interval_factor": interval.factor,
        "days_since_training": state.days_since(state.last_training.at) if state.last_training else None,
        "drift_status": drift.status if drift else None,
        "drift_score": drift.score if drift else None,
        "rise": degradation.rise if degradation else None,
        "outcomes": degradation.outcomes if degradation else None,
        "quality": state.quality,
        "champion": state.champion.number if state.champion else None,
        "blocked_by": blocked_by,
        "safeguards": [asdict(guard) for guard in guards],
    }
