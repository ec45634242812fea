"""The assets in Dagster: batches of tenants over real worker processes, each tenant's partition with its own truth."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import dagster as dg
import pandas as pd
import pytest
import sqlalchemy as sa
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

from ml_pipeline import launch, partitions
from ml_pipeline.assets import factory
from ml_pipeline.assets.reporting import metadata_key
from ml_pipeline.definitions import definitions
from ml_pipeline.demo.simulator import Organisation, simulate
from ml_pipeline.importers import import_tables
from ml_pipeline.resources import tables
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.registry import Registry
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import PROJECT_ROOT, Settings
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.work.monitoring.task import MonitoringTask
from ml_pipeline.work.training import task as training
from ml_pipeline.work.training.task import TaskReport, TrainingTask, run_training
from ml_pipeline.work.training.version_files import PLOTS

pytestmark = pytest.mark.long

END = pd.Timestamp(partitions.today(), tz="UTC")
YESTERDAY = partitions.today() - dt.timedelta(days=1)
HEALTHY = ("acme", "globex", "initech")
STORAGES = {"run_storage": "RunStorage", "event_log_storage": "EventLogStorage", "schedule_storage": "ScheduleStorage"}


def troubled(task: TrainingTask) -> TaskReport:
    """``run_training`` in a world where some tenants make their worker raise, hang or die."""
    match task.tenant:
        case "raises":
            raise MemoryError("no room for the rows of this tenant")
        case "hangs":
            time.sleep(120)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "halfway":
            with mock.patch.object(training, "choose_training_window", side_effect=ValueError("no window")):
                return run_training(task)
    return run_training(task)


@pytest.fixture(scope="module")
def history() -> pd.DataFrame:
    """Some two hundred issues up to today."""
    return simulate(Organisation("any", 7, END - pd.Timedelta(weeks=25), END, 8, 0, people=8, teams=2)).issues


@pytest.fixture
def spec() -> ModelSpec:
    shipped = load_specs()["story_points"]
    quick = {"params": {"n_estimators": 10, "max_depth": 3}, "min_rows": 60}
    return shipped.model_copy(update={"training": shipped.training.model_copy(update=quick)})


@pytest.fixture
def installed(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The test's installation, as Dagster finds it in the environment."""
    environment = {
        "DATABASE_URL": settings.database_url,
        "ML_PIPELINE_WORKER_DATABASE_URL": settings.worker_database_url,
        "ML_PIPELINE_HOME": str(settings.home),
        "ML_PIPELINE_WORKERS": "2",
        "ML_PIPELINE_TENANT_TIMEOUT": "20",
        "DAGSTER_HOME": str(settings.home),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    return settings


@pytest.fixture
def instance(installed: Settings) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def postgres_instance(installed: Settings, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with the storages of dagster.yaml."""
    storage = {
        key: {"module": "ml_pipeline.resources.dagster_storage", "class": name, "config": {}}
        for key, name in STORAGES.items()
    }
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=storage) as made:
        yield made


def add(instance: dg.DagsterInstance, settings: Settings, history: pd.DataFrame, tenants: Sequence[str]) -> list[str]:
    for tenant in tenants:
        import_tables(Warehouse(settings), tenant, history, None)
    return launch.add_partitions(instance, tenants)


def run(instance: dg.DagsterInstance, spec: ModelSpec, job: str, tags: dict[str, str], **options):
    made = definitions({spec.name: spec}, Installation()).resolve_job_def(job)
    return made.execute_in_process(instance=instance, tags=tags, raise_on_error=False, **options)


def partitions_by_status(instance: dg.DagsterInstance, spec: ModelSpec, step: str) -> dict[str, set[str]]:
    key = dg.AssetKey([spec.name, step])
    value = get_and_update_asset_status_cache_value(instance, key, partitions.tenants)
    assert value is not None
    with partitions_context(instance):
        subsets = {
            "materialized": value.deserialize_materialized_partition_subsets(partitions.tenants),
            "failed": value.deserialize_failed_partition_subsets(partitions.tenants),
        }
        return {name: set(subset.get_partition_keys()) for name, subset in subsets.items()}


def partitions_context(instance: dg.DagsterInstance):
    from dagster._core.definitions.partitions.context import partition_loading_context

    return partition_loading_context(dynamic_partitions_store=instance)


def as_whom(task: TrainingTask | MonitoringTask):
    with Warehouse(task.settings).tenant(task.tenant) as connection:
        raise ValueError(connection.scalar(sa.text("SELECT session_user || ' as ' || current_user")))


def test_workers_connect_with_a_login_of_their_own(instance, installed, spec, history, monkeypatch):
    monkeypatch.setattr(factory, "run_training", as_whom)
    monkeypatch.setattr(factory, "run_monitoring", as_whom)
    add(instance, installed, history, ["acme"])
    for job, tags in (
        ("train", partitions.tenant_range(["acme"], "acme", "acme")),
        ("monitor", partitions.tenant_day_range(["acme"], "acme", "acme", YESTERDAY, YESTERDAY)),
    ):
        (failure, *_) = run(instance, spec, job, tags).get_step_failure_events()
        told = failure.step_failure_data.user_failure_data.metadata["ml_pipeline/errors"].value
        assert "pipeline_worker as ml_app" in str(told)


def test_tenants_that_raise_hang_or_lose_their_worker_fail_alone(instance, installed, spec, history, monkeypatch):
    monkeypatch.setattr(factory, "run_training", troubled)
    monkeypatch.setenv("ML_PIPELINE_TENANT_TIMEOUT", "12")
    tenants = ["acme", "raises", "globex", "hangs", "halfway", "killed", "initech"]
    add(instance, installed, history, tenants)
    result = run(instance, spec, "train", partitions.tenant_range(tenants, "acme", "initech"))
    assert not result.success
    lost = {"raises", "hangs", "killed"}
    healthy = {"materialized": set(HEALTHY), "failed": lost | {"halfway"}}
    assert partitions_by_status(instance, spec, "features") == {
        "materialized": {*HEALTHY, "halfway"},
        "failed": lost,
    }
    assert partitions_by_status(instance, spec, "model") == healthy
    assert partitions_by_status(instance, spec, "predictions") == healthy
    (failure,) = result.get_step_failure_events()
    told = failure.step_failure_data.user_failure_data.metadata["ml_pipeline/errors"].value
    assert told.keys() == {"raises", "hangs", "killed", "halfway"}
    assert told["raises"] == "MemoryError: no room for the rows of this tenant"
    assert told["hangs"].startswith("took longer than 12 s and was stopped (ML_PIPELINE_TENANT_TIMEOUT)")
    assert told["killed"].startswith("its worker process died with exit code -9")
    assert told["halfway"] == "model: ValueError: no window"
    tracebacks = failure.step_failure_data.user_failure_data.metadata["ml_pipeline/tracebacks"].value
    assert "in troubled" in tracebacks["raises"]
    assert tracebacks.keys().isdisjoint({"hangs", "killed"})
    assert [len(Registry(installed).versions(name, spec.name)) for name in HEALTHY] == [1, 1, 1]


def test_a_range_of_tenants_touches_no_other(instance, installed, spec, history):
    tenants = ["acme", "globex", "initech"]
    add(instance, installed, history, tenants)
    assert run(instance, spec, "train", partitions.tenant_range(tenants, "globex", "initech")).success
    assert partitions_by_status(instance, spec, "features")["materialized"] == {"globex", "initech"}
    with Warehouse(installed).operator() as connection:
        assert set(connection.scalars(sa.select(tables.feature_sets.c.tenant_id))) == {"globex", "initech"}


def test_the_configuration_of_a_run_sets_its_as_of_time(instance, installed, spec, history):
    add(instance, installed, history, ["acme"])
    as_of = (END - pd.Timedelta(days=10)).isoformat()
    configuration = {"ops": {"story_points_training": {"config": {"as_of": as_of}}}}
    tags = partitions.tenant_range(["acme"], "acme", "acme")
    assert run(instance, spec, "train", tags, run_config=configuration).success
    with Warehouse(installed).operator() as connection:
        assert connection.scalar(sa.select(tables.feature_sets.c.as_of)) == pd.Timestamp(as_of)


def test_a_run_of_few_tenants_draws_their_versions_and_one_of_many_does_not(
    instance, installed, spec, history, monkeypatch
):
    monkeypatch.setenv("ML_PIPELINE_PLOTS_UP_TO", "1")
    tenants = ["acme", "globex", "initech"]
    add(instance, installed, history, tenants)
    assert run(instance, spec, "train", partitions.tenant_range(tenants, "acme", "acme")).success
    assert run(instance, spec, "train", partitions.tenant_range(tenants, "globex", "initech")).success
    registry = Registry(installed)
    drawn = {name: registry.file(registry.version(name, spec.name, 1), PLOTS) is not None for name in tenants}
    assert drawn == {"acme": True, "globex": False, "initech": False}


def test_a_single_partition_can_be_materialized_as_the_page_of_an_asset_does(instance, installed, spec, history):
    add(instance, installed, history, ["acme", "globex"])
    result = run(instance, spec, "train", {}, partition_key="globex")
    assert result.success
    assert partitions_by_status(instance, spec, "model") == {"materialized": {"globex"}, "failed": set()}


def test_a_reversed_range_fails_instead_of_doing_nothing(instance, installed, spec, history):
    add(instance, installed, history, ["acme", "globex"])
    result = run(instance, spec, "train", {partitions.START_TAG: "globex", partitions.END_TAG: "acme"})
    (failure,) = result.get_step_failure_events()
    assert "The range of this run contains no partition: it is reversed" in failure.step_failure_data.error.to_string()


def test_a_range_to_a_tenant_that_is_no_partition_does_not_begin(instance, installed, spec, history):
    add(instance, installed, history, ["acme", "globex"])
    with pytest.raises(dg.DagsterInvalidInvocationError, match="nobody"):
        run(instance, spec, "train", {partitions.START_TAG: "acme", partitions.END_TAG: "nobody"})


def evaluations(instance: dg.DagsterInstance) -> list[Any]:
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    entries = [entry for run in instance.get_runs() for entry in instance.all_logs(run.run_id, of_type=kind)]
    return [entry.dagster_event.asset_check_evaluation_data for entry in entries]


def checked(instance: dg.DagsterInstance) -> dict[tuple[str, str], float]:
    """Of how many tenants each check knew something."""
    return {
        (found.asset_key.path[-1], found.check_name): found.metadata["ml_pipeline/tenants"].value
        for found in evaluations(instance)
    }


def undocumented(instance: dg.DagsterInstance, spec: ModelSpec) -> set[str]:
    """Keys of metadata that runs have written and docs/reference/dagster.md does not list; business metrics apart."""
    made = [
        record.asset_materialization
        for key in instance.all_asset_keys()
        for record in instance.fetch_materializations(key, limit=1000).records
    ]
    written = {key for found in [*made, *evaluations(instance)] for key in found.metadata}
    page = (PROJECT_ROOT / "docs/reference/dagster.md").read_text()
    titles = [metric.title for metric in spec.business_metrics]
    business = {metadata_key(f"{title}{end}") for title in titles for end in ("", ", of the baseline")}
    return written - business - set(re.findall(r"`(ml_pipeline/\w+)`", page))


def test_the_whole_job_on_the_storages_of_production(postgres_instance, installed, spec, history):
    instance, tenants = postgres_instance, ["acme", "globex"]
    add(instance, installed, history, tenants)
    assert run(instance, spec, "train", partitions.tenant_range(tenants, "acme", "globex")).success
    since = YESTERDAY - dt.timedelta(days=2)
    assert run(
        instance, spec, "monitor", partitions.tenant_day_range(tenants, "acme", "globex", since, YESTERDAY)
    ).success
    events = instance.fetch_materializations(dg.AssetKey([spec.name, "drift_report"]), limit=100).records
    assert {record.partition_key for record in events} == {
        f"{since + dt.timedelta(days=n)}|{tenant}" for n in range(3) for tenant in tenants
    }
    model = instance.get_latest_materialization_event(dg.AssetKey([spec.name, "model"]))
    shown = model.asset_materialization.metadata
    assert {"ml_pipeline/decision", "ml_pipeline/version", "ml_pipeline/mae", "ml_pipeline/test"} <= set(shown)
    assert checked(instance) == {
        ("features", "data_quality"): 2,
        ("model", "beats_baseline"): 2,
        ("daily_metrics", "outcome_completeness"): 2,
        ("drift_report", "drift"): 0,  # too few rows in a week
        ("drift_report", "health"): 2,
    }
    assert undocumented(instance, spec) == set()
