"""Compares promoted versions with those that they replaced, from a day after their activation."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter

import dagster as dg

from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.specs import load_specs
from ml_pipeline.work.context import Clients
from ml_pipeline.work.deployment.rollback_watch import date_watches, due_watches, look_at

SECONDS_PER_TICK = 40.0  # Dagster ends a tick after 60; the next tick begins with the remaining watches


@dg.sensor(
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Compares each promoted version daily with the previous one, and rolls back a version that is worse.",
)
def rollback_watch(context: dg.SensorEvaluationContext, installation: Installation) -> dg.SkipReason:
    settings, now = installation.settings(), dt.datetime.now(dt.UTC)
    clients, specs, deadline = Clients(settings), load_specs(settings.specs), time.monotonic() + SECONDS_PER_TICK
    verdicts: Counter[str] = Counter()
    for watched in date_watches(clients, now):
        context.log.warning(
            f"{watched.tenant} {watched.model}: the watch over version {watched.version} is dated in the future, "
            "because the clock was set back. The watch begins again now"
        )
    due = [watched for watched in due_watches(clients, now) if watched.model in specs]
    for watched in due:
        if time.monotonic() > deadline:
            break
        try:
            decision = look_at(clients, specs[watched.model], watched, now)
        except Exception as error:  # noqa: BLE001 - shown on the tick's page; the watches of other tenants go on
            verdicts["failed"] += 1
            context.log.error(f"{watched.tenant} {watched.model}: {type(error).__name__}: {error}")
            continue
        verdicts[decision.verdict] += 1
        context.log.info(f"{watched.tenant} {watched.model}: {decision.verdict}. {decision.reason}")
    found = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()) or "none was due"
    return dg.SkipReason(f"{verdicts.total()} of {len(due)} watches evaluated: {found}.")
