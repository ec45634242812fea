"""The nightly run: metrics and drift of one day for every tenant and model of a simulated fleet.

Training a whole fleet takes hours and is not part of the nightly run. A few tenants are really trained, which also
measures the cost of their first night; for the others, the rows that a nightly run reads after some weeks (deployments,
predictions) are inserted with constant values.
"""

from __future__ import annotations

import datetime as dt
import importlib
import time
import uuid
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import sqlalchemy as sa

from benchmarks.installation import product_instance
from ml_pipeline import launch, partitions
from ml_pipeline.demo.simulator import fleet, simulate
from ml_pipeline.features.point_in_time import build
from ml_pipeline.importers import import_tables
from ml_pipeline.resources import tables
from ml_pipeline.resources.compute import PRELOAD
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.work.monitoring.task import DRIFT_REPORT, STEPS, MonitoringTask, run_monitoring
from ml_pipeline.work.monitoring.tenant_days import records

DAY = dt.timedelta(days=1)
TRAINED = 5
SERVED_EVERY = 2  # of 150 tenants x models trained in earnest, 80 got a champion
SERVING_SINCE = 60 * DAY
PROFILED_EVERY = 33
PARTS = ("read", "build", "task", "again", "drift")


def nightly_run(settings: Settings, count: int, seed: int) -> dict[str, Any]:
    """Seconds of yesterday's nightly run through the ``monitor`` job, in total and by part, without loading."""
    yesterday = partitions.today() - DAY
    before = yesterday - DAY
    tenants, models = load_fleet(settings, count, seed), list(load_specs())
    trained, others = tenants[:TRAINED], tenants[TRAINED:]
    as_of = _midnight(before).isoformat()
    with product_instance(settings) as instance:
        known = launch.add_partitions(instance, tenants)
        training = _timed(lambda: launch.train(instance, known, trained, models, as_of, _silent))
        first = _timed(lambda: launch.monitor(instance, known, trained, models, before, before, _silent))
        served = stage(settings, others, _midnight(yesterday))
        parts = part_milliseconds(settings, others[::PROFILED_EVERY], yesterday)
        before_night = backtests(settings)
        night = _timed(lambda: launch.monitor(instance, known, tenants, models, yesterday, yesterday, _silent))
        check(instance, tenants, models, yesterday)
        made = backtests(settings)
    work = count * len(models) * parts["task"] / 1000 / settings.workers
    return {
        "wave_tenants": count,
        "wave_tenants_trained": TRAINED,
        "wave_training_seconds_per_model": training / TRAINED / len(models),
        "wave_first_night_seconds_per_model": first / TRAINED / len(models),
        "wave_served_models": served,
        "wave_backtested_models": sum(count != before_night.get(of, 0) for of, count in made.items()),
        f"wave_seconds_{count}": night,
        "wave_work_seconds": work,
        **{f"wave_ms_{name}": value for name, value in parts.items()},
    }


def load_fleet(settings: Settings, count: int, seed: int) -> list[str]:
    """Simulates and imports a year of ``count`` tenants; returns their names."""
    warehouse = Warehouse(settings)
    organisations = fleet(count, pd.Timestamp(partitions.today(), tz="UTC"), seed)
    for organisation in organisations:
        history = simulate(organisation)
        import_tables(warehouse, organisation.tenant_id, history.issues, history.pull_requests)
    return [organisation.tenant_id for organisation in organisations]


def stage(settings: Settings, tenants: Sequence[str], moment: dt.datetime) -> int:
    """Insert the rows of some weeks of nightly runs until ``moment``; returns the number of models with a champion.

    The outcomes so far are stored. Every second one is served: a deployment, and a live prediction of each entity
    since. The rest has the backtests that its nights have made.
    """
    warehouse, served = Warehouse(settings), 0
    for number, (tenant, spec) in enumerate(product(tenants, load_specs().values())):
        is_served = number % SERVED_EVERY == 0
        served += is_served
        frame = build(spec, warehouse.read_source(spec, tenant), moment)
        rows = predictions(spec, tenant, frame, moment, is_served)
        with warehouse.tenant(tenant) as connection:
            if is_served:
                connection.execute(sa.insert(tables.deployments).values(_deployment(spec, tenant, moment)))
            if rows:
                connection.execute(sa.insert(tables.predictions), rows)
            if known := outcomes(spec, tenant, frame):
                connection.execute(sa.insert(tables.outcomes), known)
    return served


