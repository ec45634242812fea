"""Dagster's own storage: in the pipeline's database, and pruned without forgetting what is materialized."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
import sqlalchemy as sa

from ml_pipeline.resources import postgres
from ml_pipeline.resources.dagster_storage import SCHEMA, NoDatabase, dagster_url, prune_events
from ml_pipeline.settings import PROJECT_ROOT, Settings

PARTITIONS = dg.StaticPartitionsDefinition(["good", "bad"])
KEY = dg.AssetKey("watched")
FUTURE = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)


@dg.asset(key=KEY, partitions_def=PARTITIONS)
def watched(context: dg.AssetExecutionContext) -> None:
    context.log.info("working")
    if context.partition_key == "bad":
        raise ValueError("bad data")


@pytest.fixture
def instance(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """The instance of the project's own dagster.yaml, on the test's database."""
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    monkeypatch.setenv("ML_PIPELINE_HOME", str(settings.home))
    monkeypatch.setenv("DAGSTER_HOME", str(PROJECT_ROOT))
    with dg.DagsterInstance.get() as instance:
        yield instance


def materialize(instance: dg.DagsterInstance, partition: str) -> str:
    return dg.materialize([watched], instance=instance, partition_key=partition, raise_on_error=False).run_id


def test_what_a_run_prints_is_kept_by_no_further_process(instance: dg.DagsterInstance):
    @dg.op
    def says() -> None:
        print("a word of the run", flush=True)
        found.extend(process.name() for process in psutil.Process().children(recursive=True))

    @dg.job
    def talks() -> None:
        says()

    found: list[str] = []
    run = talks.execute_in_process(instance=instance)
    logs = [path.read_text() for path in (Path(instance.compute_log_manager._base_dir) / run.run_id).rglob("*.out")]
    assert "".join(logs).count("a word of the run") == 1
    assert "tail" not in found


def failed_partitions(instance: dg.DagsterInstance) -> set[str]:
    return instance.event_log_storage.get_latest_asset_partition_materialization_attempts_without_materializations(
        KEY
    ).keys()


def log_lines(instance: dg.DagsterInstance, run_id: str) -> int:
    return sum(not entry.is_dagster_event for entry in instance.all_logs(run_id))


def test_storage_and_files_are_those_of_the_installation(instance: dg.DagsterInstance, settings: Settings):
    materialize(instance, "good")
    engine = postgres.engine(postgres.parse_url(str(settings.database_url)))
    with engine.connect() as connection:
        assert connection.scalar(sa.text(f"SELECT count(*) FROM {SCHEMA}.runs")) == 1
    assert instance.root_directory == str(settings.home / "dagster")


def test_a_missing_database_names_what_to_run_instead():
    with pytest.raises(NoDatabase, match=r"DATABASE_URL is not set\. Run `ml-pipeline up`"):
        dagster_url(None)


def test_pruning_forgets_log_lines_and_keeps_what_is_materialized_and_what_failed(
    instance: dg.DagsterInstance, settings: Settings
):
    good, bad = materialize(instance, "good"), materialize(instance, "bad")
    assert log_lines(instance, good) > 0
    assert prune_events(settings.database_url, FUTURE) > 0
    assert log_lines(instance, good) == 0
    assert instance.get_materialized_partitions(KEY) == {"good"}
    assert failed_partitions(instance) == {"bad"}
    statuses = {run_id: instance.get_run_by_id(run_id).status for run_id in (good, bad)}
    assert statuses == {good: dg.DagsterRunStatus.SUCCESS, bad: dg.DagsterRunStatus.FAILURE}


def test_rows_younger_than_the_limit_stay(instance: dg.DagsterInstance, settings: Settings):
    run_id = materialize(instance, "good")
    before = len(instance.all_logs(run_id))
    assert prune_events(settings.database_url, dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)) == 0
    assert len(instance.all_logs(run_id)) == before


def test_a_run_that_has_not_ended_keeps_its_log(instance: dg.DagsterInstance, settings: Settings):
    run_id = materialize(instance, "good")
    before = len(instance.all_logs(run_id))
    engine = postgres.engine(postgres.parse_url(str(settings.database_url)))
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE {SCHEMA}.runs SET status = 'STARTED'"))
    assert prune_events(settings.database_url, FUTURE) == 0
    assert len(instance.all_logs(run_id)) == before
