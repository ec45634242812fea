"""What an operator sees of all tenants at once, and which nights are missing."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict

import sqlalchemy as sa

from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import Registry
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.work.fleet import NEVER_TRAINED, Status, days_to_monitor, fleet_status
from ml_pipeline.work.training.task import FEATURES, MODEL

WINDOW, YESTERDAY = dt.date(2026, 1, 1), dt.date(2026, 1, 31)


def status(tenant) -> Status:
    (row,) = fleet_status(Warehouse(tenant.settings), tenant.registry, {"story_points": tenant.spec}, [tenant.name])
    return row


def reported(warehouse: Warehouse, tenant: str, day: dt.date, model: str = "story_points") -> None:
    counts = {"baseline_rows": 0, "current_rows": 0, "drifted": [], "columns": {}}
    row = {"tenant_id": tenant, "model": model, "day": day, "status": "stable", "reason": "", **counts}
    with warehouse.tenant(tenant) as connection:
        connection.execute(sa.insert(tables.drift_reports).values(row))


def test_a_tenant_that_was_never_trained_says_what_to_do(tenant, make_issues):
    row = status(tenant.holds(make_issues(1)))
    assert (row.version, row.alias, row.metric, row.decision, row.reason) == (None, None, "mae", None, NEVER_TRAINED)


def test_a_serving_version_is_shown_with_the_numbers_that_it_was_promoted_with(tenant, make_issues):
    tenant.holds(make_issues(45)).train(40)
    tenant.monitor(43)
    row = status(tenant)
    assert (row.version, row.alias, row.trained_at, row.rows) == (1, "champion", "2026-02-10T00:00:00+00:00", 229)
    assert row.value is not None and row.baseline_value is not None and row.value < row.baseline_value
    assert row.decision == "promote" and row.reason.startswith("baseline_beaten")
    assert row.health is not None
    assert row.drift == "stable"


def test_business_metrics_are_shown_with_what_the_constant_reaches(tenant, make_issues):
    tenant.holds(make_issues(40)).train(40)
    found = status(tenant).business["within_one_point"]
    assert found["value"] > found["baseline_value"] > 0


def test_a_rejected_challenger_is_shown_where_nothing_serves(tenant, make_issues):
    tenant.holds(make_issues(40, learnable=False)).train(40)
    row = status(tenant)
    assert (row.version, row.alias, row.decision) == (1, "challenger", "reject")


def test_insufficient_data_shows_how_many_rows_there_are(tenant, make_issues):
    tenant.holds(make_issues(40)[:48]).train(40, (FEATURES, MODEL))
    row = status(tenant)
    assert (row.version, row.rows, row.decision) == (None, 48, "insufficient_data")


def test_tenants_and_models_come_sorted_and_only_those_asked_for(tenant, make_issues, registry: Registry):
    for name in ("globex", "acme"):
        tenant.named(name).holds(make_issues(1))
    specs = {"story_points": tenant.spec, "lead_time": tenant.spec.model_copy(update={"name": "lead_time"})}
    everything = fleet_status(Warehouse(tenant.settings), registry, specs)
    assert [(row.tenant, row.model) for row in everything] == [
        ("acme", "story_points"),
        ("acme", "lead_time"),
        ("globex", "story_points"),
        ("globex", "lead_time"),
    ]
    assert [row.tenant for row in fleet_status(Warehouse(tenant.settings), registry, specs, ["globex"])] == [
        "globex"
    ] * 2
    assert list(asdict(everything[0]))[:3] == ["tenant", "model", "version"]


def test_the_first_night_does_yesterday(warehouse: Warehouse):
    assert days_to_monitor(warehouse, 2, WINDOW, YESTERDAY) == YESTERDAY


def test_nights_that_were_missed_are_made_up_from_the_day_after_the_last_one(warehouse: Warehouse):
    for tenant in ("a", "b"):
        reported(warehouse, tenant, dt.date(2026, 1, 20))
    assert days_to_monitor(warehouse, 2, WINDOW, YESTERDAY) == dt.date(2026, 1, 21)


def test_a_night_that_was_missed_is_made_up_also_when_later_ones_are_done(warehouse: Warehouse):
    for day in (28, 29, 31):
        reported(warehouse, "a", dt.date(2026, 1, day))
    assert days_to_monitor(warehouse, 1, WINDOW, YESTERDAY) == dt.date(2026, 1, 30)


def test_days_before_the_window_are_not_made_up(warehouse: Warehouse):
    reported(warehouse, "a", dt.date(2025, 11, 1))
    assert days_to_monitor(warehouse, 1, WINDOW, YESTERDAY) == YESTERDAY


def test_a_night_that_is_done_is_not_done_again(warehouse: Warehouse):
    reported(warehouse, "a", YESTERDAY)
    assert days_to_monitor(warehouse, 1, WINDOW, YESTERDAY) is None


def test_one_failing_tenant_of_three_does_not_repeat_the_night(warehouse: Warehouse):
    for tenant in ("a", "b"):
        reported(warehouse, tenant, YESTERDAY)
    assert days_to_monitor(warehouse, 3, WINDOW, YESTERDAY) is None


def test_one_tenant_backfilled_by_hand_does_not_hide_a_missed_night(warehouse: Warehouse):
    for tenant in "abc":
        reported(warehouse, tenant, dt.date(2026, 1, 29))
    reported(warehouse, "a", YESTERDAY)
    assert days_to_monitor(warehouse, 3, WINDOW, YESTERDAY) == dt.date(2026, 1, 30)
