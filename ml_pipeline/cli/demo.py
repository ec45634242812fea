"""``ml-pipeline demo``: the main job on four simulated tenants, and seven simulated weeks of one of their models."""

from __future__ import annotations

import datetime as dt
import os
import time
import uuid
from collections.abc import Iterable, Sequence

import dagster as dg
import pandas as pd

from ml_pipeline import launch, partitions
from ml_pipeline.cli.common import console, prepared, progress_bar, recover_and_tell
from ml_pipeline.cli.demo_timeline import print_timeline, simulated_until
from ml_pipeline.cli.status import show_status
from ml_pipeline.demo.simulation import DAY, SimulationWindow, simulate_days
from ml_pipeline.demo.simulator import History, Organisation, demo_organisations, simulate
from ml_pipeline.importers import import_tables
from ml_pipeline.lifecycle.retraining import Request
from ml_pipeline.resources.compute import Compute, start_fork_server
from ml_pipeline.resources.connections import bounded_workers
from ml_pipeline.resources.folders import hide_new_files, make_home, own_folder
from ml_pipeline.resources.leases import lease
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import COMMAND, Settings, load_settings
from ml_pipeline.specs import load_specs
from ml_pipeline.work.context import Clients
from ml_pipeline.work.retraining.decide import Approved, decide_for
from ml_pipeline.work.tenant_settings import AUTO_RETRAIN, OFF_PEAK, write_setting

MODEL = "story_points"  # simulated day by day; the other models are trained as of now
REPORTED_DAYS = 14
SIMULATED_DAYS = 49
BROKEN_DAYS_AGO = 21
MISLED, BROKEN_FACTOR = "umbrella", 3.0
NEXT_COMMANDS = {
    "up": "Dagster and MLflow in the browser",
    f"explain --tenant initech --model {MODEL}": "the last decisions, with their numbers",
    f"replay --tenant initech --model {MODEL} --against weekly": "what another policy would have done; takes a minute",
    "import jira FILE": "your own issues (docs/how-to/import.md)",
    "run": "train models for them",
}
OFFSET = pd.Timestamp("2026-06-01", tz="UTC")  # a Monday


