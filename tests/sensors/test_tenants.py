"""Tenants of the database become partitions, each once."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from ml_pipeline import partitions
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.sensors.tenants import new_tenants
from ml_pipeline.settings import Settings

NAME = str(partitions.tenants.name)


@pytest.fixture
def instance(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def evaluate(instance: dg.DagsterInstance) -> dg.SensorResult | dg.SkipReason:
    with dg.build_sensor_context(instance=instance, resources={"installation": Installation()}) as context:
        return new_tenants(context)


def test_tenants_without_a_partition_are_added_in_one_request(instance: dg.DagsterInstance, warehouse: Warehouse):
    for tenant in ("acme", "globex", "initech"):
        warehouse.add_tenant(tenant)
    instance.add_dynamic_partitions(NAME, ["globex"])
    result = evaluate(instance)
    assert isinstance(result, dg.SensorResult)
    [request] = result.dynamic_partitions_requests
    assert sorted(request.partition_keys) == ["acme", "initech"]


def test_nothing_is_asked_for_when_every_tenant_is_a_partition(instance: dg.DagsterInstance, warehouse: Warehouse):
    warehouse.add_tenant("acme")
    instance.add_dynamic_partitions(NAME, ["acme"])
    result = evaluate(instance)
    assert isinstance(result, dg.SkipReason)
    assert result.skip_message == "All 1 tenants have partitions."


def test_a_tenant_that_was_deleted_keeps_its_partition(instance: dg.DagsterInstance):
    instance.add_dynamic_partitions(NAME, ["gone"])
    assert isinstance(evaluate(instance), dg.SkipReason)
    assert instance.get_dynamic_partitions(NAME) == ["gone"]
