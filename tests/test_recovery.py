"""What died must not block: leases end with their process, and what it left is ended."""

import datetime as dt
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
import sqlalchemy as sa

from ml_pipeline import launch, partitions
from ml_pipeline.demo.simulator import Organisation, simulate
from ml_pipeline.importers import import_tables
from ml_pipeline.lifecycle.retraining import Request
from ml_pipeline.recovery import recover
from ml_pipeline.resources import leases, postgres, tables
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.leases import LEASE_TAG, held, lease
from ml_pipeline.resources.warehouse import TenantBusy, Warehouse
from ml_pipeline.sensors.retraining import under_way
from ml_pipeline.settings import Settings
from ml_pipeline.specs import load_specs
from ml_pipeline.work.context import Clients
from ml_pipeline.work.retraining.decide import DECISION_TAG, TENANT_TAG, decide_for, waiting

pytestmark = pytest.mark.long

STARTED = dg.DagsterRunStatus.STARTED
HOLDS = """
import sys
from ml_pipeline.resources.leases import lease
from ml_pipeline.settings import Settings
with lease(Settings(database_url=sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def instance(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    monkeypatch.setenv("ML_PIPELINE_HOME", str(settings.home))
    monkeypatch.setattr(leases, "LOST_SECONDS", 0.0)
    with dg.DagsterInstance.local_temp(str(settings.home)) as instance:
        yield instance


def a_process_that_holds(settings: Settings, *names: str) -> list[subprocess.Popen]:
    found = []
    for name in names:
        command = [sys.executable, "-c", HOLDS, str(settings.database_url), name]
        found.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for process in found:
        assert process.stdout.readline() == "held\n"
    return found


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL


def eventually(true) -> bool:
    """Within ten seconds: PostgreSQL hears at once of a connection that ended, and needs a moment to say so."""
    until = time.monotonic() + 10
    while not true() and time.monotonic() < until:
        time.sleep(0.02)
    return true()


def a_run(instance: dg.DagsterInstance, *, leased: bool = True, **tags) -> str:
    from ml_pipeline.definitions import defs

    run_id = str(uuid.uuid4())
    tags |= {partitions.PARTITION_TAG: "acme"} | ({LEASE_TAG: run_id} if leased else {})
    selection = {dg.AssetKey(["story_points", "model"])}
    job = defs.resolve_job_def("train")
    run = instance.create_run_for_job(job, run_id=run_id, tags=tags, status=STARTED, asset_selection=selection)
    return run.run_id


def status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    return instance.get_run_by_id(run_id).status


def test_a_lease_is_held_until_its_process_is_killed(settings: Settings, warehouse: Warehouse):
    (process,) = a_process_that_holds(settings, "one")
    assert held(warehouse, ["one", "two"]) == {"one"}
    with pytest.raises(leases.LeaseTaken, match="the lease one is held by another process"), lease(settings, "one"):
        pass
    end(process)
    assert eventually(lambda: held(warehouse, ["one"]) == set())
    with lease(settings, "one"):
        assert held(warehouse, ["one"]) == {"one"}
    assert eventually(lambda: held(warehouse, ["one"]) == set())


def test_a_lease_that_is_lost_with_the_servers_connections_is_taken_again(settings, warehouse, monkeypatch, caplog):
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.05)
    with lease(settings, "one"):
        with postgres.engine(warehouse.url).begin() as connection:
            holder = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
            assert connection.scalar(sa.text(holder))
        assert eventually(lambda: "The lease one is held again." in caplog.text)
        assert held(warehouse, ["one"]) == {"one"}


def test_a_run_whose_process_was_killed_ends_and_counts_no_more_while_others_go_on(instance, settings, warehouse):
    warehouse.add_tenant("acme")
    killed, lives, unknown = a_run(instance), a_run(instance), a_run(instance, leased=False)
    first, second = a_process_that_holds(settings, killed, lives)
    assert recover(instance, warehouse).runs == []
    end(first)
    assert eventually(lambda: killed not in held(warehouse, [killed]))
    assert [run.run_id for run in recover(instance, warehouse).runs] == [killed]
    found = [status(instance, run_id).value for run_id in (killed, lives, unknown)]
    assert found == ["FAILURE", "STARTED", "STARTED"]
    assert under_way(instance, ["acme"], ["story_points"]) == {("acme", "story_points"): 2}
    (event,) = [one for one in instance.all_logs(killed) if one.dagster_event_type == dg.DagsterEventType.RUN_FAILURE]
    assert "died without an error" in event.message
    end(second)


def test_a_run_that_is_executed_again_is_not_taken_for_the_dead_one_whose_tags_it_has(instance, warehouse):
    again = a_run(instance, leased=False, **{LEASE_TAG: str(uuid.uuid4())})
    assert recover(instance, warehouse).runs == []
    assert status(instance, again) == dg.DagsterRunStatus.STARTED


def test_who_takes_its_lease_again_between_the_two_looks_is_not_ended(instance, settings, warehouse):
    run_id = a_run(instance)
    with ExitStack() as holding:
        sleep = lambda _: holding.enter_context(lease(settings, run_id))  # noqa: E731
        assert recover(instance, warehouse, sleep=sleep).runs == []
    assert status(instance, run_id) == dg.DagsterRunStatus.STARTED


def asked_for(settings: Settings, warehouse: Warehouse, lease_name: str = "") -> list:
    """A person asks for a retraining of acme, which has enough to learn from."""
    now = dt.datetime.now(dt.UTC)
    warehouse.add_tenant("acme")
    row = {"tenant_id": "acme", "model": "story_points", "snapshot_hash": "s", "as_of": now - dt.timedelta(days=9)}
    row |= {"rows": 300, "matured": 200, "path": "", "quality": {}, "quality_score": 90.0}
    with warehouse.tenant("acme") as connection:
        warehouse.upsert(connection, tables.feature_sets, [row])
    specs = {"story_points": load_specs()["story_points"]}
    return decide_for(Clients(settings), specs, ["acme"], now, request=Request("ann", ""), lease=lease_name).approved


def test_a_killed_retrain_settles_its_decision_and_can_be_asked_for_again_at_once(instance, settings, warehouse):
    (process,) = a_process_that_holds(settings, "command")
    (approved,) = asked_for(settings, warehouse, "command")
    run_id = a_run(instance, **{DECISION_TAG: str(approved.decision_id), TENANT_TAG: "acme"})
    recover(instance, warehouse)  # ends the run, of which nobody holds the lease, and with it the decision
    assert status(instance, run_id) == dg.DagsterRunStatus.FAILURE
    assert waiting(warehouse) == []
    (again,) = asked_for(settings, warehouse, "command")
    assert again.decision_id != approved.decision_id
    assert recover(instance, warehouse).decisions == []  # its command lives, and is about to begin the run
    end(process)
    assert eventually(lambda: held(warehouse, ["command"]) == set())
    assert recover(instance, warehouse).decisions == [str(again.decision_id)]
    assert len(asked_for(settings, warehouse)) == 1


def test_runs_of_commands_and_of_the_daemon_hold_their_lease_while_they_go_on(instance, settings, warehouse):
    seen = []

    @dg.op
    def look(context: dg.OpExecutionContext, installation: Installation) -> None:
        seen.append(held(warehouse, [context.run_id]) == {context.run_id})

    @dg.job(resource_defs={"installation": Installation()})
    def looks() -> None:
        look()

    result = looks.execute_in_process(instance=instance)
    assert seen == [True]
    assert instance.get_run_by_id(result.run_id).tags[LEASE_TAG] == result.run_id
    assert held(warehouse, [result.run_id]) == set()


def test_every_job_of_ours_holds_a_lease():
    from ml_pipeline.definitions import defs

    jobs = [job for job in defs.get_repository_def().get_all_jobs() if not job.name.startswith("__")]
    assert {job.name for job in jobs} >= {"train", "predict", "monitor", "rollback", "prune", "retention"}
    for job in jobs:
        for node in job.all_node_defs:
            assert "installation" in node.required_resource_keys, job.name


def test_waiting_for_a_tenant_is_not_cut_by_the_statement_timeout(settings: Settings, warehouse: Warehouse):
    impatient = Warehouse(settings.model_copy(update={"statement_timeout": 0.1}))
    with ThreadPoolExecutor(1) as pool:
        with warehouse.advisory_lock("acme", "train m"):
            waits = pool.submit(_alone, impatient)
            time.sleep(0.4)
            assert not waits.done()
        assert waits.result(10) == "train m is ours, and statements are cut again after 100ms"


def _alone(warehouse: Warehouse) -> str:
    with warehouse.advisory_lock("acme", "train m"), warehouse.tenant("acme") as connection:
        cut = connection.scalar(sa.text("SHOW statement_timeout"))
    return f"train m is ours, and statements are cut again after {cut}"


def test_who_waits_too_long_for_a_tenant_is_told_for_whom_and_what_to_do(settings: Settings, warehouse: Warehouse):
    hurried = Warehouse(settings.model_copy(update={"tenant_timeout": 0.2}))
    message = r"tenant acme: waited 0.2 s to train m, which the process behind PostgreSQL's session \d+ still does"
    with warehouse.advisory_lock("acme", "train m"):
        with hurried.advisory_lock("globex", "train m"), hurried.advisory_lock("acme", "deploy m"):
            pass
        with pytest.raises(TenantBusy, match=message), hurried.advisory_lock("acme", "train m"):
            pass


def test_a_killed_command_can_be_started_again_at_once(settings: Settings, warehouse: Warehouse, tmp_path: Path):
    """The command itself, killed in the middle of its run."""
    now = pd.Timestamp.now("UTC").floor("s")
    history = simulate(Organisation("acme", 7, now - pd.Timedelta(weeks=25), now, 8, 0, people=8, teams=2))
    import_tables(warehouse, "acme", history.issues, history.pull_requests)
    values = {"DATABASE_URL": str(settings.database_url), "ML_PIPELINE_HOME": str(tmp_path), "ML_PIPELINE_WORKERS": "1"}
    values |= {"DAGSTER_HOME": str(Path(launch.__file__).parent.parent)}
    command = [
        sys.executable,
        "-c",
        "from ml_pipeline.cli import main; main()",
        "run",
        "--model",
        "story_points",
        "--days",
        "0",
        "--json",
    ]
    process = subprocess.Popen(command, env=os.environ | values, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    runs = "SELECT run_id, status FROM dagster.runs ORDER BY id"

    def seen() -> list[tuple[str, str]]:
        with postgres.engine(warehouse.url).connect() as connection:
            if connection.scalar(sa.text("SELECT to_regclass('dagster.runs')")) is None:
                return []
            return [tuple(row) for row in connection.execute(sa.text(runs))]

    until = time.monotonic() + 60
    while not any(state == "STARTED" for _, state in seen()) and time.monotonic() < until:
        time.sleep(0.05)
    end(process)
    assert [state for _, state in seen()] == ["STARTED"]
    done = subprocess.run(command, env=os.environ | values, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "had died; it is marked as failed" in done.stderr
    assert [state for _, state in seen()] == ["FAILURE", "SUCCESS"]
