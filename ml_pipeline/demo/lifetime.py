"""The last weeks of a demo tenant, lived through day by day with the product's own steps.

Predictions, metrics, reports, the watch and the retraining decisions of a day are those that the schedules and sensors
would have made then. Where a retraining is approved the life stops, for its run is Dagster's.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec
from ml_pipeline.work.context import Doors
from ml_pipeline.work.deployment.rollback_watch import due_watches, look_at
from ml_pipeline.work.monitoring.task import MonitoringTask, run_monitoring
from ml_pipeline.work.retraining.decide import Approved, decide_for
from ml_pipeline.work.training.task import PREDICTIONS, TrainingTask, run_training

DAY = dt.timedelta(days=1)
LOOKED_AT = dt.timedelta(hours=3)  # after midnight: when the night's reports are there


class LifeInterrupted(Exception):
    """A step of a day failed; the message names the tenant, the day and the error."""


@dataclass(frozen=True)
class Life:
    """Some days of one tenant and model, ``until`` included. Without ``decides`` nothing is retrained."""

    settings: Settings
    spec: ModelSpec
    tenant: str
    since: dt.date
    until: dt.date
    decides: bool
    lease: str = ""  # of the process that runs what is approved


@dataclass(frozen=True)
class Lived:
    """The last day that was lived, and the retraining that was approved after it, if one was."""

    last: dt.date
    approved: Approved | None = None


def live(life: Life) -> Lived:
    """Lives on until a retraining is approved or the days are over. Runs in a worker process.

    Raises
    ------
    LifeInterrupted
        If a step fails.
    """
    doors, own, day = Doors(life.settings), life.settings.for_workers(), life.since
    while day <= life.until:
        midnight = dt.datetime.combine(day + DAY, dt.time(), dt.UTC)
        scored = TrainingTask(own, life.spec, life.tenant, midnight.isoformat(), (PREDICTIONS,))
        for error in (
            run_training(scored).error,
            run_monitoring(MonitoringTask(own, life.spec, life.tenant, (day,))).error,
        ):
            if error is not None:
                raise LifeInterrupted(f"tenant {life.tenant}, model {life.spec.name}, {day}: {error}")
        now = midnight + LOOKED_AT
        for watched in due_watches(doors, now):
            if (watched.tenant, watched.model) == (life.tenant, life.spec.name):
                look_at(doors, life.spec, watched, now)
        if life.decides:
            specs = {life.spec.name: life.spec}
            tick = decide_for(doors.warehouse, life.settings, specs, [life.tenant], now, lease=life.lease)
            if tick.approved:
                return Lived(day, tick.approved[0])
        day += DAY
    return Lived(life.until)
