"""A real daemon with its code server against PostgreSQL: tenants become partitions, a missed night is made up."""

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
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import PROJECT_ROOT, Settings

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