def outcomes(spec: ModelSpec, tenant: str, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The matured rows of a feature frame, as nightly runs store them."""
    names = {"entity_id": "entity_id", "label_time": "label_time", "label": "value"}
    matured = frame.loc[frame["state"] == "matured", list(names)].rename(columns=names)
    return [{"tenant_id": tenant, "model": spec.name, **record} for record in records(matured)]


def predictions(
    spec: ModelSpec, tenant: str, frame: pd.DataFrame, moment: dt.datetime, served: bool
) -> list[dict[str, Any]]:
    """One prediction for each entity that has one after the nights since the deployment, or since as long ago."""
    lived = frame[(frame["state"] == "open") | (frame["label_time"] >= pd.Timestamp(moment) - SERVING_SINCE)]
    wanted = lived if served else lived[backtested(spec, lived, moment)]
    median = frame["label"].median()
    shared = {
        "tenant_id": tenant,
        "model": spec.name,
        "origin": "live" if served else "backtest",
        "version": int(served),
        "value": 0.0 if np.isnan(median) else float(median),
        "baseline": 0.0 if np.isnan(median) else float(median),
    }
    times = wanted["event_time"].dt.to_pydatetime()
    return [
        {**shared, "entity_id": entity, "event_time": time, "predicted_at": time}
        for entity, time in zip(wanted["entity_id"], times, strict=True)
    ]


def backtested(spec: ModelSpec, frame: pd.DataFrame, moment: dt.datetime) -> np.ndarray:
    """Which entities of a model without a champion have been backtested by ``moment``; one bool per row.

    A night backtests where an entity has matured without a prediction, and then every entity so far of the same origin.
    One that has been created since and matures before the next such night makes its night fit the origin again.
    """
    step = pd.Timedelta(days=spec.monitoring.backtest_days)
    created, known = (
        frame[name].dt.tz_convert(None).to_numpy("datetime64[us]") for name in ("event_time", "label_time")
    )
    origins = (created - np.datetime64(0, "us")) // step.to_numpy()
    in_reach = known - created <= pd.Timedelta(days=spec.monitoring.backtest_reach_days)
    nights = np.datetime64(moment.replace(tzinfo=None)) - np.arange(SERVING_SINCE.days, -1, -1) * np.timedelta64(1, "D")
    done = created < nights[0]
    for night in nights[1:]:
        missing = (known < night) & in_reach & ~done
        done |= (created < night) & np.isin(origins, origins[missing])
    return np.asarray(done)


def _deployment(spec: ModelSpec, tenant: str, moment: dt.datetime) -> dict[str, Any]:
    return {
        "tenant_id": tenant,
        "deployment_id": uuid.uuid4(),
        "model": spec.name,
        "action": "promote",
        "version": 1,
        "state": "done",
        "reason": "staged for the benchmark",
        "as_of": moment - SERVING_SINCE,
    }


def backtests(settings: Settings) -> dict[tuple[str, str], int]:
    """Backtested predictions stored for each tenant and model."""
    table = tables.predictions
    query = sa.select(table.c.tenant_id, table.c.model, sa.func.count()).where(table.c.origin == "backtest")
    with Warehouse(settings).operator() as connection:
        rows = connection.execute(query.group_by(table.c.tenant_id, table.c.model)).all()
    return {(tenant, model): count for tenant, model, count in rows}


def part_milliseconds(settings: Settings, tenants: Sequence[str], day: dt.date) -> dict[str, float]:
    """Milliseconds per tenant and model of a night's parts, in this process, before the night itself is run.

    ``task`` is the whole, ``again`` the whole when there is nothing left to backtest, ``drift`` the drift report alone;
    each of the three reads and builds too.
    """
    warehouse, seconds = Warehouse(settings), dict.fromkeys(PARTS, 0.0)
    tasks = list(product(tenants, load_specs().values()))
    for module in PRELOAD:  # as a worker has, whose first fit would otherwise be timed with these imports
        importlib.import_module(module)
    run_monitoring(MonitoringTask(settings, tasks[0][1], tenants[0], (day - DAY,)))  # imports what else it needs
    for tenant, spec in tasks:
        marks = [time.perf_counter()]
        rows = warehouse.read_source(spec, tenant)
        marks.append(time.perf_counter())
        build(spec, rows, _midnight(day + DAY))
        marks.append(time.perf_counter())
        for steps in (STEPS, STEPS, (DRIFT_REPORT,)):
            run_monitoring(MonitoringTask(settings, spec, tenant, (day,), steps))
            marks.append(time.perf_counter())
        for name, part in zip(PARTS, np.diff(marks), strict=True):
            seconds[name] += float(part)
    return {name: 1000 * total / len(tasks) for name, total in seconds.items()}


def check(instance: dg.DagsterInstance, tenants: Sequence[str], models: Sequence[str], day: dt.date) -> None:
    """Every tenant's partition of the day is materialized, for every model and both steps.

    Raises
    ------
    SystemExit
        If not.
    """
    for model, step in product(models, STEPS):
        done = instance.get_materialized_partitions(dg.AssetKey([model, step]))
        missing = [tenant for tenant in tenants if f"{day}|{tenant}" not in done]
        if missing:
            raise SystemExit(f"{model}/{step}: {len(missing)} tenants have no partition of {day}")


def _timed(launching: Callable[[], launch.Launched]) -> float:
    started = time.perf_counter()
    launched = launching()
    seconds = time.perf_counter() - started
    if launched.failures:
        raise SystemExit(f"the nightly run failed for {len(launched.failures)}, first: {launched.failures[0]}")
    return seconds


def _silent(_: str) -> None:
    """Nobody watches."""


def _midnight(day: dt.date) -> dt.datetime:
    return dt.datetime.combine(day, dt.time(), dt.UTC)
