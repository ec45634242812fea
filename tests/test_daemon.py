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
from ml_pipeline.work.retraining.decide import Approved, decide_for, waiting
from ml_pipeline.work.tenant_settings import EVERY_MODEL, write_setting
from ml_pipeline.work.training.task import TrainingTask, run_training

pytestmark = pytest.mark.long

PATIENCE = 120.0


@pytest.fixture
def instance(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """The instance of the project's own dagster.yaml, on the test's database; its environment is that of the daemon."""
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    monkeypatch.setenv("ML_PIPELINE_HOME", str(settings.home))
    monkeypatch.setenv("ML_PIPELINE_WORKERS", "1")
    monkeypatch.setenv("DAGSTER_HOME", str(PROJECT_ROOT))
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


def has_ended(runs: list[dg.DagsterRun]) -> bool:
    return any(run.is_finished for run in runs)


def monitored_days(warehouse: Warehouse, tenant: str) -> set[dt.date]:
    with warehouse.tenant(tenant) as connection:
        return set(connection.scalars(sa.select(tables.daily_metrics.c.day)))


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


def forget_what_was_approved(settings: Settings, warehouse: Warehouse) -> Approved:
    """A version of globex loses its knowledge, and the process that approves its retraining ends before it asks."""
    spec = load_specs()["story_points"]
    month_ago = (dt.datetime.now(dt.UTC) - dt.timedelta(days=30)).isoformat()
    assert run_training(TrainingTask(settings, spec, "globex", month_ago)).error is None
    days = tuple(partitions.today() - dt.timedelta(days=ago) for ago in range(30, 0, -1))
    assert run_monitoring(MonitoringTask(settings, spec, "globex", days)).error is None
    lose_what_it_knew(warehouse, "globex")
    tick = decide_for(Clients(settings), {spec.name: spec}, ["globex"], dt.datetime.now(dt.UTC))
    (approved,) = tick.approved
    return approved


def test_new_tenants_become_partitions_what_was_approved_is_retrained_once_and_a_missed_night_is_made_up(
    instance: dg.DagsterInstance, settings: Settings, warehouse: Warehouse, tmp_path: Path
):
    """One daemon finds two tenants and an approved retraining; the next one, days later, a night that was missed.

    The sentences are one test, because each daemon takes many seconds to start.
    """
    log, name = tmp_path / "daemon.log", str(partitions.tenants.name)
    instance.add_dynamic_partitions(name, ["globex"])
    import_tables(warehouse, "globex", issues(300), None)
    approved = forget_what_was_approved(settings, warehouse)
    for new in ("acme", "initech"):
        import_tables(warehouse, new, issues(200), None)
    tenants = ["globex", "acme", "initech"]
    with daemon(log):
        becomes_true(lambda: instance.get_dynamic_partitions(name) == tenants, log, "the tenants are partitions")
        becomes_true(lambda: has_nightly_state(instance), log, "the nightly schedule is watched")
        becomes_true(lambda: has_ended(retraining_runs(instance)), log, "the retraining has ended")
        becomes_true(lambda: waiting(warehouse) == [], log, "the decision is settled")
    assert runs_of_the_schedule(instance) == []
    [run] = retraining_runs(instance)
    assert run.status is dg.DagsterRunStatus.SUCCESS
    assert run.tags["ml_pipeline/decision"] == str(approved.decision_id)
    assert (run.tags["ml_pipeline/trigger"], run.tags["ml_pipeline/severity"]) == ("degradation", "CRITICAL")
    versions = Registry(settings).versions("globex", "story_points")
    assert [version.tags.get("asked_by", "") for version in versions] == [str(approved.decision_id), ""]
    assert versions[0].tags["parent_version"] == "1"

    sleep_through_a_night(instance)
    with daemon(log):
        becomes_true(lambda: has_ended(runs_of_the_schedule(instance)), log, "the nightly run has ended")
    [run] = runs_of_the_schedule(instance)
    assert run.status is dg.DagsterRunStatus.SUCCESS
    day = (dt.datetime.now(dt.UTC) - dt.timedelta(hours=2)).date() - dt.timedelta(days=1)
    assert monitored_days(warehouse, "acme") == monitored_days(warehouse, "initech") == {day}
    key = dg.AssetKey(["story_points", "drift_report"])
    assert instance.get_materialized_partitions(key) == {f"{day}|{tenant}" for tenant in tenants}
    assert len(retraining_runs(instance)) == 1
