"""A hundred commands that are killed at a random moment, and what an installation is like afterwards.

Each is killed by SIGKILL: the command alone, one of the processes that it started (a worker, the database server), or
all of them at once. Afterwards the installation is opened as the next command opens it, and must hold no half of
anything. The moments follow from a seed in the test's name, so that one that fails can be played again.
"""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import dagster as dg
import pandas as pd
import pytest
import sqlalchemy as sa

from ml_pipeline.cli.common import installation
from ml_pipeline.demo.simulator import demo_organisations, simulate
from ml_pipeline.importers import import_tables
from ml_pipeline.launch import dagster_instance
from ml_pipeline.recovery import BEGUN, recover
from ml_pipeline.resources import tables
from ml_pipeline.resources.preparation import prepare
from ml_pipeline.resources.snapshots import Snapshots
from ml_pipeline.settings import Settings
from ml_pipeline.work.context import Clients
from ml_pipeline.work.retraining.decide import waiting
from tests.processes import environment_of, free_port, left_after, processes_of, started

pytestmark = pytest.mark.slow

MODEL = "story_points"
TENANTS = ("acme", "globex")
ROWS = 60_000  # three chunks of an import
PATIENCE = 300.0
SECONDS_TO_END = 20.0  # within which everything that a killed command started has to be gone


