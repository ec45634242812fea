"""The retraining policy: what triggers a training, what blocks it, and what it says."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_pipeline.lifecycle.policy import BUILT_IN, PolicyError, VolumeClass, find_policy, load_policy
from ml_pipeline.lifecycle.retraining import (
    Champion,
    DegradationFinding,
    DriftFinding,
    Flags,
    LastFit,
    Policy,
    Request,
    State,
    decide,
)
from ml_pipeline.lifecycle.schedule import adaptive_cadence, quiet_hours

NOW = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
YESTERDAY = dt.date(2026, 3, 1)
ON = Flags(True, True, True)


def days_ago(days: float) -> dt.datetime:
    return NOW - dt.timedelta(days=days)


def trained(days: float, promoted: bool = True) -> dict:
    fit = LastFit(days_ago(days), "train", promoted)
    return {"last_fit": fit, "last_training": fit}


QUIET = State(
    tenant="acme",
    model="story_points",
    now=NOW,
    matured=400,
    new_labels=60,
    new_labels_since_training=60,
    weekly_items=60.0,
    flags=ON,
    champion=Champion(1, days_ago(10), days_ago(10)),
    **trained(10),
)
DEGRADED = DegradationFinding(YESTERDAY, "degraded", "HIGH", 0.14, dt.date(2026, 2, 20), 120)
STABLE = DegradationFinding(YESTERDAY, "stable", None, 0.0, None, 120)
DRIFTED = DriftFinding(YESTERDAY, "drift", "HIGH", 0.31, True, "2 of 20 columns moved")


def state(**changes) -> State:
    return dataclasses.replace(QUIET, **changes)


def test_without_a_cause_nothing_is_done_and_the_reason_says_what_the_schedule_waits_for():
    decision = decide(QUIET, Policy())
    assert (decision.verdict, decision.action, decision.trigger) == ("none", None, None)
    assert decision.reason == (
        "No trigger; the schedule waits (60 new items a week): 10.0 of 7 days and 60 of 100 new labels since the last "
        "training."
    )


def test_degradation_retrains_and_names_its_numbers():
    decision = decide(state(degradation=DEGRADED), Policy())
    assert (decision.verdict, decision.action, decision.trigger, decision.severity) == (
        "retrain",
        "train",
        "degradation",
        "HIGH",
    )
    assert decision.reason == (
        "Retrain: degradation HIGH. The loss has risen by 14% on 120 outcomes since 2026-02-20. "
        "All 13 safeguards passed."
    )


def test_drift_without_harm_is_held_and_says_why():
    decision = decide(state(drift=DRIFTED, degradation=STABLE), Policy())
    assert (decision.verdict, decision.blocked_by) == ("blocked", ("performance_impact",))
    assert decision.reason == (
        "Blocked: drift HIGH. Drift on 2026-03-01 with a score of 0.31: 2 of 20 columns moved. "
        "Blocked by performance_impact: 120 matured outcomes show no rise of the loss."
    )


def test_a_drift_without_alert_and_severity_is_no_cause():
    mild = dataclasses.replace(DRIFTED, severity=None, alert=False)
    assert decide(state(drift=mild), Policy()).verdict == "none"
    assert decide(state(drift=dataclasses.replace(mild, alert=True)), Policy()).blocked_by == ("severity",)


@pytest.mark.parametrize(
    "degradation",
    [
        None,
        dataclasses.replace(STABLE, status="insufficient_data", rise=None, outcomes=12),
        dataclasses.replace(STABLE, outcomes=29),
        dataclasses.replace(DEGRADED, severity="MEDIUM", rise=0.06),
    ],
)
def test_drift_retrains_where_outcomes_are_not_in_yet_or_show_a_loss(degradation):
    decision = decide(state(drift=DRIFTED, degradation=degradation), Policy())
    assert (decision.verdict, decision.trigger) == ("retrain", "drift")


@pytest.mark.parametrize(
    ("changes", "guard"),
    [
        ({"flags": Flags(False, True, True)}, "master_flag"),
        ({"flags": Flags(True, False, True)}, "model_flag"),
        ({"flags": Flags(True, True, False)}, "tenant_flag"),
        (trained(6.9), "cool_down"),
        ({"last_attempt": days_ago(0.5)}, "retry"),
        ({"rolled_back_at": days_ago(3)}, "rollback_cool_down"),
        ({"matured": 99}, "samples"),
        ({"active_runs": 1}, "active_run"),
        ({"quiet_hours": (2, 3, 4)}, "off_peak"),
        ({"fleet_trainings": 5}, "budget"),
        ({"watching": True}, "watch"),
        ({"new_labels": 24}, "new_labels"),
        ({"new_labels": 49, "consecutive_rejections": 1}, "new_labels"),
        ({"labels_since_change": 99}, "since_change"),
        ({"degradation": dataclasses.replace(DEGRADED, severity="MEDIUM", rise=0.06)}, "severity"),
    ],
)
def test_each_safeguard_alone_holds_a_degradation(changes: dict, guard: str):
    decision = decide(state(**({"degradation": DEGRADED} | changes)), Policy())
    assert (decision.verdict, decision.action, decision.blocked_by) == ("blocked", None, (guard,))
    assert f"Blocked by {guard}: " in decision.reason


@pytest.mark.parametrize("changes", [trained(1), {"quiet_hours": (2, 3, 4)}])
def test_a_critical_degradation_passes_cool_down_and_off_peak_hours_and_says_so(changes: dict):
    critical = dataclasses.replace(DEGRADED, severity="CRITICAL", rise=0.5)
    decision = decide(state(degradation=critical, **changes), Policy())
    assert decision.verdict == "retrain"
    assert "12 of 13 safeguards passed, overridden: " in decision.reason
    assert "by CRITICAL" in decision.reason


def test_a_critical_degradation_waits_for_the_watch_only_as_long_as_a_rollback_may_take():
    critical = dataclasses.replace(DEGRADED, severity="CRITICAL", rise=0.5)
    young = state(degradation=critical, watching=True, champion=Champion(2, days_ago(2), days_ago(2)), **trained(2))
    assert decide(young, Policy()).blocked_by == ("watch",)
    old = dataclasses.replace(young, champion=Champion(2, days_ago(3), days_ago(3)))
    assert (decide(old, Policy()).verdict, decide(old, Policy()).trigger) == ("retrain", "degradation")


def test_a_critical_degradation_does_not_bring_back_what_was_rolled_back():
    critical = dataclasses.replace(DEGRADED, severity="CRITICAL", rise=0.5)
    decision = decide(state(degradation=critical, rolled_back_at=days_ago(1)), Policy())
    assert decision.blocked_by == ("rollback_cool_down",)


def test_a_person_overrules_flags_cool_downs_and_hours_but_not_a_run_or_too_few_samples():
    asked = state(request=Request("ann", "a new team"), flags=Flags(), rolled_back_at=NOW, **trained(1))
    decision = decide(dataclasses.replace(asked, quiet_hours=(5,)), Policy())
    assert (decision.verdict, decision.trigger) == ("retrain", "manual")
    assert decision.reason.startswith("Retrain: manual. Requested by ann: a new team.")
    assert {guard.name for guard in decision.safeguards if guard.overridden == "manual"} == {
        "master_flag",
        "model_flag",
        "tenant_flag",
        "cool_down",
        "rollback_cool_down",
        "off_peak",
    }
    held = decide(dataclasses.replace(asked, active_runs=1, matured=50, watching=True, fleet_trainings=9), Policy())
    assert held.blocked_by == ("samples", "active_run", "budget")


@pytest.mark.parametrize(
    ("weekly", "days", "samples"),
    [(50.0, 7, 100), (49.9, 14, 50), (20.0, 14, 50), (19.9, 30, 25), (0.0, 30, 25)],
)
def test_the_schedule_follows_the_weekly_volume(weekly: float, days: int, samples: int):
    due = state(weekly_items=weekly, new_labels_since_training=samples, new_labels=samples - 1, **trained(days))
    assert decide(due, Policy()).trigger == "schedule"
    early = dataclasses.replace(due, **trained(days - 0.1))
    assert decide(early, Policy()).verdict == "none"
    few = dataclasses.replace(due, new_labels_since_training=samples - 1)
    assert decide(few, Policy()).verdict == "none"


def test_the_interval_is_stretched_while_the_model_holds_and_after_each_training_in_vain():
    assert adaptive_cadence(QUIET, Policy()).days == 7
    assert adaptive_cadence(state(degradation=STABLE), Policy()).days == 10.5
    assert adaptive_cadence(state(consecutive_rejections=1), Policy()).days == 10.5
    assert adaptive_cadence(state(degradation=STABLE, consecutive_rejections=1), Policy()).days == 14
    assert adaptive_cadence(state(degradation=STABLE, consecutive_rejections=9999), Policy()).days == 14


def test_a_model_that_takes_up_outcomes_every_night_is_retrained_quarterly():
    cadence = adaptive_cadence(state(is_online=True), Policy())
    assert cadence.days == 91
    assert "it takes up outcomes every night" in cadence.why
    assert adaptive_cadence(state(is_online=True), find_policy("weekly")).days == 7


@pytest.mark.parametrize(
    "changes",
    [{"quality": 60.0}, {"degradation": dataclasses.replace(DEGRADED, severity="MEDIUM", rise=0.06)}],
)
def test_the_interval_is_shortened_when_quality_or_performance_slips(changes: dict):
    assert adaptive_cadence(state(**changes), Policy()).days == 3.5


def test_a_hundred_new_labels_make_an_update_between_trainings():
    held = state(degradation=STABLE, new_labels=100, new_labels_since_training=100)
    decision = decide(held, Policy())
    assert (decision.verdict, decision.action, decision.trigger) == ("retrain", "update", "volume")
    assert decide(dataclasses.replace(held, new_labels=99), Policy()).verdict == "none"
    nobody = dataclasses.replace(held, champion=None)
    assert decide(nobody, Policy()).verdict == "none"
    exhausted = dataclasses.replace(held, updates_left=0)
    assert decide(exhausted, Policy()).verdict == "none"


def test_no_update_goes_on_with_a_model_that_degrades_or_after_an_update_in_vain():
    held = state(degradation=STABLE, new_labels=100, new_labels_since_training=100)
    mild = dataclasses.replace(DEGRADED, severity="MEDIUM", rise=0.06)
    assert decide(dataclasses.replace(held, degradation=mild, **trained(3)), Policy()).trigger == "degradation"
    assert "volume" not in decide(dataclasses.replace(held, degradation=mild, **trained(3)), Policy()).reason
    rejected = LastFit(days_ago(8), "update", promoted=False)
    assert (
        decide(
            dataclasses.replace(held, last_fit=rejected, **{"last_training": LastFit(days_ago(9))}), Policy()
        ).verdict
        == "none"
    )


def test_an_update_does_not_put_off_the_next_training():
    update = LastFit(days_ago(7), "update")
    after = state(last_fit=update, last_training=LastFit(days_ago(14)), new_labels_since_training=200)
    assert decide(dataclasses.replace(after, degradation=STABLE), Policy()).trigger == "schedule"


def test_a_cause_that_is_held_does_not_keep_another_from_retraining():
    due = state(drift=DRIFTED, degradation=STABLE, new_labels_since_training=120, **trained(14))
    assert (decide(due, Policy()).verdict, decide(due, Policy()).trigger) == ("retrain", "schedule")


def test_a_tenant_without_a_version_is_trained_once_it_has_enough_labels():
    first = state(champion=None, last_fit=None, last_training=None, new_labels=40, matured=40)
    assert decide(first, Policy()).blocked_by == ("samples",)
    assert decide(dataclasses.replace(first, new_labels=100, matured=100), Policy()).verdict == "retrain"
    assert decide(dataclasses.replace(first, new_labels=0, matured=0), Policy()).verdict == "none"


def test_a_report_from_before_the_newest_fit_is_no_cause():
    old = dataclasses.replace(DEGRADED, day=YESTERDAY - dt.timedelta(days=8))
    assert decide(state(degradation=old, **trained(7)), Policy()).verdict == "none"
    assert decide(state(degradation=old, **trained(8.5)), Policy()).verdict == "retrain"


def test_a_clock_that_went_back_holds_and_makes_no_cause_of_reports_of_the_future():
    later = LastFit(NOW + dt.timedelta(days=5))
    back = state(last_fit=later, last_training=later, new_labels_since_training=500)
    assert decide(dataclasses.replace(back, degradation=DEGRADED), Policy()).verdict == "none"
    due = decide(dataclasses.replace(back, new_labels=500), Policy())
    assert due.blocked_by == ("cool_down",)
    assert "the clock was set back" in due.reason
    tomorrow = dataclasses.replace(DEGRADED, day=NOW.date() + dt.timedelta(days=1))
    assert decide(state(degradation=tomorrow), Policy()).verdict == "none"


def test_a_time_without_a_zone_is_refused_with_tenant_and_remedy():
    with pytest.raises(ValueError, match=r"tenant acme, model story_points: now is 2026-03-02T00.* Give it in UTC"):
        state(now=NOW.replace(tzinfo=None))


def test_quiet_hours_are_those_in_a_row_with_the_least_traffic():
    office = [0] * 7 + [50] * 12 + [5] * 5
    assert quiet_hours(office) == (23, 0, 1, 2, 3, 4, 5, 6)
    assert quiet_hours([1] * 24) == tuple(range(8))
    with pytest.raises(ValueError, match="got 3 counts"):
        quiet_hours([1, 2, 3])


def test_a_policy_file_changes_what_it_names_and_keeps_the_rest(tmp_path: Path):
    path = tmp_path / "calm.yaml"
    path.write_text("cooldown_days: 14\ntriggers: [degradation]\noff_peak: [22, 23, 0]\n")
    policy = load_policy(path)
    assert (policy.name, policy.cooldown_days, policy.triggers, policy.min_samples) == (
        "calm",
        14,
        ("degradation",),
        100,
    )
    assert find_policy(str(path)) == policy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("cooldown: 14", "cooldown is not a parameter (value 14). Remove it; the parameters are name, triggers"),
        ("cooldown_days: -1", "cooldown_days: -1: Input should be greater than or equal to 0"),
        ("backoff: 9", "max_backoff (2) is less than backoff (9). Increase it"),
        ("off_peak: [25]", "off_peak: [25]: needs at least one hour; hours are from 0 to 23"),
        (
            "schedule: [{weekly_items: 5, days: 1, samples: 1}]",
            "needs classes with different weekly_items; one class must have 0",
        ),
        ("schedule: [{weekly_items: 0, days: 1}]", "schedule.0.samples: is missing. Add it"),
        ("- a", "contains list. Write a mapping of parameters"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_wrong_policy_file_is_refused_with_key_and_value(tmp_path: Path, content: str, message: str):
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    with pytest.raises(PolicyError) as raised:
        load_policy(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)


def test_a_name_that_is_neither_policy_nor_file_is_answered_with_the_known_ones():
    with pytest.raises(PolicyError, match=r"policy 'weekley' does not exist.*product, never, weekly"):
        find_policy("weekley")


def test_the_simple_policies_do_what_their_names_say():
    due = state(new_labels=1, new_labels_since_training=1, degradation=DEGRADED, drift=DRIFTED)
    at = {
        name: [days for days in (1, 7, 28) if decide(dataclasses.replace(due, **trained(days)), policy).trigger]
        for name, policy in BUILT_IN.items()
        if name in ("never", "weekly", "monthly", "every_batch")
    }
    assert at == {"never": [], "weekly": [7, 28], "monthly": [28], "every_batch": [1, 7, 28]}
    harmless = state(drift=DRIFTED, degradation=STABLE)
    assert decide(harmless, BUILT_IN["drift_only"]).trigger == "drift"
    assert decide(harmless, BUILT_IN["drift_only"]).verdict == "retrain"


severities = st.sampled_from([None, "MEDIUM", "HIGH", "CRITICAL"])
moments = st.none() | st.floats(-10, 120).map(days_ago)
recent_days = st.integers(-3, 30).map(lambda days: (NOW - dt.timedelta(days=days)).date())
fits = st.none() | st.builds(
    LastFit, st.floats(-10, 120).map(days_ago), st.sampled_from(["train", "update"]), st.booleans()
)
states = st.builds(
    State,
    tenant=st.just("acme"),
    model=st.just("story_points"),
    now=st.integers(0, 23).map(lambda hour: NOW.replace(hour=hour)),
    matured=st.integers(0, 300),
    new_labels=st.integers(0, 300),
    new_labels_since_training=st.integers(0, 300),
    weekly_items=st.floats(0, 200),
    flags=st.builds(Flags, st.booleans(), st.booleans(), st.booleans()) | st.just(ON),
    drift=st.none()
    | st.builds(
        DriftFinding,
        recent_days,
        st.sampled_from(["stable", "drift", "insufficient_data"]),
        severities,
        st.none() | st.floats(0, 1),
        st.booleans(),
    ),
    degradation=st.none()
    | st.builds(
        DegradationFinding,
        recent_days,
        st.sampled_from(["stable", "degraded", "insufficient_data"]),
        severities,
        st.none() | st.floats(-1, 2),
        st.none() | recent_days,
        st.integers(0, 500),
    ),
    champion=st.none() | st.just(Champion(1, days_ago(20), days_ago(20))),
    last_fit=fits,
    last_training=fits,
    consecutive_rejections=st.integers(0, 50),
    last_attempt=moments,
    active_runs=st.integers(0, 1),
    fleet_trainings=st.integers(0, 6),
    updates_left=st.none() | st.integers(0, 5),
    quality=st.none() | st.floats(0, 100),
    watching=st.booleans(),
    rolled_back_at=moments,
    quiet_hours=st.none() | st.just((22, 23, 0, 1, 2)),
    request=st.none() | st.just(Request("ann")),
)
policies = st.sampled_from(
    [*BUILT_IN.values(), Policy(cooldown_days=3, schedule=(VolumeClass(weekly_items=0, days=1, samples=1),))]
)


@given(states, policies)
def test_a_hold_names_a_safeguard_that_did_not_pass_and_a_retraining_has_none(state: State, policy: Policy):
    decision = decide(state, policy)
    if decision.verdict == "blocked":
        assert decision.blocked_by
        assert all(f"{name}: " in decision.reason for name in decision.blocked_by)
    else:
        assert not decision.blocked_by
    assert (decision.action is None) == (decision.verdict != "retrain")
    if decision.verdict == "retrain":
        assert all(guard.name in decision.reason for guard in decision.safeguards if guard.overridden)
    else:
        assert decision.trigger != "manual" or decision.blocked_by


@given(states, policies)
def test_no_two_fits_inside_a_cool_down_unless_critical_or_by_hand(state: State, policy: Policy):
    decision = decide(state, policy)
    if decision.verdict == "retrain" and state.last_fit is not None:
        inside = state.days_since(state.last_fit.at) < policy.cooldown_days
        assert not inside or decision.severity == "CRITICAL" or decision.trigger == "manual"


@given(states, policies)
def test_a_decision_is_the_same_twice_and_can_go_into_json(state: State, policy: Policy):
    decision = decide(state, policy)
    assert decide(state, policy) == decision
    json.dumps(dataclasses.asdict(decision), allow_nan=False)


@given(states, policies, st.integers(1, 100))
def test_more_labels_never_hold_what_fewer_let_pass(state: State, policy: Policy, more: int):
    richer = dataclasses.replace(
        state,
        matured=state.matured + more,
        new_labels=state.new_labels + more,
        new_labels_since_training=state.new_labels_since_training + more,
    )
    assert decide(state, policy).verdict != "retrain" or decide(richer, policy).verdict == "retrain"


@given(states, policies)
def test_a_flag_switched_off_or_an_active_run_never_starts_anything(state: State, policy: Policy):
    off = dataclasses.replace(state, flags=Flags(), request=None)
    assert decide(off, policy).verdict != "retrain"
    assert decide(dataclasses.replace(state, active_runs=1), policy).verdict != "retrain"


@given(states, policies, st.sampled_from(["MEDIUM", "HIGH", "CRITICAL"]))
def test_a_worse_degradation_never_holds_what_a_milder_one_let_pass(state: State, policy: Policy, severity):
    rank = {None: 0, "MEDIUM": 1, "HIGH": 2, "CRITICAL": 3}
    if state.degradation is None or rank[state.degradation.severity] >= rank[severity]:
        return
    worse = dataclasses.replace(state.degradation, severity=severity, status="degraded")
    if decide(state, policy).verdict == "retrain":
        assert decide(dataclasses.replace(state, degradation=worse), policy).verdict == "retrain"


@settings(deadline=None)
@given(st.lists(st.tuples(severities, st.integers(0, 40)), min_size=20, max_size=60))
def test_lived_day_by_day_fits_keep_the_cool_down_unless_critical(days):
    policy, current, fits = Policy(), QUIET, []
    for number, (severity, labels) in enumerate(days):
        now = NOW + dt.timedelta(days=number)
        found = DegradationFinding(now.date() - dt.timedelta(days=1), "degraded", severity, 0.1, None, 100)
        current = dataclasses.replace(
            current,
            now=now,
            degradation=found if severity else STABLE,
            new_labels=current.new_labels + labels,
            new_labels_since_training=current.new_labels_since_training + labels,
        )
        decision = decide(current, policy)
        if decision.action is not None:
            fits.append((now, decision.severity))
            fit = LastFit(now, decision.action)
            current = dataclasses.replace(current, last_fit=fit, last_attempt=now, new_labels=0)
            if decision.action == "train":
                current = dataclasses.replace(current, last_training=fit, new_labels_since_training=0)
    gaps = pairwise(fits)
    assert all((later - earlier).days >= 7 or severity == "CRITICAL" for (earlier, _), (later, severity) in gaps)
