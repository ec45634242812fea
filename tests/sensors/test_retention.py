"""The daily job that deletes what is too old."""

import datetime as dt
from collections.abc import Iterator

import dagster as dg
import pytest
import sqlalchemy as sa

from ml_pipeline.jobs import retention_job
from ml_pipeline.resources import tables
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.snapshots import Snapshots, SnapshotUnusable
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.sensors.schedules import daily_retention
from ml_pipeline.settings import Settings

LONG_AGO = dt.datetime.now(dt.UTC) - dt.timedelta(days=500)


@pytest.fixture
def instance(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    monkeypatch.setenv("ML_PIPELINE_HOME", str(settings.home))
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def old_rows(warehouse: Warehouse, tenant: str) -> None:
    """A prediction of long ago, and two snapshots, of which the older can go."""
    warehouse.add_tenant(tenant)
    key = {"tenant_id": tenant, "model": "story_points"}
    with warehouse.tenant(tenant) as connection:
        row = {"entity_id": "A-1", "origin": "live", "version": 1, "value": 1.0, "baseline": 1.0}
        times = {"event_time": LONG_AGO, "predicted_at": LONG_AGO}
        connection.execute(sa.insert(tables.predictions).values(key | row | times))
        for number in (0, 1):
            path = f"{warehouse.settings.artifacts}/snapshots/{tenant}/story_points/{number:024x}.parquet"
            row = {"snapshot_hash": str(number), "path": path, "as_of": LONG_AGO, "rows": 1, "matured": 1}
            made = {"quality_score": 1.0, "quality": {}, "created_at": LONG_AGO + dt.timedelta(days=number)}
            connection.execute(sa.insert(tables.feature_sets).values(key | row | made))


def test_the_job_deletes_what_is_too_old_and_shows_how_much(instance: dg.DagsterInstance, warehouse: Warehouse):
    old_rows(warehouse, "acme")
    result = retention_job.execute_in_process(instance=instance, resources={"installation": Installation()})
    [output] = [event for event in result.all_events if event.event_type is dg.DagsterEventType.STEP_OUTPUT]
    shown = {name: value.value for name, value in output.event_specific_data.metadata.items()}
    assert shown == {"ml_pipeline/predictions": 1, "ml_pipeline/feature_snapshots": 1}


def test_a_tenant_that_can_not_be_pruned_fails_the_job_after_the_others_were(
    instance: dg.DagsterInstance, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
):
    old_rows(warehouse, "acme")
    old_rows(warehouse, "globex")
    remove = Snapshots.remove

    def refuse(self: Snapshots, tenant: str, url: str) -> None:
        if tenant == "acme":
            raise SnapshotUnusable("the store is read-only")
        remove(self, tenant, url)

    monkeypatch.setattr(Snapshots, "remove", refuse)
    result = retention_job.execute_in_process(
        instance=instance, resources={"installation": Installation()}, raise_on_error=False
    )
    assert not result.success
    [failure] = result.get_step_failure_events()
    listed = failure.step_failure_data.user_failure_data.metadata["ml_pipeline/tenants"].value
    assert listed == "- `acme`: SnapshotUnusable: the store is read-only"
    with warehouse.operator() as connection:
        assert connection.scalars(sa.select(tables.predictions.c.tenant_id)).all() == []
        assert sorted(connection.scalars(sa.select(tables.feature_sets.c.tenant_id))) == ["acme", "acme", "globex"]


def test_it_runs_every_day_without_being_switched_on():
    assert (daily_retention.cron_schedule, daily_retention.job_name) == ("0 4 * * *", "retention")
    assert daily_retention.default_status is dg.DefaultScheduleStatus.RUNNING