class Campaign:
    """One installation with two trained tenants, on which commands are killed."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.log = folder / "commands.log"
        self.export = folder / "initech.csv"
        self.hits = 0  # of kills that met a command which still ran
        self.added = 0

    @contextmanager
    def opened(self) -> Iterator[Settings]:
        """The installation as the next command opens it."""
        with mock.patch.dict(os.environ, environment_of(self.home), clear=True), installation() as settings:
            prepare(settings)
            yield settings

    def set_up(self) -> None:
        """Two tenants with two versions each."""
        now = pd.Timestamp.now("UTC").floor("h")
        with self.opened() as settings:
            for organisation in demo_organisations(now)[: len(TENANTS)]:
                import_tables(Clients(settings).warehouse, organisation.tenant_id, simulate(organisation).issues, None)
        self.run(["run", "--model", MODEL, "--as-of", f"{(now - pd.Timedelta(days=60)).date()}"])
        self.run(["run", "--model", MODEL, "--days", "0"])
        with self.export.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["Issue key", "Created", "Summary"])
            writer.writerows([f"INI-{row}", "2026-03-02T10:00:00Z", f"Issue {row}"] for row in range(ROWS))

    def run(self, arguments: list[str]) -> float:
        """Runs a command to its end; returns its seconds."""
        began = time.monotonic()
        with started(arguments, environment_of(self.home), self.log) as process:
            assert process.wait(PATIENCE) == 0, self.log.read_text()[-3000:]
        return time.monotonic() - began

    def add_issue(self) -> None:
        """One more outcome, so that the next training has something to do."""
        self.added += 1
        now = pd.Timestamp.now("UTC").floor("s")
        issue = {
            "issue_key": [f"ADDED-{self.added}"],
            "created_at": [now - pd.Timedelta(days=9)],
            "resolved_at": [now - pd.Timedelta(hours=1)],
            "story_points": [3.0],
            "summary": ["One more issue"],
        }
        with self.opened() as settings:
            for tenant in TENANTS:
                import_tables(Clients(settings).warehouse, tenant, pd.DataFrame(issue), None)

    def kill(self, arguments: list[str], seed: str, within: float, **variables: str) -> None:
        """Starts a command and kills it, or what it started, at a moment of the first ``within`` seconds."""
        draw = random.Random(seed)
        after = draw.uniform(0, within)
        with started(arguments, environment_of(self.home, **variables), self.log) as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(after)
            self.hits += process.poll() is None
            victims = sorted(set(processes_of(self.home)) - {process.pid})
            whom = draw.choices(["command", "child", "all"], weights=[5, 3, 2])[0]
            if whom == "child" and victims:
                end(draw.choice(victims))
                time.sleep(draw.uniform(0, 2))
            if whom == "all":
                for victim in victims:
                    end(victim)
            end(process.pid)
            process.wait(PATIENCE)


def end(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def check(campaign: Campaign) -> None:
    """What has to hold whatever was killed when."""
    left = left_after(campaign.home, SECONDS_TO_END)
    assert left == {}, f"still there after {SECONDS_TO_END:.0f} s: {left}"
    with campaign.opened() as settings:
        clients = Clients(settings)
        for deployment, what in clients.deployer.reconcile():
            assert what in ("done", "undone", "settled meanwhile"), f"{deployment}: {what}"
        for tenant in TENANTS:
            check_versions(clients, tenant)
            check_rows(clients, tenant)
        check_runs(settings)


def check_versions(clients: Clients, tenant: str) -> None:
    """Every version is whole and registered once; the aliases are where the last deployment left them."""
    versions = clients.registry.versions(tenant, MODEL)
    for version in versions:
        with clients.registry.files(version):
            pass
    twice = [key for key, count in Counter(version.tags["key"] for version in versions).items() if count > 1]
    assert twice == []
    champion, last = clients.registry.aliased(tenant, MODEL), clients.deployer.last_deployment(tenant, MODEL)
    assert champion is not None and last is not None
    assert (last["state"], last["version"]) == ("done", champion.number)


def check_rows(clients: Clients, tenant: str) -> None:
    """Every snapshot holds what its row says; predictions are of versions that exist."""
    numbers = {version.number for version in clients.registry.versions(tenant, MODEL)}
    with clients.warehouse.tenant(tenant) as connection:
        snapshots = connection.execute(sa.select(tables.feature_sets)).mappings().all()
        predicted = set(connection.scalars(sa.select(tables.predictions.c.version).distinct()))
    for snapshot in snapshots:
        frame = Snapshots(clients.settings).read(snapshot["path"], snapshot["snapshot_hash"], tenant=tenant)
        assert len(frame) == snapshot["rows"]
    assert predicted <= numbers | {0}


def check_runs(settings: Settings) -> None:
    """No run of Dagster goes on without a process, and no decision waits for one that died."""
    with dagster_instance(settings) as instance:
        warehouse = Clients(settings).warehouse
        recover(instance, warehouse)
        assert instance.get_runs(dg.RunsFilter(statuses=BEGUN)) == []
        assert [item for item in waiting(warehouse) if item.lease] == []


@pytest.fixture(scope="module")
def campaign() -> Iterator[Campaign]:
    # Not in pytest's own folder, which is closed to the user that PostgreSQL runs as when root runs the tests.
    with TemporaryDirectory(prefix="ml-pipeline-kills-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        campaign = Campaign(Path(folder))
        campaign.set_up()
        yield campaign


@pytest.mark.parametrize("seed", range(20))
def test_a_killed_import_leaves_whole_chunks_and_can_be_repeated(campaign: Campaign, seed: int):
    arguments = ["import", "jira", str(campaign.export)]
    campaign.kill(arguments, f"import {seed}", within=5.0)
    check(campaign)
    assert issues_of(campaign, "initech") % 20_000 == 0
    if seed % 5 == 0:
        campaign.run(arguments)
        assert issues_of(campaign, "initech") == ROWS


def issues_of(campaign: Campaign, tenant: str) -> int:
    with campaign.opened() as settings, Clients(settings).warehouse.tenant(tenant) as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(tables.issues)) or 0


@pytest.mark.parametrize("seed", range(20))
def test_a_killed_run_leaves_no_half_version_and_the_next_one_finishes(campaign: Campaign, seed: int):
    campaign.add_issue()
    campaign.kill(["run", "--model", MODEL, "--days", "2"], f"run {seed}", within=20.0)
    check(campaign)
    if seed % 5 == 0:
        campaign.run(["run", "--model", MODEL, "--days", "2"])
        check(campaign)


@pytest.mark.parametrize("seed", range(15))
def test_a_killed_retraining_blocks_no_later_one(campaign: Campaign, seed: int):
    campaign.add_issue()
    arguments = ["retrain", "--tenant", "acme", "--model", MODEL, "--reason", f"campaign {seed}"]
    campaign.kill(arguments, f"retrain {seed}", within=12.0)
    check(campaign)
    if seed % 5 == 0:
        campaign.run(arguments)


@pytest.mark.parametrize("seed", range(10))
def test_a_killed_promotion_is_finished_or_undone(campaign: Campaign, seed: int):
    with campaign.opened() as settings:
        versions = Clients(settings).registry.versions("acme", MODEL)
    number = str(versions[seed % 2].number)
    arguments = ["promote", "--tenant", "acme", "--model", MODEL, "--version", number]
    campaign.kill(arguments, f"promote {seed}", within=4.0)
    check(campaign)


@pytest.mark.parametrize("seed", range(10))
def test_a_killed_rollback_is_finished_or_undone(campaign: Campaign, seed: int):
    with campaign.opened() as settings:
        clients = Clients(settings)
        serving = clients.registry.aliased("globex", MODEL)
        other = next(found for found in clients.registry.versions("globex", MODEL) if found.number != serving.number)
    arguments = ["rollback", "--tenant", "globex", "--model", MODEL, "--to", str(other.number)]
    campaign.kill(arguments, f"rollback {seed}", within=4.0)
    check(campaign)


@pytest.mark.parametrize("seed", range(15))
def test_services_that_are_killed_leave_nothing_running(campaign: Campaign, seed: int):
    ports = {"ML_PIPELINE_DAGSTER_PORT": str(free_port()), "ML_PIPELINE_MLFLOW_PORT": str(free_port())}
    campaign.kill(["up"], f"up {seed}", within=30.0, **ports)
    check(campaign)


def test_most_kills_met_a_command_that_still_ran(campaign: Campaign):
    assert campaign.hits >= 60


def test_a_demo_that_is_killed_ten_times_ends_with_its_four_stories():
    with TemporaryDirectory(prefix="ml-pipeline-kills-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        campaign = Campaign(Path(folder))
        for seed in range(10):
            campaign.kill(["demo"], f"demo {seed}", within=40.0)
            assert left_after(campaign.home, SECONDS_TO_END) == {}
        with started(["demo"], environment_of(campaign.home), campaign.log) as process:
            assert process.wait(4 * PATIENCE) == 0, campaign.log.read_text()[-3000:]
        with campaign.opened() as settings:
            assert len(Clients(settings).warehouse.tenants()) == 4
            check_runs(settings)
