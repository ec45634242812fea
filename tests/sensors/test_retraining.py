"""What the retraining sensor asks Dagster for, and what it says where it asks for nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import dagster as dg
import pytest
import sqlalchemy as sa

from ml_pipeline import partitions
from ml_pipeline.resources import tables
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.sensors import retraining as module
from ml_pipeline.sensors.retraining import retraining, under_way
from ml_pipeline.settings import Settings
from ml_pipeline.work.retraining.decide import DECISION_TAG, waiting
from ml_pipeline.work.tenant_settings import EVERY_MODEL, write_setting

NAME = str(partitions.tenants.name)
TODAY = partitions.today()
LOSS = {"status": "degraded", "severity": "CRITICAL", "rise": 0.5, "since": None, "outcomes": 60}


@pytest.fixture
def instance(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    with dg.DagsterInstance.local_temp(str(settings.home)) as instance:
        yield instance


def tick(instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult | dg.SkipReason:
    resources = {"installation": Installation()}
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources) as context:
        return retraining(context)


def troubled(warehouse: Warehouse, tenant: str, *, loss: dict | None = LOSS, on: bool = True) -> None:
    """A tenant whose version 1 lost what it knew, with enough outcomes to learn from."""
    warehouse.add_tenant(tenant)
    write_setting(warehouse, tenant, EVERY_MODEL, "auto_retrain", on, "test")
    own = {"tenant_id": tenant, "model": "story_points"}
    long_ago = dt.datetime.now(dt.UTC) - dt.timedelta(days=60)
    report = {"day": TODAY - dt.timedelta(days=1), "status": "stable", "score": 0.0, "reason": "", "version": 1}
    counts = {"baseline_rows": 200, "current_rows": 42, "drifted": [], "columns": {}, "performance": loss}
    snapshot = {"snapshot_hash": "s", "as_of": long_ago, "rows": 300, "matured": 200, "path": "", "quality": {}}
    outcomes = [
        own | {"entity_id": str(number), "label_time": long_ago + dt.timedelta(days=number % 50 + 1), "value": 1.0}
        for number in range(80)
    ]
    with warehouse.tenant(tenant) as connection:
        warehouse.upsert(connection, tables.drift_reports, [own | report | counts])
        warehouse.upsert(connection, tables.feature_sets, [own | snapshot | {"quality_score": 90.0}])
        warehouse.upsert(connection, tables.outcomes, outcomes)


def test_an_approved_retraining_becomes_a_run_of_its_own_with_its_reasons_as_tags(instance, warehouse):
    troubled(warehouse, "acme")
    instance.add_dynamic_partitions(NAME, ["acme"])
    result = tick(instance)
    assert isinstance(result, dg.SensorResult)
    (request,) = result.run_requests
    (approved,) = waiting(warehouse)
    assert request.run_key == request.tags[DECISION_TAG] == str(approved.decision_id)
    assert request.partition_key == "acme"
    assert [key.path for key in request.asset_selection] == [
        ["story_points", step] for step in ("features", "model", "predictions")
    ]
    assert request.tags["ml_pipeline/trigger"] == "degradation"
    assert request.tags["ml_pipeline/severity"] == "CRITICAL"
    assert '"rise": 0.5' in request.tags["ml_pipeline/scores"]
    config = request.run_config["ops"]["story_points_training"]["config"]
    assert config == {"decision": str(approved.decision_id), "action": "train", "as_of": ""}


def test_a_decision_whose_sensor_died_before_asking_is_asked_for_at_the_next_tick(instance, warehouse, monkeypatch):
    troubled(warehouse, "acme")
    instance.add_dynamic_partitions(NAME, ["acme"])
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(module, "retraining_request", lambda _: (_ for _ in ()).throw(SystemExit))
        tick(instance)
    (approved,) = waiting(warehouse)
    result = tick(instance)
    assert [request.run_key for request in result.run_requests] == [str(approved.decision_id)]


def a_run(instance: dg.DagsterInstance, decision: str, status: dg.DagsterRunStatus) -> None:
    from ml_pipeline.definitions import defs

    job = defs.resolve_job_def("train")
    tags = {DECISION_TAG: decision, partitions.PARTITION_TAG: "acme"}
    instance.create_run_for_job(job, tags=tags, status=status, asset_selection={dg.AssetKey(["story_points", "model"])})


def test_while_its_run_is_under_way_nothing_is_asked_for_again(instance, warehouse):
    troubled(warehouse, "acme")
    instance.add_dynamic_partitions(NAME, ["acme"])
    decision = tick(instance).run_requests[0].run_key
    a_run(instance, decision, dg.DagsterRunStatus.STARTED)
    assert under_way(instance, ["acme"], ["story_points"]) == {("acme", "story_points"): 1}
    assert isinstance(tick(instance), dg.SkipReason)
    assert len(waiting(warehouse)) == 1


def test_a_run_that_ended_without_a_word_settles_its_decision_as_failed(instance, warehouse):
    troubled(warehouse, "acme")
    instance.add_dynamic_partitions(NAME, ["acme"])
    decision = tick(instance).run_requests[0].run_key
    a_run(instance, decision, dg.DagsterRunStatus.FAILURE)
    tick(instance)
    assert waiting(warehouse) == []
    with warehouse.operator() as connection:
        states = set(
            connection.scalars(sa.select(tables.decisions.c.state).where(tables.decisions.c.verdict == "retrain"))
        )
    assert states == {"failed"}


def test_a_tick_that_asks_for_nothing_names_what_holds_and_the_first_reason(instance, warehouse):
    troubled(warehouse, "acme", on=False)
    instance.add_dynamic_partitions(NAME, ["acme"])
    skipped = tick(instance)
    assert isinstance(skipped, dg.SkipReason)
    assert "3 models evaluated, 1 blocked (tenant_flag 1)." in skipped.skip_message
    assert "First: acme story_points: Blocked: degradation CRITICAL." in skipped.skip_message


def test_without_tenants_or_causes_it_says_so(instance, warehouse):
    assert tick(instance).skip_message == "0 models evaluated: no triggers."
    warehouse.add_tenant("acme")
    instance.add_dynamic_partitions(NAME, ["acme"])
    assert tick(instance).skip_message == "3 models evaluated: no triggers."


def test_a_tick_without_time_for_everybody_goes_on_at_the_next(instance, warehouse, monkeypatch):
    tenants = ["a", "b", "c"]
    for tenant in tenants:
        troubled(warehouse, tenant)
    instance.add_dynamic_partitions(NAME, tenants)
    monkeypatch.setattr(module, "TENANTS_AT_ONCE", 1)
    monkeypatch.setattr(module, "SECONDS_PER_TICK", -1.0)
    asked, cursor = [], None
    for _ in tenants:
        result = tick(instance, cursor)
        asked += [request.partition_key for request in result.run_requests]
        cursor = result.cursor
        for request in result.run_requests:
            a_run(instance, request.run_key, dg.DagsterRunStatus.STARTED)
    assert asked == tenants


def test_two_ticks_at_once_ask_for_the_same_run(instance, warehouse):
    from concurrent.futures import ThreadPoolExecutor

    troubled(warehouse, "acme")
    instance.add_dynamic_partitions(NAME, ["acme"])
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: tick(instance), range(2)))
    keys = {
        request.run_key for result in results if isinstance(result, dg.SensorResult) for request in result.run_requests
    }
    assert len(keys) == 1
    assert len(waiting(warehouse)) == 1


def test_a_database_that_is_down_fails_the_tick_and_nothing_is_decided(instance, warehouse, monkeypatch):
    from ml_pipeline.resources.postgres import DatabaseUnavailable

    troubled(warehouse, "acme")
    instance.add_dynamic_partitions(NAME, ["acme"])
    with monkeypatch.context() as patch:
        patch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
        with pytest.raises(DatabaseUnavailable, match="refuses the connection"):
            tick(instance)
    assert len(tick(instance).run_requests) == 1
