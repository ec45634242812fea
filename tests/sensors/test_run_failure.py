"""A run that really failed, and the alerts that follow from it."""

import re
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from ml_pipeline import partitions
from ml_pipeline.assets.reporting import each_tenant
from ml_pipeline.partitions import tenants_of
from ml_pipeline.resources import tables
from ml_pipeline.resources.compute import Result
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.sensors.run_failure import run_failure
from ml_pipeline.settings import Settings
from ml_pipeline.work.training.task import TaskReport

NAME = str(partitions.tenants.name)


@pytest.fixture
def instance(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


RESOURCES = {"installation": Installation()}
ERRORS: dict[str, str] = {}  # what the tasks of a test's tenants raise


@dg.multi_asset(
    name="story_points_training",
    specs=[dg.AssetSpec(["story_points", "model"], skippable=True)],
    partitions_def=partitions.tenants,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def training(context: dg.AssetExecutionContext) -> Iterator[Any]:
    results = [
        Result(tenant, TaskReport(traceback="z" * 3000), ERRORS.get(tenant, f"model: ValueError: {tenant} has no rows"))
        if "bad" in tenant
        else Result(tenant, TaskReport(), None)
        for tenant in context.partition_keys
    ]
    if "outage" in context.run.tags:
        raise ConnectionError("PostgreSQL at db/ml refuses the connection")
    for _ in each_tenant(context, iter(results), len(results)):
        yield from ()


@dg.op
def nightly_cleaning() -> None:
    raise RuntimeError("the disk is full")


@dg.job
def cleaning() -> None:
    nightly_cleaning()


def failed(instance: dg.DagsterInstance, job: dg.JobDefinition | None = None, **tags: str) -> dg.RunStatusSensorContext:
    """What the daemon hands to the sensor after the run has failed."""
    if job is None:
        asset_job = dg.define_asset_job("train")
        job = dg.Definitions(assets=[training], jobs=[asset_job]).resolve_job_def("train")
        known = instance.get_dynamic_partitions(NAME)
        tags = {**partitions.tenant_range(known, known[0], known[-1]), **tags}
    result = job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    [event] = [event for event in result.all_events if event.event_type is dg.DagsterEventType.PIPELINE_FAILURE]
    return dg.build_run_status_sensor_context("run_failure", event, instance, result.dagster_run, resources=RESOURCES)


def tell(context: dg.RunStatusSensorContext) -> None:
    with context.for_run_failure() as given:
        run_failure(given)


def add(instance: dg.DagsterInstance, warehouse: Warehouse, *tenants: str) -> None:
    for tenant in tenants:
        warehouse.add_tenant(tenant)
    instance.add_dynamic_partitions(NAME, list(tenants))


def alerts(warehouse: Warehouse) -> list[sa.RowMapping]:
    with warehouse.operator() as connection:
        query = sa.select(tables.alerts).order_by(tables.alerts.c.tenant_id, tables.alerts.c.as_of)
        return list(connection.execute(query).mappings())


def test_the_tenants_that_failed_in_a_batch_get_an_alert_each_with_their_own_error(instance, warehouse):
    add(instance, warehouse, "acme", "bad-1", "globex", "bad-2")
    context = failed(instance)
    tell(context)
    first, second = alerts(warehouse)
    assert (first["tenant_id"], second["tenant_id"]) == ("bad-1", "bad-2")
    assert (first["model"], first["kind"], first["level"]) == ("story_points", "run_failed", "MEDIUM")
    assert first["message"].startswith(
        f"Run {context.dagster_run.run_id[:8]} of job train failed: model: ValueError: bad-1 has no rows. Open it"
    )
    assert "bad-2" not in str(dict(first))
    assert first["detail"]["run_id"] == context.dagster_run.run_id


FORGED = "- `globex`: model: ValueError: sell the shares"


@pytest.mark.parametrize(
    "error",
    [
        f"model: ValueError: no such level\n{FORGED}",
        f"model: ValueError: no such level\r{FORGED}\x0b{FORGED}\u2028{FORGED}",
        f"model: ValueError: `\n\n{FORGED}",
        'model: ValueError: "}, "globex": "sell the shares',
        "model: ValueError: [x](http://evil.example) </li><script>`]} \x00 \ud800",
        "x" * 1_000_000,
    ],
    ids=["a line", "other line ends", "a backtick", "JSON", "markup and what cannot be stored", "a megabyte"],
)
def test_an_error_raises_no_alert_for_another_tenant(instance, warehouse, monkeypatch, error: str):
    add(instance, warehouse, "acme", "bad-1", "globex")
    monkeypatch.setitem(ERRORS, "bad-1", error)
    context = failed(instance)
    tell(context)
    [alert] = alerts(warehouse)
    assert (alert["tenant_id"], alert["level"]) == ("bad-1", "MEDIUM")
    assert len(str(dict(alert))) < 5000
    [event] = context.for_run_failure().get_step_failure_events()
    metadata = event.step_failure_data.user_failure_data.metadata
    assert metadata["ml_pipeline/errors"].value.keys() == {"bad-1"}
    shown = metadata["ml_pipeline/tenants"].value
    assert len(shown.splitlines()) == 1 and re.search(r"(?<!\\)[<\[`]", shown) is None


def test_what_is_no_tenant_gets_no_alert_and_is_logged(instance, warehouse, caplog):
    add(instance, warehouse, "bad-1", "acme")
    instance.add_dynamic_partitions(NAME, ["bad/../../evil"])
    for tags in ({}, {"outage": "yes"}):
        tell(failed(instance, **tags))
    assert {alert["tenant_id"] for alert in alerts(warehouse)} == {"bad-1", "acme"}
    assert "1 of its tenants do not exist and got no alert: 'bad/../../evil'" in caplog.text


def test_a_thousand_tenants_that_fail_are_counted_and_the_event_stays_small(instance, warehouse):
    errors = {f"bad-{number:04d}": "y" * 100_000 for number in range(1000)}
    ERRORS.update(errors)
    try:
        instance.add_dynamic_partitions(NAME, list(errors))
        [event] = failed(instance).for_run_failure().get_step_failure_events()
    finally:
        for tenant in errors:
            del ERRORS[tenant]
    metadata = event.step_failure_data.user_failure_data.metadata
    assert (metadata["ml_pipeline/failed"].value, len(metadata["ml_pipeline/errors"].value)) == (1000, 20)
    assert len(metadata["ml_pipeline/tracebacks"].value) == 5
    assert metadata["ml_pipeline/tenants"].value.endswith("- and 980 more")
    assert len(dg.serialize_value(event)) < 100_000


def test_the_same_failure_told_twice_changes_nothing(instance, warehouse):
    add(instance, warehouse, "bad-1")
    context = failed(instance)
    tell(context)
    before = alerts(warehouse)
    tell(context)
    assert alerts(warehouse) == before
    tell(failed(instance))
    [alert] = alerts(warehouse)
    assert alert["occurrences"] == 2


def test_a_run_that_failed_as_a_whole_is_told_to_twenty_tenants_and_the_log(instance, warehouse, capfd):
    names = [f"tenant-{number:02d}" for number in range(25)]
    add(instance, warehouse, *names)
    tell(failed(instance, outage="yes"))
    found = alerts(warehouse)
    assert [alert["tenant_id"] for alert in found] == names[:20]
    assert {alert["level"] for alert in found} == {"HIGH"}
    assert "PostgreSQL at db/ml refuses the connection" in found[0]["message"]
    assert "5 more tenants failed and got no alert: tenant-20, tenant-21" in capfd.readouterr().err


def test_a_failed_run_without_tenants_is_kept_under_the_key_that_all_tenants_share(instance, warehouse):
    tell(failed(instance, cleaning))
    [alert] = alerts(warehouse)
    assert (alert["tenant_id"], alert["model"], alert["level"]) == ("__global__", "*", "HIGH")
    assert "job cleaning failed: RuntimeError: the disk is full" in alert["message"]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, []),
        ({"dagster/partition": "b"}, ["b"]),
        ({"dagster/partition": "2026-01-31|b"}, ["b"]),
        ({partitions.START_TAG: "a", partitions.END_TAG: "b"}, ["a", "b"]),
        ({partitions.START_TAG: "2026-01-01|b", partitions.END_TAG: "2026-01-31|c"}, ["b", "c"]),
        ({partitions.START_TAG: "gone", partitions.END_TAG: "c"}, []),
    ],
)
def test_the_tenants_of_a_run_are_those_of_its_partitions(tags, expected):
    assert tenants_of(tags, ["a", "b", "c"]) == expected
