"""From reports to decisions to runs: every reason is stored, nothing happens twice, and nothing decided is lost."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pandas as pd
import pytest

from ml_pipeline.lifecycle.retraining import Request
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.work.context import Clients
from ml_pipeline.work.retraining.decide import DONE, FAILED, Approved, SweepResult, decide_for, settle, waiting
from ml_pipeline.work.retraining.fleet_state import Running
from ml_pipeline.work.tenant_settings import EVERY_MODEL, write_setting
from ml_pipeline.work.training.task import STEPS, TrainingTask, run_training

NOW = dt.datetime(2026, 3, 1, 3, tzinfo=dt.UTC)  # day 59 of the tenants' history, at night
LOSS = {
    "status": "degraded",
    "severity": "HIGH",
    "rise": 0.5,
    "since": None,
    "outcomes": 60,
}


def report(tenant, day: dt.date, **values: Any) -> None:
    """A drift report of a day, quiet unless told otherwise."""
    quiet = {"status": "stable", "severity": None, "score": 0.0, "alert": False, "reason": "", "version": 1}
    counts = {"baseline_rows": 200, "current_rows": 42, "drifted": [], "columns": {}}
    performance = {"status": "stable", "severity": None, "rise": 0.0, "since": None, "outcomes": 60}
    row = {"tenant_id": tenant.name, "model": tenant.spec.name, "day": day, **quiet, **counts}
    warehouse = Warehouse(tenant.settings)
    with warehouse.tenant(tenant.name) as connection:
        warehouse.upsert(connection, tables.drift_reports, [row | {"performance": performance} | values])


def switched_on(tenant) -> None:
    write_setting(Warehouse(tenant.settings), tenant.name, EVERY_MODEL, "auto_retrain", True, "test")


def tick(tenant, now: dt.datetime = NOW, **arguments: Any) -> SweepResult:
    specs = {tenant.spec.name: tenant.spec}
    return decide_for(Clients(tenant.settings), specs, [tenant.name], now, **arguments)


def decisions(tenant) -> list[dict[str, Any]]:
    return tenant.rows(tables.decisions, kind="retrain")


@pytest.fixture
def serving(tenant, make_issues, as_known, start_from):
    """A tenant with a champion of day 45, and outcomes up to day 58."""

    def monitored() -> None:
        frame = make_issues(60)
        tenant.holds(as_known(frame, 45)).train(45)
        tenant.holds(as_known(frame, 59)).monitor(*range(45, 59))
        switched_on(tenant)

    start_from(monitored)
    return tenant


def test_a_loss_that_rose_is_approved_with_cause_scores_and_every_safeguard(serving):
    report(serving, dt.date(2026, 2, 28), performance=LOSS)
    (approved,) = tick(serving).approved
    (stored,) = decisions(serving)
    assert (stored["verdict"], stored["state"], stored["version"]) == ("retrain", "approved", 1)
    assert {guard["name"] for guard in stored["numbers"]["safeguards"]} >= {"master_flag", "cool_down", "budget"}
    assert (stored["numbers"]["trigger"], stored["numbers"]["since"]) == ("degradation", None)
    assert approved.tags["ml_pipeline/trigger"] == "degradation"
    assert '"rise": 0.5' in approved.tags["ml_pipeline/scores"]


def test_a_tick_that_is_played_again_decides_the_same_and_records_it_once(serving):
    report(serving, dt.date(2026, 2, 28), performance=LOSS)
    first = tick(serving)
    again = tick(serving, NOW + dt.timedelta(minutes=2))
    assert len(first.approved) == 1 and again.approved == []
    assert [decision.blocked_by for _, decision in again.blocked] == [("retry", "active_run")]
    assert [row["verdict"] for row in decisions(serving)] == ["retrain", "blocked"]
    tick(serving, NOW + dt.timedelta(minutes=4))
    assert len(decisions(serving)) == 2


def test_what_was_approved_waits_until_it_is_settled_and_the_first_word_counts(serving):
    report(serving, dt.date(2026, 2, 28), performance=LOSS)
    (approved,) = tick(serving).approved
    warehouse = Warehouse(serving.settings)
    assert waiting(warehouse) == [approved]
    settle(warehouse, serving.name, approved.decision_id, FAILED)
    settle(warehouse, serving.name, approved.decision_id, DONE)
    assert waiting(warehouse) == []
    assert decisions(serving)[0]["state"] == "failed"


def test_nobody_is_retrained_who_was_not_switched_on(serving):
    write_setting(Warehouse(serving.settings), serving.name, EVERY_MODEL, "auto_retrain", None, "test")
    report(serving, dt.date(2026, 2, 28), performance=LOSS)
    assert tick(serving).approved == []
    assert decisions(serving)[0]["numbers"]["blocked_by"] == ["tenant_flag"]


def test_a_model_can_be_switched_off_for_a_tenant_that_is_on(serving):
    write_setting(Warehouse(serving.settings), serving.name, serving.spec.name, "auto_retrain", False, "test")
    report(serving, dt.date(2026, 2, 28), performance=LOSS)
    assert tick(serving).approved == []


@pytest.mark.parametrize(
    ("changed", "guard"),
    [({"auto_retrain": "off"}, "master_flag"), ({"auto_retrain_models": ("lead_time",)}, "model_flag")],
)
def test_the_settings_of_the_installation_stand_above_the_tenants(serving, changed, guard):
    report(serving, dt.date(2026, 2, 28), performance=LOSS)
    settings = serving.settings.model_copy(update=changed)
    specs = {serving.spec.name: serving.spec}
    found = decide_for(Clients(settings), specs, [serving.name], NOW)
    assert [decision.blocked_by for _, decision in found.blocked] == [(guard,)]


def test_outcomes_that_changed_on_a_day_are_learnt_once_enough_of_what_came_since_is_known(serving):
    report(serving, dt.date(2026, 2, 28), performance=LOSS | {"since": "2026-02-14"})
    found = tick(serving)
    (stored,) = decisions(serving)
    assert (found.approved, stored["numbers"]["blocked_by"]) == ([], ["since_change"])
    expected = "0 of 100 matured labels of entities that arrived since the outcomes changed on 2026-02-14"
    assert expected in stored["reason"]


def test_harmless_drift_is_held_with_the_reason(serving):
    report(serving, dt.date(2026, 2, 28), status="drift", score=0.4, alert=True, reason="2 of 5 columns moved")
    ((_, decision),) = tick(serving).blocked
    assert decision.blocked_by == ("performance_impact",)
    assert "60 matured outcomes show no rise of the loss" in decisions(serving)[0]["reason"]


def test_hours_that_a_tenant_calls_off_peak_hold_what_is_not_critical(serving):
    write_setting(Warehouse(serving.settings), serving.name, EVERY_MODEL, "off_peak", "22-2", "test")
    report(serving, dt.date(2026, 2, 28), performance=LOSS)
    assert [decision.blocked_by for _, decision in tick(serving).blocked] == [("off_peak",)]
    report(serving, dt.date(2026, 2, 28), performance=LOSS | {"severity": "CRITICAL"})
    assert len(tick(serving).approved) == 1


def test_runs_under_way_block_the_same_tenant_and_model(serving):
    report(serving, dt.date(2026, 2, 28), performance=LOSS)
    found = tick(serving, running=Running({(serving.name, serving.spec.name): 1}))
    assert [decision.blocked_by for _, decision in found.blocked] == [("active_run",)]


def test_the_budget_of_the_fleet_goes_to_the_most_severe_first(serving, make_issues, as_known):
    frame, other = make_issues(60), serving.named("zeta")
    other.holds(as_known(frame, 45)).train(45)
    other.holds(as_known(frame, 59)).monitor(*range(45, 59))
    switched_on(other)
    report(serving, dt.date(2026, 2, 28), performance=LOSS)
    report(other, dt.date(2026, 2, 28), performance=LOSS | {"severity": "CRITICAL"})
    specs = {serving.spec.name: serving.spec}
    found = decide_for(Clients(serving.settings), specs, [serving.name, other.name], NOW, running=Running(fleet=4))
    assert [approved.tenant for approved in found.approved] == ["zeta"]
    assert [(state.tenant, decision.blocked_by) for state, decision in found.blocked] == [("acme", ("budget",))]


def test_an_update_goes_on_from_the_champion_and_the_version_says_so(serving):
    assert run(serving, "update", day=59).error is None
    newest = serving.versions()[-1]
    assert (newest.tags["action"], newest.tags["parent_version"]) == ("update", "1")


def run(tenant, action: str, day: int, decision: str = ""):
    task = tenant.task(day)
    return run_training(TrainingTask(task.settings, task.spec, task.tenant, task.as_of, STEPS, decision, action))


def test_the_run_of_an_approved_retraining_settles_it_and_names_it_in_mlflow(serving):
    report(serving, dt.date(2026, 2, 28), performance=LOSS)
    (approved,) = tick(serving).approved
    assert run(serving, "train", day=59, decision=str(approved.decision_id)).error is None
    newest = serving.versions()[-1]
    assert (newest.tags["trigger"], newest.tags["asked_by"]) == ("degradation", str(approved.decision_id))
    assert decisions(serving)[0]["state"] == "done"
    (judged,) = serving.rows(tables.decisions, kind="promote", version=newest.number)
    assert judged["numbers"]["action"] == "train"


def test_a_retraining_that_fails_is_settled_as_failed(serving, monkeypatch):
    report(serving, dt.date(2026, 2, 28), performance=LOSS)
    (approved,) = tick(serving).approved
    monkeypatch.setattr("ml_pipeline.work.training.task.train", lambda *_, **__: 1 / 0)
    assert "ZeroDivisionError" in str(run(serving, "train", 59, str(approved.decision_id)).error)
    assert decisions(serving)[0]["state"] == "failed"


def test_a_person_overrules_the_flags_and_is_named(serving):
    write_setting(Warehouse(serving.settings), serving.name, EVERY_MODEL, "auto_retrain", None, "test")
    (approved,) = tick(serving, request=Request("ann", "new tracker")).approved
    assert (approved.trigger, "Requested by ann: new tracker." in approved.reason) == ("manual", True)


def test_a_tenant_without_anything_has_no_cause(tenant):
    tenant.holds(pd.DataFrame({"issue_key": ["A-1"], "created_at": [pd.Timestamp("2026-01-01", tz="UTC")]}))
    switched_on(tenant)
    assert tick(tenant) == SweepResult(looked_at=1)


def test_the_product_policy_can_be_replaced_by_a_file(serving, tmp_path):
    (tmp_path / "calm.yaml").write_text("triggers: []\n")
    settings: Settings = serving.settings.model_copy(update={"policy": tmp_path / "calm.yaml"})
    report(serving, dt.date(2026, 2, 28), performance=LOSS)
    specs = {serving.spec.name: serving.spec}
    assert decide_for(Clients(settings), specs, [serving.name], NOW) == SweepResult(looked_at=1)


def test_an_approval_survives_the_process_that_made_it(serving):
    """Killed between the decision and the request for its run: the next tick finds it waiting and asks."""
    report(serving, dt.date(2026, 2, 28), performance=LOSS)
    tick(serving)
    (found,) = waiting(Warehouse(serving.settings))
    assert isinstance(found, Approved)
    assert (found.tenant, found.model, found.action) == (serving.name, serving.spec.name, "train")


def test_the_calendar_alone_is_no_cause_where_retraining_is_not_switched_on(serving):
    write_setting(Warehouse(serving.settings), serving.name, EVERY_MODEL, "auto_retrain", None, "test")
    assert tick(serving, NOW + dt.timedelta(days=40)) == SweepResult(looked_at=1)
    assert decisions(serving) == []
