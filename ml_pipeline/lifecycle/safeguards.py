"""Safeguards: conditions that can block a retraining for which there is a trigger.

Every safeguard is recorded with its numbers, whether it passed or not. Most have a function of the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from itertools import pairwise
from typing import Literal

from ml_pipeline.lifecycle.policy import Policy
from ml_pipeline.lifecycle.schedule import shows_no_loss
from ml_pipeline.lifecycle.state import State
from ml_pipeline.severity import RANK, Severity

AnyTrigger = Literal["manual", "degradation", "drift", "schedule", "volume"]
Value = float | int | str | bool | None

# Safeguards that a person's request, or a CRITICAL trigger, overrides.
BY_HAND = frozenset(
    {"master_flag", "model_flag", "tenant_flag", "cool_down", "retry", "rollback_cool_down", "off_peak", "watch"}
)
BY_CRITICAL = frozenset({"cool_down", "off_peak"})
REPORTED = ("degradation", "drift")
MOST_DOUBLINGS = 3  # of the needed new labels


@dataclass(frozen=True)
class Safeguard:
    """Result of one condition: the actual ``value``, the ``needed`` value, and a sentence that explains both.

    ``overridden`` tells whether a person or a CRITICAL trigger lets the retraining start although the condition fails.
    """

    name: str
    passed: bool
    value: Value
    needed: Value
    sentence: str
    overridden: Literal["manual", "CRITICAL"] | None = None

    @property
    def blocks(self) -> bool:
        """Whether the condition fails and nobody overrides it."""
        return not self.passed and self.overridden is None


def check(state: State, policy: Policy, trigger: AnyTrigger, severity: Severity | None) -> tuple[Safeguard, ...]:
    """Check every safeguard that applies to the trigger.

    A person's request overrides flags, cool-downs, off-peak hours and an undecided rollback watch. Nothing overrides a
    run under way, too few samples, and the fleet's budget. A CRITICAL trigger overrides the cool-down and off-peak
    hours, and the watch after ``policy.watch_days``. It does not override the cool-down after a rollback, because the
    same data would lead to the same bad version.

    Parameters
    ----------
    state : State
        What is known about the tenant and the model.
    policy : Policy
        Limits of the safeguards.
    trigger : {"manual", "degradation", "drift", "schedule", "volume"}
        Why to retrain.
    severity : {"MEDIUM", "HIGH", "CRITICAL"} or None
        Severity of the trigger.

    Returns
    -------
    tuple of Safeguard
        Passed and failed ones; the failed ones with the override, if there is one.
    """
    checks = [*_FLAGS, cool_down, retry, rollback_cool_down, samples, active_run, off_peak, budget]
    found = [judge(state, policy) for judge in checks]
    watch_over = False
    if policy.watch_days is not None:
        champion = state.champion
        watch_over = champion is not None and state.days_since(champion.deployed_at) >= policy.watch_days
        sentence = "no rollback watch is undecided"
        if state.watching:
            sentence = (
                "the rollback watch of the newest version is undecided "
                f"(a CRITICAL trigger overrides it after {policy.watch_days:g} days)"
            )
        found.append(Safeguard("watch", not state.watching, state.watching, False, sentence))
    if trigger in REPORTED:
        sentence = f"severity is {severity or 'none'}, needed {policy.min_severity} or more"
        enough = RANK[severity] >= RANK[policy.min_severity]
        found.append(Safeguard("severity", enough, severity, policy.min_severity, sentence))
        found.append(new_labels(state, policy))
    if trigger != "manual" and state.labels_since_change is not None:
        found.append(since_change(state.labels_since_change, state, policy))
    if trigger == "drift" and policy.require_performance_impact:
        found.append(performance_impact(state, policy))
    overridden: tuple[Literal["manual", "CRITICAL"], frozenset[str]] | None = None
    if trigger == "manual":
        overridden = "manual", BY_HAND
    elif trigger in REPORTED and severity == "CRITICAL":
        overridden = "CRITICAL", BY_CRITICAL | {"watch"} if watch_over else BY_CRITICAL
    if overridden is None:
        return tuple(found)
    by, names = overridden
    return tuple(
        replace(guard, overridden=by) if not guard.passed and guard.name in names else guard for guard in found
    )


def _flag(
    name: str, what: Callable[[State], str], value: Callable[[State], bool]
) -> Callable[[State, Policy], Safeguard]:
    def judge(state: State, policy: Policy) -> Safeguard:
        on = value(state)
        return Safeguard(name, on, on, True, f"automatic retraining is {'on' if on else 'off'}{what(state)}")

    return judge


_FLAGS = (
    _flag("master_flag", lambda state: "", lambda state: state.flags.master),
    _flag("model_flag", lambda state: f" for model {state.model}", lambda state: state.flags.model),
    _flag("tenant_flag", lambda state: f" for tenant {state.tenant}", lambda state: state.flags.tenant),
)


def _pause(name: str, since: datetime, needed: float, event: str, state: State) -> Safeguard:
    """Whether ``needed`` days have passed since an event.

    A time after now means that the clock was set back. It counts as 0 days.
    """
    days = state.days_since(since)
    sentence = f"{days:.1f} of {needed:g} days since {event}"
    if since > state.now:
        sentence += f", which is dated {since:%Y-%m-%d %H:%M}: the clock was set back"
    return Safeguard(name, days >= needed, days, needed, sentence)


def cool_down(state: State, policy: Policy) -> Safeguard:
    """Days since the last fit."""
    fit, needed = state.last_fit, policy.cooldown_days
    if fit is None:
        return Safeguard("cool_down", True, None, needed, "there was no training before")
    return _pause("cool_down", fit.at, needed, f"the last {'training' if fit.action == 'train' else 'update'}", state)


def retry(state: State, policy: Policy) -> Safeguard:
    """Days since the last run was started, whatever its result."""
    needed = policy.retry_days
    if state.last_attempt is None:
        return Safeguard("retry", True, None, needed, "no run was started before")
    return _pause("retry", state.last_attempt, needed, "a run was started", state)


def rollback_cool_down(state: State, policy: Policy) -> Safeguard:
    """Days since the last rollback."""
    needed = policy.rollback_cooldown_days
    if state.rolled_back_at is None:
        return Safeguard("rollback_cool_down", True, None, needed, "there was no rollback")
    return _pause("rollback_cool_down", state.rolled_back_at, needed, "a rollback", state)


def samples(state: State, policy: Policy) -> Safeguard:
    """Matured labels that a training could use."""
    passed = state.matured >= policy.min_samples
    sentence = f"{state.matured} of {policy.min_samples} matured labels"
    return Safeguard("samples", passed, state.matured, policy.min_samples, sentence)


def active_run(state: State, policy: Policy) -> Safeguard:
    """Runs under way for the tenant and the model."""
    runs = state.active_runs
    sentence = f"{runs or 'no'} run{'' if runs == 1 else 's'} under way for this tenant and model"
    return Safeguard("active_run", runs == 0, runs, 0, sentence)


def off_peak(state: State, policy: Policy) -> Safeguard:
    """Hour (UTC) of now, which must be one of the policy's off-peak hours or of the tenant's quiet hours."""
    hours = policy.off_peak if policy.off_peak is not None else state.quiet_hours
    hour = state.now.hour
    if hours is None:
        return Safeguard("off_peak", True, hour, None, "no off-peak hours are set, and the tenant's traffic is unknown")
    in_a_row = all((first + 1) % 24 == second for first, second in pairwise(hours))
    needed = f"{hours[0]}:00-{(hours[-1] + 1) % 24}:00" if in_a_row else ", ".join(map(str, hours))
    passed = hour in hours
    where = "in" if passed else "outside"
    return Safeguard("off_peak", passed, hour, needed, f"{hour}:00 UTC is {where} the off-peak hours {needed}")


def budget(state: State, policy: Policy) -> Safeguard:
    """Trainings under way in the fleet."""
    running, limit = state.fleet_trainings, policy.concurrent
    sentence = f"{running} of {limit} trainings under way in the fleet"
    return Safeguard("budget", running < limit, running, limit, sentence)


def since_change(labels: int, state: State, policy: Policy) -> Safeguard:
    """Matured labels of entities that arrived after the outcomes changed.

    Older rows describe a relation that no longer holds, so a training waits for enough post-change labels. An earlier
    version would hardly be better, and its high loss would become the expected one. After ``policy.change_days`` a
    training no longer waits, so that tenants with little data are retrained too.
    """
    needed = policy.min_samples
    since = state.degradation.since if state.degradation is not None else None
    days = 0.0 if since is None else state.days_since(datetime.combine(since, time(), UTC))
    passed = labels >= needed or days >= policy.change_days
    sentence = (
        f"{labels} of {needed} matured labels of entities that arrived since the outcomes changed on {since}, "
        f"{days:.0f} of at most {policy.change_days:g} days ago"
    )
    return Safeguard("since_change", passed, labels, needed, sentence)


def new_labels(state: State, policy: Policy) -> Safeguard:
    """Labels that became known after the last fit. Each rejected training in a row doubles the needed number."""
    new, needed = state.new_labels, policy.min_new_labels * 2 ** min(state.consecutive_rejections, MOST_DOUBLINGS)
    sentence = f"{new} of {needed} labels that became known after the last fit"
    return Safeguard("new_labels", new >= needed, new, needed, sentence)


def performance_impact(state: State, policy: Policy) -> Safeguard:
    """Whether drift may have raised the loss: it blocks if enough matured outcomes show no rise."""
    found, needed = state.degradation, policy.performance_outcomes
    outcomes = 0 if found is None else found.outcomes
    blocked = shows_no_loss(state, policy)
    if blocked:
        sentence = f"{outcomes} matured outcomes show no rise of the loss"
    elif found is not None and RANK[found.severity]:
        sentence = f"the loss has risen on {outcomes} matured outcomes"
    else:
        sentence = f"{outcomes} matured outcomes, too few to rule out a rise of the loss"
    return Safeguard("performance_impact", not blocked, outcomes, needed, sentence)
