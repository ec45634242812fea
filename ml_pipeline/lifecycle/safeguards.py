"""What can block a retraining that has a trigger; each safeguard is recorded with its numbers, passed or not."""

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

BY_HAND = frozenset(
    {"master_flag", "model_flag", "tenant_flag", "cool_down", "retry", "rollback_cool_down", "off_peak", "watch"}
)
BY_CRITICAL = frozenset({"cool_down", "off_peak"})
REPORTED = ("degradation", "drift")
MOST_DOUBLINGS = 3


@dataclass(frozen=True)
class Safeguard:
    """One condition: ``value`` as it is, ``needed`` as it must be, and what that means.

    ``overridden`` says who lets the retraining start although the condition is not met: a person or a CRITICAL trigger.
    """

    name: str
    passed: bool
    value: Value
    needed: Value
    sentence: str
    overridden: Literal["manual", "CRITICAL"] | None = None

    @property
    def blocks(self) -> bool:
        return not self.passed and self.overridden is None


def check(state: State, policy: Policy, trigger: AnyTrigger, severity: Severity | None) -> tuple[Safeguard, ...]:
    """Every safeguard that applies to the trigger, with those overridden that a person or CRITICAL may overrule.

    A person overrules flags, cool-downs, off-peak hours and an undecided watch; nobody overrules a run under way, too
    few samples and the fleet's budget. CRITICAL overrules the cool-down and off-peak hours, and the watch once it has
    had ``policy.watch_days`` to roll back; but not the cool-down after a rollback: the same data would bring the same
    bad version back.
    """
    checks = [*_FLAGS, _cool_down, _retry, _rollback_cool_down, _samples, _active_run, _off_peak, _budget]
    found = [judge(state, policy) for judge in checks]
    if policy.watch_days is not None:
        found.append(_watch(state, policy.watch_days))
    if trigger in REPORTED:
        found += [_severity(severity, policy), _new_labels(state, policy)]
    if trigger != "manual" and state.labels_since_change is not None:
        found.append(_since_change(state.labels_since_change, state, policy))
    if trigger == "drift" and policy.require_performance_impact:
        found.append(_performance_impact(state, policy))
    critical = BY_CRITICAL | {"watch"} if _watched_long_enough(state, policy) else BY_CRITICAL
    return tuple(_overridden(guard, trigger, severity, critical) for guard in found)


def _overridden(
    guard: Safeguard, trigger: AnyTrigger, severity: Severity | None, critical: frozenset[str]
) -> Safeguard:
    if guard.passed:
        return guard
    if trigger == "manual" and guard.name in BY_HAND:
        return replace(guard, overridden="manual")
    if trigger in REPORTED and severity == "CRITICAL" and guard.name in critical:
        return replace(guard, overridden="CRITICAL")
    return guard


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


def _cool_down(state: State, policy: Policy) -> Safeguard:
    needed = policy.cooldown_days
    if state.last_fit is None:
        return Safeguard("cool_down", True, None, needed, "nothing was trained before")
    days = state.days_since(state.last_fit.at)
    sentence = f"{days:.1f} of {needed:g} days since the last {_named(state.last_fit.action)}"
    sentence += _ahead(state.last_fit.at, state)
    return Safeguard("cool_down", days >= needed, days, needed, sentence)


def _ahead(moment: datetime, state: State) -> str:
    """What is said of a time that has not come; no more than a day is counted so, what is dated later is left out."""
    return f", which is dated {moment:%Y-%m-%d %H:%M}: the clock has gone back" if moment > state.now else ""


def _named(action: str) -> str:
    return "training" if action == "train" else "update"


def _retry(state: State, policy: Policy) -> Safeguard:
    needed = policy.retry_days
    if state.last_attempt is None:
        return Safeguard("retry", True, None, needed, "no run was started before")
    days = state.days_since(state.last_attempt)
    sentence = f"{days:.1f} of {needed:g} days since a run was started{_ahead(state.last_attempt, state)}"
    return Safeguard("retry", days >= needed, days, needed, sentence)


def _rollback_cool_down(state: State, policy: Policy) -> Safeguard:
    needed = policy.rollback_cooldown_days
    if state.rolled_back_at is None:
        return Safeguard("rollback_cool_down", True, None, needed, "nothing was rolled back")
    days = state.days_since(state.rolled_back_at)
    sentence = f"{days:.1f} of {needed:g} days since a rollback{_ahead(state.rolled_back_at, state)}"
    return Safeguard("rollback_cool_down", days >= needed, days, needed, sentence)


