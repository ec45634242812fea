"""The whole loop on one tenant, day by day: quiet, then a change of meaning, found, waited for, learnt and promoted."""

from __future__ import annotations

import datetime as dt

import pandas as pd
import pytest

from ml_pipeline.demo.simulation import DAY, SimulationInterrupted, SimulationWindow, simulate_days
from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import CHAMPION
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.work.tenant_settings import AUTO_RETRAIN, EVERY_MODEL, OFF_PEAK, write_setting
from ml_pipeline.work.training.task import STEPS, TrainingTask, run_training

pytestmark = pytest.mark.long

FIRST_DAY = dt.date(2026, 1, 1)
TRAINED, CHANGED, LAST = 34, 48, 70


def lived_through(tenant, since: int, until: int) -> list[str]:
    """Every day, with the retrainings that are approved on the way; returns their triggers."""
    day, triggers = FIRST_DAY + since * DAY, []
    while day <= FIRST_DAY + until * DAY:
        simulated = simulate_days(
            SimulationWindow(tenant.settings, tenant.spec, tenant.name, day, FIRST_DAY + until * DAY, decides=True)
        )
        day = simulated.last + DAY
        if simulated.approved is not None:
            triggers.append(simulated.approved.trigger)
            decision, action = str(simulated.approved.decision_id), simulated.approved.action
            as_of = f"{day}T03:00:00+00:00"
            task = TrainingTask(tenant.settings, tenant.spec, tenant.name, as_of, STEPS, decision, action)
            assert run_training(task).error is None
    return triggers


def test_a_change_of_meaning_is_found_waited_for_learnt_and_promoted(tenant, make_issues):
    frame = make_issues(LAST + 2, per_day=12)
    later = frame["created_at"] >= pd.Timestamp(FIRST_DAY + CHANGED * DAY, tz="UTC")
    frame.loc[later, "story_points"] += 7.0 * frame["issue_type"].map({"Story": -1.0, "Bug": 1.0}).fillna(0.0)[later]
    tenant.holds(frame).train(TRAINED)
    write_setting(Warehouse(tenant.settings), tenant.name, EVERY_MODEL, AUTO_RETRAIN, True, "test")
    write_setting(Warehouse(tenant.settings), tenant.name, EVERY_MODEL, OFF_PEAK, "0-0", "test")

    triggers = lived_through(tenant, TRAINED, LAST)

    assert "degradation" in triggers
    alert = tenant.rows(tables.alerts, kind="degradation")[0]
    assert alert["level"] == "CRITICAL" and "concept drift" in alert["message"]
    told = (alert["as_of"].date() - FIRST_DAY).days
    assert CHANGED + 2 < told <= CHANGED + 5  # outcomes come two days after their issues
    holds = {name for row in tenant.rows(tables.decisions, verdict="blocked") for name in row["numbers"]["blocked_by"]}
    assert "since_change" in holds
    champion = tenant.registry.version(tenant.name, tenant.spec.name, tenant.aliases()[CHAMPION])
    assert champion.tags["changed_at"] >= str(FIRST_DAY + CHANGED * DAY)
    (judged,) = tenant.rows(tables.decisions, kind="promote", version=champion.number)
    assert judged["reason"].startswith("better")
    lost = {row["day"]: row["value"] for row in tenant.rows(tables.daily_metrics)}
    before, during, after = (lost[FIRST_DAY + day * DAY] for day in (CHANGED, CHANGED + 5, LAST))
    assert during > 3 * before and after < 0.8 * during


def test_a_quiet_tenant_is_told_nothing_of(tenant, make_issues):
    tenant.holds(make_issues(60, per_day=8)).train(TRAINED)
    window = SimulationWindow(
        tenant.settings, tenant.spec, tenant.name, FIRST_DAY + TRAINED * DAY, FIRST_DAY + 55 * DAY, decides=False
    )
    assert simulate_days(window).approved is None
    assert tenant.rows(tables.alerts) == []
    assert len(tenant.rows(tables.drift_reports)) == 56 - TRAINED


def test_a_life_that_can_not_go_on_names_tenant_and_day(tenant, make_issues, monkeypatch):
    tenant.holds(make_issues(45)).train(TRAINED)
    monkeypatch.setattr("ml_pipeline.work.monitoring.report.compare", lambda *_, **__: 1 / 0)
    window = SimulationWindow(
        tenant.settings, tenant.spec, tenant.name, FIRST_DAY + 40 * DAY, FIRST_DAY + 40 * DAY, decides=False
    )
    with pytest.raises(
        SimulationInterrupted, match="tenant acme, model story_points, 2026-02-10: drift_report: ZeroDivision"
    ):
        simulate_days(window)
