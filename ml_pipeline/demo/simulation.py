"""Simulation of the last weeks of a demo tenant, day by day, with the steps of production.

Predictions, metrics, reports, the rollback watch and the retraining decisions of a day are those that schedules and
sensors would have made. A retraining by schedule or volume is trained at once, without a run of Dagster; at any other
approved retraining the simulation stops, and Dagster runs it.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec
from ml_pipeline.work.context import Clients
from ml_pipeline.work.deployment.rollback_watch import due_watches, look_at
from ml_pipeline.work.feature_frames import FeatureFrames
from ml_pipeline.work.monitoring.task import MonitoringTask, run_monitoring
from ml_pipeline.work.retraining.decide import Approved, decide_for
from ml_pipeline.work.training.task import PREDICTIONS, STEPS, TrainingTask, run_training

DAY = dt.timedelta(days=1)
ROUTINE = ("schedule", "volume")  # triggers of retrainings that need no run of Dagster in the simulation
LOOKED_AT = dt.timedelta(hours=3)  # after midnight, when the reports of the nightly run exist


class SimulationInterrupted(Exception):
    """A step of a day failed; the message names the tenant, the day and the error."""


@dataclass(frozen=True)
class SimulationWindow:
    """Days of one tenant and model to simulate, up to and including ``until``; without ``decides``, no retraining."""

    settings: Settings
    spec: ModelSpec
    tenant: str
    since: dt.date
    until: dt.date
    decides: bool
    lease: str = ""  # lease of the process that runs approved retrainings


@dataclass(frozen=True)
class Simulated:
    """The last simulated day, and the retraining that was approved after it, or None."""

    last: dt.date
    approved: Approved | None = None


def simulate_days(window: SimulationWindow) -> Simulated:
    """Simulate days until a retraining is approved or the window ends. Runs in a worker process.

    The source rows are read once: the source must not change meanwhile.

    Raises
    ------
    SimulationInterrupted
        If a step fails.
    """
    clients, own, day = Clients(window.settings), window.settings.for_workers(), window.since
    frames = FeatureFrames(Clients(own).warehouse)
    while day <= window.until:
        midnight = dt.datetime.combine(day + DAY, dt.time(), dt.UTC)
        scored = TrainingTask(own, window.spec, window.tenant, midnight.isoformat(), (PREDICTIONS,))
        _succeed(window, day, run_training(scored, frames).error)
        monitored = MonitoringTask(own, window.spec, window.tenant, (day,))
        _succeed(window, day, run_monitoring(monitored, frames).error)
        now = midnight + LOOKED_AT
        for watched in due_watches(clients, now):
            if (watched.tenant, watched.model) == (window.tenant, window.spec.name):
                look_at(clients, window.spec, watched, now)
        if window.decides:
            specs = {window.spec.name: window.spec}
            tick = decide_for(clients, specs, [window.tenant], now, lease=window.lease)
            if tick.approved and tick.approved[0].trigger not in ROUTINE:
                return Simulated(day, tick.approved[0])
            if tick.approved:
                _train(window, own, tick.approved[0], now, frames)
        day += DAY
    return Simulated(window.until)


def _train(
    window: SimulationWindow, own: Settings, approved: Approved, now: dt.datetime, frames: FeatureFrames
) -> None:
    decision = str(approved.decision_id)
    task = TrainingTask(own, window.spec, window.tenant, now.isoformat(), STEPS, decision, approved.action)
    _succeed(window, now.date() - DAY, run_training(task, frames).error)


def _succeed(window: SimulationWindow, day: dt.date, error: str | None) -> None:
    if error is not None:
        raise SimulationInterrupted(f"tenant {window.tenant}, model {window.spec.name}, {day}: {error}")
