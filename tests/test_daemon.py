"""A real daemon with its code server against PostgreSQL: new tenants, a missed night, a retraining that was decided."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from dagster._core.scheduler.instigation import InstigatorType, ScheduleInstigatorData

from ml_pipeline import partitions
from ml_pipeline.importers import import_tables
from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import Registry
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import PROJECT_ROOT, Settings
from ml_pipeline.specs import load_specs
from ml_pipeline.work.context import Clients
from ml_pipeline.work.monitoring.task import MonitoringTask, run_monitoring
from ml_pipeline.work.retraining.decide import decide_for, waiting
from ml_pipeline.work.tenant_settings import EVERY_MODEL, write_setting
from ml_pipeline.work.training.task import TrainingTask, run_training

pytestmark = pytest.mark.long

PATIENCE = 120.0


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installation of this test, for this process and those that it starts."""
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    monkeypatch.setenv("ML_PIPELINE_HOME", str(settings.home))
    monkeypatch.setenv("ML_PIPELINE_WORKERS", "1")
    monkeypatch.setenv("DAGSTER_HOME", str(PROJECT_ROOT))


@pytest.fixture
def instance(environment: None) -> Iterator[dg.DagsterInstance]:
    """The instance of the project's own dagster.yaml, on the test's database."""
    with dg.DagsterInstance.get() as instance:
        yield instance


@contextmanager
def daemon(log: Path) -> Iterator[None]:
    """The daemon, in a process group of its own with everything that it starts."""
    command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(PROJECT_ROOT / "workspace.yaml")]
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=output, stderr=output, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        with suppress(ProcessLookupError):  # a code server that is told to end while it starts may stay
            os.killpg(process.pid, signal.SIGKILL)


def becomes_true(condition: Callable[[], bool], log: Path, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {PATIENCE:.0f} s. The daemon's last words:\n{log.read_text()[-3000:]}")
        time.sleep(0.25)


def issues(count: int) -> pd.DataFrame:
    """Issues of the last months, estimated a day after they came."""
    rng = np.random.default_rng(3)
    created = pd.Timestamp.now("UTC").floor("h") - pd.to_timedelta(np.linspace(100, 1, count), unit="D")
    return pd.DataFrame(
        {
            "issue_key": [f"A-{number}" for number in range(count)],
            "issue_type": rng.choice(["Bug", "Story"], count),
            "summary": "an issue",
            "created_at": created,
            "estimated_at": created + pd.Timedelta(days=1),
            "story_points": rng.choice([1.0, 3.0, 5.0], count),
        }
    )


def sleep_through_a_night(instance: dg.DagsterInstance) -> None:
    """Sets the clock of the nightly schedule back to where a daemon left it that has not run for two days."""
    [state] = [
        state
        for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
        if state.instigator_name == "nightly"
    ]
    stopped = dt.datetime.now(dt.UTC) - dt.timedelta(days=2)
    data = ScheduleInstigatorData(state.instigator_data.cron_schedule, start_timestamp=stopped.timestamp())
    instance.update_instigator_state(state.with_data(data))


def has_nightly_state(instance: dg.DagsterInstance) -> bool:
    states = instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE)
    return any(state.instigator_name == "nightly" for state in states)


def runs_of_the_schedule(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    return instance.get_runs(dg.RunsFilter(job_name="monitor", tags={"dagster/schedule_name": "nightly"}))


def monitored_days(warehouse: Warehouse, tenant: str) -> set[dt.date]:
    with warehouse.tenant(tenant) as connection:
        return set(connection.scalars(sa.select(tables.daily_metrics.c.day)))


def test_a_new_tenant_becomes_a_partition_and_the_night_that_was_missed_is_made_up(
    instance: dg.DagsterInstance, warehouse: Warehouse, tmp_path: Path
):
    log = tmp_path / "daemon.log"
    name = str(partitions.tenants.name)
    import_tables(warehouse, "acme", issues(200), None)
    with daemon(log):
        becomes_true(lambda: instance.get_dynamic_partitions(name) == ["acme"], log, "the tenant is a partition")
        becomes_true(lambda: has_nightly_state(instance), log, "the nightly schedule is watched")
    assert runs_of_the_schedule(instance) == []

    sleep_through_a_night(instance)
    with daemon(log):
        becomes_true(
            lambda: any(run.is_finished for run in runs_of_the_schedule(instance)), log, "the nightly run has ended"
        )
    [run] = runs_of_the_schedule(instance)
    assert run.status is dg.DagsterRunStatus.SUCCESS
    day = (dt.datetime.now(dt.UTC) - dt.timedelta(hours=2)).date() - dt.timedelta(days=1)
    assert monitored_days(warehouse, "acme") == {day}
    key = dg.AssetKey(["story_points", "drift_report"])
    assert instance.get_materialized_partitions(key) == {f"{day}|acme"}


def lose_what_it_knew(warehouse: Warehouse, tenant: str) -> None:
    """Yesterday's report says that the loss of version 1 has doubled; retraining is switched on."""
    performance = {"status": "degraded", "severity": "CRITICAL", "rise": 1.0, "since": None, "outcomes": 60}
    row = {"tenant_id": tenant, "model": "story_points", "day": partitions.today() - dt.timedelta(days=1)}
    row |= {"status": "stable", "score": 0.0, "baseline_rows": 200, "current_rows": 42, "drifted": [], "columns": {}}
    row |= {"reason": "", "version": 1, "performance": performance}
    with warehouse.tenant(tenant) as connection:
        warehouse.upsert(connection, tables.drift_reports, [row])
    write_setting(warehouse, tenant, EVERY_MODEL, "auto_retrain", True, "test")


def retraining_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    return list(instance.get_runs(dg.RunsFilter(job_name="train", tags={"dagster/sensor_name": "retraining"})))


def test_a_daemon_retrains_once_what_lost_its_knowledge_also_if_killed_in_between(
    instance: dg.DagsterInstance, settings: Settings, warehouse: Warehouse, tmp_path: Path
):
    log, spec = tmp_path / "daemon.log", load_specs()["story_points"]
    instance.add_dynamic_partitions(str(partitions.tenants.name), ["acme"])
    import_tables(warehouse, "acme", issues(300), None)
    month_ago = (dt.datetime.now(dt.UTC) - dt.timedelta(days=30)).isoformat()
    assert run_training(TrainingTask(settings, spec, "acme", month_ago)).error is None
    days = tuple(partitions.today() - dt.timedelta(days=ago) for ago in range(30, 0, -1))
    assert run_monitoring(MonitoringTask(settings, spec, "acme", days)).error is None
    lose_what_it_knew(warehouse, "acme")
    tick = decide_for(Clients(settings), {spec.name: spec}, ["acme"], dt.datetime.now(dt.UTC))
    (approved,) = tick.approved  # and there the process that decided ends, before it asked for the run

    with daemon(log):
        becomes_true(lambda: any(run.is_finished for run in retraining_runs(instance)), log, "the retraining has ended")
        becomes_true(lambda: waiting(warehouse) == [], log, "the decision is settled")
    (run,) = retraining_runs(instance)
    assert run.status is dg.DagsterRunStatus.SUCCESS
    assert run.tags["ml_pipeline/decision"] == str(approved.decision_id)
    assert (run.tags["ml_pipeline/trigger"], run.tags["ml_pipeline/severity"]) == ("degradation", "CRITICAL")
    versions = Registry(settings).versions("acme", "story_points")
    assert [version.tags.get("asked_by", "") for version in versions] == [str(approved.decision_id), ""]
    assert versions[0].tags["parent_version"] == "1"