class Demo:
    """The steps of the demo; each continues from what an earlier or interrupted demo has done."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, lease: str = "") -> None:
        self.settings = settings
        self.lease = lease  # lease of this process, recorded with approved retrainings
        self.instance = instance
        self.warehouse = Warehouse(settings)
        self.spec = load_specs(settings.specs)[MODEL]
        self.yesterday = partitions.today() - DAY
        self.broken_on = self.yesterday - BROKEN_DAYS_AGO * DAY
        self.histories: dict[str, History] = {}
        self.failures: list[str] = []
        self.known: list[str] = []

    def simulate(self) -> None:
        """Import ten months of data per tenant. The data are always the same, moved by whole weeks to end now."""
        now = pd.Timestamp.now("UTC").floor("h")
        monday = now.normalize() - pd.Timedelta(days=now.weekday())
        organisations = demo_organisations(OFFSET + (now - monday))
        there = set(self.warehouse.tenants())
        with progress_bar("Simulating ten months", len(organisations)) as advance:
            for organisation in organisations:
                history = _moved(organisation, monday - OFFSET)
                self.histories[organisation.tenant_id] = history
                if organisation.tenant_id not in there:
                    write_setting(self.warehouse, organisation.tenant_id, MODEL, AUTO_RETRAIN, True, "demo")
                    write_setting(self.warehouse, organisation.tenant_id, MODEL, OFF_PEAK, "0-0", "demo")
                import_tables(self.warehouse, organisation.tenant_id, history.issues, history.pull_requests)
                advance(organisation)
        self.known = launch.add_partitions(self.instance, self.warehouse.tenants())

    @property
    def tenants(self) -> list[str]:
        return list(self.histories)

    def train(self) -> None:
        """Train the other models as of now, and ``MODEL`` as of seven weeks ago for tenants without reports."""
        others = [name for name in load_specs(self.settings.specs) if name != MODEL]
        fresh = [tenant for tenant in self.tenants if simulated_until(self.warehouse, tenant, MODEL) is None]
        began = self.yesterday - SIMULATED_DAYS * DAY
        with progress_bar("Training and predicting", len(self.tenants) * len(others) + len(fresh)) as advance:
            self._launched(launch.train(self.instance, self.known, self.tenants, others, "", advance))
            if fresh:
                as_of = f"{began}T00:00:00+00:00"
                self._launched(launch.train(self.instance, self.known, fresh, [MODEL], as_of, advance))

    def simulate_days(self) -> None:
        """Simulate every day until yesterday; approved retrainings are executed as Dagster runs."""
        if simulated_until(self.warehouse, MISLED, MODEL) == self.broken_on:  # an earlier demo ended on this day
            self._mislead()
        tenants: Sequence[str] = self.tenants
        with progress_bar(f"Simulating {SIMULATED_DAYS} days, parts done", None) as advance:
            while windows := self._windows(tenants):
                compute = Compute(bounded_workers(self.settings), self.settings.tenant_timeout, advance)
                tenants = list(self._simulated(compute, windows))

    def _windows(self, tenants: Sequence[str]) -> list[tuple[str, SimulationWindow]]:
        """The days that remain to be simulated, by tenant; those of ``MISLED`` first end on ``broken_on``."""
        windows = []
        for tenant in tenants:
            last = simulated_until(self.warehouse, tenant, MODEL)
            since = self.yesterday - (SIMULATED_DAYS - 1) * DAY if last is None else last + DAY
            until = self.broken_on if tenant == MISLED and since <= self.broken_on else self.yesterday
            if since <= until:
                window = SimulationWindow(self.settings, self.spec, tenant, since, until, True, self.lease)
                windows.append((tenant, window))
        return windows

    def _simulated(self, compute: Compute, windows: Sequence[tuple[str, SimulationWindow]]) -> Iterable[str]:
        """The tenants that have days left after they were simulated.

        A retraining is run while the workers simulate other tenants.
        """
        for result in compute.map(simulate_days, windows):
            if result.error is not None:
                self.failures.append(f"{result.key}: {result.error}")
                continue
            last, approved = result.value.last, result.value.approved
            if approved is not None:
                self._run([approved], last)
            if result.key == MISLED and last == self.broken_on:
                self._mislead()
            if last < self.yesterday:
                yield result.key

    def _run(self, approved: Sequence[Approved], day: dt.date) -> None:
        as_of = f"{day + DAY}T03:00:00+00:00"
        self._launched(launch.retrain(self.instance, self.known, approved, lambda _: None, as_of))

    def _mislead(self) -> None:
        """Request a retraining on a broken export, as a person might, then load the correct export again."""
        right = self.histories[MISLED].issues
        broken = right.assign(story_points=right["story_points"] * BROKEN_FACTOR)
        import_tables(self.warehouse, MISLED, broken, None)
        now = dt.datetime.combine(self.broken_on + DAY, dt.time(3), dt.UTC)
        request = Request("demo", "a new export came in, whose story points are hours")
        specs = {MODEL: self.spec}
        tick = decide_for(Clients(self.settings), specs, [MISLED], now, request=request, lease=self.lease)
        self._run(tick.approved, self.broken_on)
        import_tables(self.warehouse, MISLED, right, None)

    def monitor(self) -> None:
        """Compute metrics and reports as Dagster partitions for every model; a backfill gives the same results."""
        since = max(partitions.days.start.date(), self.yesterday - (REPORTED_DAYS - 1) * DAY)
        models = list(load_specs(self.settings.specs))
        with progress_bar(f"Metrics and reports, {REPORTED_DAYS} days", len(self.tenants) * len(models)) as advance:
            self._launched(
                launch.monitor(self.instance, self.known, self.tenants, models, since, self.yesterday, advance)
            )

    def _launched(self, launched: launch.Launched) -> None:
        self.failures += launched.failures


def run_demo() -> None:
    """Simulate data, train, simulate seven weeks, print the timeline, and print the next commands."""
    started = time.monotonic()
    _import_for_workers()
    with prepared() as settings:
        own = str(uuid.uuid4())
        with launch.dagster_instance(settings) as instance, lease(settings, own):
            demo = Demo(settings, instance, own)
            recover_and_tell(instance, demo.warehouse)
            demo.simulate()
            demo.train()
            show_status(settings, load_specs(settings.specs), demo.tenants, (), as_json=False)
            console.print(
                f"Next: the last {SIMULATED_DAYS} days of {MODEL}, day by day: predictions, reports, retrainings, "
                "rollbacks. This takes about a minute."
            )
            demo.simulate_days()
            demo.monitor()
        show_status(settings, load_specs(settings.specs), demo.tenants, (), as_json=False)
        print_timeline(demo.warehouse, demo.tenants, MODEL)
    for failure in demo.failures:
        console.say(("Failed:", "red"), f" {failure}")
    console.print(f"Done in {time.monotonic() - started:.0f} s. All data are stored under {settings.home}.\n")
    for command, purpose in NEXT_COMMANDS.items():
        console.print(f"  # {purpose}\n  {COMMAND} {command}", soft_wrap=True)
    if demo.failures:
        raise SystemExit(1)


def _import_for_workers() -> None:
    """Let the fork server import what the workers need while this process prepares the database."""
    hide_new_files()
    home = load_settings().home
    make_home(home)
    own_folder(home / "logs", os.geteuid(), os.getegid())
    start_fork_server(home / "logs" / "workers.log")


def _moved(organisation: Organisation, by: pd.Timedelta) -> History:
    """Simulated history of an organisation, with all times moved by whole weeks."""
    history = simulate(organisation)
    return History(
        *(
            frame.assign(**{name: frame[name] + by for name in frame.select_dtypes("datetimetz").columns})
            for frame in (history.issues, history.pull_requests)
        )
    )