def _samples(state: State, policy: Policy) -> Safeguard:
    passed = state.matured >= policy.min_samples
    sentence = f"{state.matured} of {policy.min_samples} matured labels"
    return Safeguard("samples", passed, state.matured, policy.min_samples, sentence)


def _active_run(state: State, policy: Policy) -> Safeguard:
    runs = state.active_runs
    sentence = f"{runs or 'no'} run{'' if runs == 1 else 's'} under way for this tenant and model"
    return Safeguard("active_run", runs == 0, runs, 0, sentence)


def _off_peak(state: State, policy: Policy) -> Safeguard:
    hours = policy.off_peak if policy.off_peak is not None else state.quiet_hours
    hour = state.now.hour
    if hours is None:
        return Safeguard("off_peak", True, hour, None, "no off-peak hours are set and no traffic is known")
    passed = hour in hours
    needed = f"{hours[0]}:00-{(hours[-1] + 1) % 24}:00" if _in_a_row(hours) else ", ".join(map(str, hours))
    where = "in" if passed else "outside"
    return Safeguard("off_peak", passed, hour, needed, f"{hour}:00 UTC is {where} the off-peak hours {needed}")


def _in_a_row(hours: tuple[int, ...]) -> bool:
    return all((first + 1) % 24 == second for first, second in pairwise(hours))


def _budget(state: State, policy: Policy) -> Safeguard:
    running, limit = state.fleet_trainings, policy.concurrent
    sentence = f"{running} of {limit} trainings under way in the fleet"
    return Safeguard("budget", running < limit, running, limit, sentence)


def _watch(state: State, first_days: float) -> Safeguard:
    sentence = "no watch is undecided"
    if state.watching:
        sentence = f"the watch over the newest version is undecided (after {first_days:g} days, CRITICAL passes)"
    return Safeguard("watch", not state.watching, state.watching, False, sentence)


def _watched_long_enough(state: State, policy: Policy) -> bool:
    if state.champion is None or policy.watch_days is None:
        return False
    return state.days_since(state.champion.deployed_at) >= policy.watch_days


def _severity(severity: Severity | None, policy: Policy) -> Safeguard:
    passed = RANK[severity] >= RANK[policy.min_severity]
    sentence = f"severity is {severity or 'none'}, needed {policy.min_severity} or more"
    return Safeguard("severity", passed, severity, policy.min_severity, sentence)


def _since_change(labels: int, state: State, policy: Policy) -> Safeguard:
    """What came before a change teaches what is no longer so: a training waits for enough that came after it.

    A version that is hardly better meanwhile would only make the loss of today the one that is expected. A tenant with
    little to learn from is not made to wait for ever.
    """
    needed = policy.min_samples
    since = state.degradation.since if state.degradation is not None else None
    days = 0.0 if since is None else state.days_since(datetime.combine(since, time(), UTC))
    passed = labels >= needed or days >= policy.change_days
    sentence = (
        f"{labels} of {needed} matured labels of what came since the outcomes changed on {since}, "
        f"{days:.0f} of at most {policy.change_days:g} days ago"
    )
    return Safeguard("since_change", passed, labels, needed, sentence)


def _new_labels(state: State, policy: Policy) -> Safeguard:
    """Twice as many for each rejected training: what so few labels did not teach needs more labels."""
    new, needed = state.new_labels, policy.min_new_labels * 2 ** min(state.consecutive_rejections, MOST_DOUBLINGS)
    sentence = f"{new} of {needed} labels that the last fit did not know"
    return Safeguard("new_labels", new >= needed, new, needed, sentence)


def _performance_impact(state: State, policy: Policy) -> Safeguard:
    """Drift alone costs nothing: it retrains where outcomes are not in yet, or show a loss."""
    found, needed = state.degradation, policy.performance_outcomes
    outcomes = 0 if found is None else found.outcomes
    if shows_no_loss(state, policy):
        return Safeguard("performance_impact", False, outcomes, needed, f"{outcomes} matured outcomes show no loss")
    if found is not None and RANK[found.severity]:
        return Safeguard(
            "performance_impact", True, outcomes, needed, f"the loss has risen on {outcomes} matured outcomes"
        )
    return Safeguard(
        "performance_impact",
        True,
        outcomes,
        needed,
        f"{outcomes} matured outcomes, too few to show that nothing is lost",
    )
