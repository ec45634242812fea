"""What the schedules ask for: the days that are missing, in runs of a bounded size."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import dagster as dg
import pytest

from ml_pipeline import partitions
from ml_pipeline.resources import tables
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.sensors import schedules
from ml_pipeline.sensors.schedules import hourly_predictions, nightly
from ml_pipeline.settings import Settings

NAME = str(partitions.tenants.name)
DAY = dt.timedelta(days=1)
YESTERDAY = partitions.today() - DAY


@pytest.fixture
def instance(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    # A schedule's context opens the instance again by its reference, which one in memory has not.
    with dg.DagsterInstance.local_temp(str(settings.home)) as instance:
        yield instance


def tick(schedule: dg.ScheduleDefinition, instance: dg.DagsterInstance) -> list[dg.RunRequest] | dg.SkipReason:
    at = dt.datetime.combine(partitions.today(), dt.time(2), dt.UTC)
    resources = {"installation": Installation()}
    with dg.build_schedule_context(instance=instance, scheduled_execution_time=at, resources=resources) as context:
        return schedule(context)


def reported(warehouse: Warehouse, tenant: str, *days: dt.date) -> None:
    """Drift reports of a tenant, as the nightly run leaves them."""
    fixed = {"tenant_id": tenant, "model": "story_points", "status": "stable", "severity": "NONE"}
    counts = {"baseline_rows": 0, "current_rows": 0, "drifted": [], "columns": [], "reason": ""}
    with warehouse.tenant(tenant) as connection:
        warehouse.upsert(connection, tables.drift_reports, [{**fixed, **counts, "day": day} for day in days])


def rectangle(request: dg.RunRequest) -> tuple[str, str]:
    return request.tags[partitions.START_TAG], request.tags[partitions.END_TAG]


def test_the_first_night_asks_for_yesterday_of_every_tenant_in_one_run(instance: dg.DagsterInstance):
    instance.add_dynamic_partitions(NAME, ["acme", "globex"])
    [request] = tick(nightly, instance)
    assert rectangle(request) == (f"{YESTERDAY}|acme", f"{YESTERDAY}|globex")


def test_nights_that_were_missed_are_made_up(instance: dg.DagsterInstance, warehouse: Warehouse):
    warehouse.add_tenant("acme")
    reported(warehouse, "acme", YESTERDAY - 4 * DAY)
    instance.add_dynamic_partitions(NAME, ["acme"])
    [request] = tick(nightly, instance)
    assert rectangle(request) == (f"{YESTERDAY - 3 * DAY}|acme", f"{YESTERDAY}|acme")


def test_a_night_that_is_done_is_not_done_again(instance: dg.DagsterInstance, warehouse: Warehouse):
    warehouse.add_tenant("acme")
    reported(warehouse, "acme", YESTERDAY)
    instance.add_dynamic_partitions(NAME, ["acme"])
    result = tick(nightly, instance)
    assert isinstance(result, dg.SkipReason)
    assert result.skip_message == f"All days up to {YESTERDAY} have their metrics and reports."


def test_one_tenant_that_fails_every_night_does_not_repeat_the_nightly_run(
    instance: dg.DagsterInstance, warehouse: Warehouse
):
    for tenant in ("acme", "globex", "initech"):
        warehouse.add_tenant(tenant)
    for tenant in ("acme", "globex"):
        reported(warehouse, tenant, YESTERDAY)
    instance.add_dynamic_partitions(NAME, ["acme", "globex", "initech"])
    assert isinstance(tick(nightly, instance), dg.SkipReason)


def test_many_tenants_are_shared_out_over_runs_of_their_own(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(schedules, "TENANTS_PER_RUN", 2)
    instance.add_dynamic_partitions(NAME, ["e", "d", "c", "b", "a"])
    requests = tick(nightly, instance)
    shares = [("e", "d"), ("c", "b"), ("a", "a")]
    assert [rectangle(request) for request in requests] == [
        (f"{YESTERDAY}|{first}", f"{YESTERDAY}|{last}") for first, last in shares
    ]


def test_each_run_has_a_key_that_a_repeated_tick_gives_again(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(schedules, "TENANTS_PER_RUN", 1)
    instance.add_dynamic_partitions(NAME, ["acme", "globex"])
    keys = [[request.run_key for request in tick(nightly, instance)] for _ in range(2)]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 2


def test_predictions_are_asked_for_from_the_first_tenant_to_the_last(instance: dg.DagsterInstance):
    instance.add_dynamic_partitions(NAME, ["acme", "globex", "initech"])
    [request] = tick(hourly_predictions, instance)
    assert rectangle(request) == ("acme", "initech")


@pytest.mark.parametrize("schedule", [nightly, hourly_predictions])
def test_without_tenants_the_reason_says_what_to_do(instance: dg.DagsterInstance, schedule: dg.ScheduleDefinition):
    result = tick(schedule, instance)
    assert isinstance(result, dg.SkipReason)
    assert "ml-pipeline import" in str(result.skip_message)
