"""What Dagster costs per tenant: batched runs against a run per partition, and the nightly wave of a whole fleet.

The batched runs are the product's own assets, job, fan-out and event log, with work that does nothing and one tenant in
a hundred failing. Beside them Dagster with its defaults: a run per partition, and its native range run.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from benchmarks.common import parse_arguments, print_result, print_table
from benchmarks.installation import default_instance, product_instance, temporary_installation
from ml_pipeline import launch, partitions
from ml_pipeline.definitions import definitions
from ml_pipeline.demo.simulator import fleet, simulate
from ml_pipeline.features.point_in_time import build
from ml_pipeline.importers import import_tables
from ml_pipeline.resources.compute import Compute, Key, Result
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import PROJECT_ROOT, Settings, load_settings
from ml_pipeline.specs import load_specs
from ml_pipeline.work.monitoring import DRIFT_REPORT, STEPS, MonitoringTask, run_monitoring
from ml_pipeline.work.training import FEATURES, TaskReport, TrainingTask

WORKERS = 2
SIZES = (10, 100, 1000)
REPEATS = 5
NATIVE_REPEATS = 3
RUNS_OF_ONE = 3
FAILING = "05"  # tenants whose name ends so: one in a hundred
FLEET, QUICK_FLEET = 1000, 100
TRAINED_SHARE = 0.05
PROFILED_EVERY = 33  # one tenant in so many is timed part by part
PARTS = ("read", "build", "task", "again", "drift")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
FACTS: dict[str, Any] = {
    "rows": 271,
    "matured": 240,
    "open": 31,
    "quality": 93.5,
    "weakest measure": "freshness (71 of 100). Import more often",
    "as of": "2026-01-01T00:00:00+00:00",
    "snapshot": "0123456789abcdef01234567",
}


def nothing(task: TrainingTask) -> TaskReport:
    """A tenant's share that costs nothing, with the metadata of a real one."""
    if task.tenant.endswith(FAILING):
        return TaskReport(error=f"{FEATURES}: ValueError: tenant {task.tenant} is one of those that fail")
    return TaskReport({FEATURES: FACTS})


class IdleCompute(Compute):
    """The product's fan-out over worker processes, with nothing to do in them."""

    def map(self, function: Callable[[Any], Any], tasks: Iterable[tuple[Key, Any]]) -> Iterator[Result[Key]]:
        return super().map(nothing, tasks)


class IdleInstallation(Installation):
    def compute(self) -> Compute:
        settings = self.settings()
        return IdleCompute(settings.workers, settings.tenant_timeout)


@dg.asset(partitions_def=partitions.tenants, backfill_policy=dg.BackfillPolicy.single_run())
def plain() -> dg.MaterializeResult:
    """The same metadata, the way a first asset is written."""
    return dg.MaterializeResult(metadata=FACTS)


@dg.definitions
def plain_definitions() -> dg.Definitions:
    """What the runs of one partition load: Dagster's default executor."""
    return dg.Definitions(assets=[plain])


def tenant_names(count: int) -> list[str]:
    return [f"tenant-{number:04d}" for number in range(1, count + 1)]


def batched(settings: Settings, repeats: int) -> dict[int, list[float]]:
    """Seconds of each batched run by its number of tenants; the largest is checked partition by partition."""
    spec = load_specs()["story_points"]
    job = definitions({spec.name: spec}, IdleInstallation()).resolve_job_def("train")
    asset = dg.AssetKey([spec.name, FEATURES])
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    with product_instance(settings) as instance:
        known = launch.add_partitions(instance, tenant_names(max(SIZES)))
        for _ in range(repeats):
            for size in SIZES:
                tags = partitions.tenant_range(known, known[0], known[size - 1])
                started = time.perf_counter()
                job.execute_in_process(
                    instance=instance, run_config=QUIET, tags=tags, asset_selection=[asset], raise_on_error=False
                )
                seconds[size].append(time.perf_counter() - started)
        check_statuses(instance, asset, known)
    return seconds


def check_statuses(instance: dg.DagsterInstance, asset: dg.AssetKey, tenants: Sequence[str]) -> None:
    """Exactly the tenants that failed show FAILED, all others MATERIALIZED.

    Raises
    ------
    SystemExit
        If not: figures of runs that lie about their tenants are worth nothing.
    """
    statuses = instance.get_status_by_partition(asset, tenants, partitions.tenants) or {}
    expected = {tenant: "FAILED" if tenant.endswith(FAILING) else "MATERIALIZED" for tenant in tenants}
    found = {tenant: status.value if status else "none" for tenant, status in statuses.items()}
    wrong = [tenant for tenant in tenants if found.get(tenant) != expected[tenant]]
    if wrong:
        raise SystemExit(f"{len(wrong)} partitions show a status that is not theirs: {Counter(found.values())}")


def pure_work(size: int) -> float:
    """Seconds of the work alone, without Dagster and without the fan-out."""
    tasks = [TrainingTask(load_settings(), load_specs()["story_points"], name, "", ()) for name in tenant_names(size)]
    started = time.perf_counter()
    for task in tasks:
        nothing(task)
    return time.perf_counter() - started


def native_ranges(settings: Settings) -> dict[int, list[float]]:
    """Seconds of Dagster's own range run, with its defaults and in one process, by the number of tenants."""
    job = dg.Definitions(assets=[plain], executor=dg.in_process_executor).resolve_implicit_global_asset_job_def()
    seconds: dict[int, list[float]] = {}
    with default_instance(settings) as instance:
        known = launch.add_partitions(instance, tenant_names(max(SIZES)))
        for size in SIZES:
            for _ in range(1 if size == max(SIZES) else NATIVE_REPEATS):
                tags = partitions.tenant_range(known, known[0], known[size - 1])
                started = time.perf_counter()
                job.execute_in_process(instance=instance, run_config=QUIET, tags=tags)
                seconds.setdefault(size, []).append(time.perf_counter() - started)
    return seconds


def runs_of_one(settings: Settings) -> list[tuple[float, float]]:
    """Wall and CPU seconds of runs of one partition, each a process with Dagster's default executor."""
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "benchmarks.overhead"]
    command += ["-a", "plain_definitions", "--select", "plain", "--partition"]
    with default_instance(settings) as instance:
        launch.add_partitions(instance, tenant_names(RUNS_OF_ONE))
        environment = {"DAGSTER_HOME": str(settings.home / "defaults"), "PYTHONPATH": str(PROJECT_ROOT)}
        return [_run_timed([*command, tenant], environment) for tenant in tenant_names(RUNS_OF_ONE)]


def _run_timed(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    started, before = time.perf_counter(), _children_cpu()
    subprocess.run(command, env=os.environ | environment, check=True, capture_output=True)
    return time.perf_counter() - started, _children_cpu() - before


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def load_fleet(settings: Settings, count: int, seed: int) -> list[str]:
    """Simulates and imports a year of that many tenants; returns their names."""
    warehouse = Warehouse(settings)
    organisations = fleet(count, pd.Timestamp(partitions.today(), tz="UTC"), seed)
    for organisation in organisations:
        history = simulate(organisation)
        import_tables(warehouse, organisation.tenant_id, history.issues, history.pull_requests)
    return [organisation.tenant_id for organisation in organisations]


def wave(settings: Settings, count: int, seed: int) -> dict[str, Any]:
    """Metrics and drift of every tenant and model for yesterday, as the nightly job computes them.

    A share of the tenants has been trained before. The night before yesterday's is run first, because a fleet's first
    night alone makes the backtests of the weeks before its first deployment.
    """
    tenants, models = load_fleet(settings, count, seed), list(load_specs())
    yesterday = partitions.today() - dt.timedelta(days=1)
    before = yesterday - dt.timedelta(days=1)
    trained = tenants[: round(TRAINED_SHARE * count)]
    with product_instance(settings) as instance:
        known = launch.add_partitions(instance, tenants)
        as_of = dt.datetime.combine(before, dt.time(), dt.UTC).isoformat()
        training = _timed(lambda: launch.train(instance, known, trained, models, as_of, _silent))
        first = _timed(lambda: launch.monitor(instance, known, tenants, models, before, before, _silent))
        parts = stage_milliseconds(tenants[::PROFILED_EVERY], yesterday)
        night = _timed(lambda: launch.monitor(instance, known, tenants, models, yesterday, yesterday, _silent))
        check_wave(instance, known, models, yesterday)
    tasks = count * len(models)
    work = tasks * parts["task"] / 1000 / settings.workers
    return {
        "wave_tenants": count,
        "wave_trained_tenants": len(trained),
        "wave_training_seconds": training,
        "wave_first_night_seconds": first,
        f"wave_seconds_{count}": night,
        "wave_expected_work_seconds": work,
        **{f"wave_ms_per_task_{name}": value for name, value in parts.items()},
    }


def _timed(launching: Callable[[], launch.Launched]) -> float:
    started = time.perf_counter()
    launched = launching()
    seconds = time.perf_counter() - started
    if launched.failures:
        raise SystemExit(f"the wave failed for {len(launched.failures)}, first: {launched.failures[0]}")
    return seconds


def _silent(_: str) -> None:
    """Nobody watches."""


def check_wave(instance: dg.DagsterInstance, tenants: Sequence[str], models: Sequence[str], day: dt.date) -> None:
    """Every tenant's partition of the day is materialized, for every model and both steps."""
    for model in models:
        for step in STEPS:
            done = instance.get_materialized_partitions(dg.AssetKey([model, step]))
            missing = [tenant for tenant in tenants if f"{day}|{tenant}" not in done]
            if missing:
                raise SystemExit(f"{model}/{step}: {len(missing)} tenants have no partition of {day}")


def stage_milliseconds(tenants: Sequence[str], day: dt.date) -> dict[str, float]:
    """Milliseconds per tenant and model of a night's parts, in this process, before the night itself is run.

    ``task`` is the whole, first time; ``again`` the same without what a second time finds stored (the backtest).
    """
    settings, specs = load_settings(), load_specs()
    warehouse, seconds = Warehouse(settings), dict.fromkeys(PARTS, 0.0)
    end = dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), dt.UTC)
    tasks = [(tenant, spec) for tenant in tenants for spec in specs.values()]
    run_monitoring(MonitoringTask(settings, tasks[0][1], tenants[0], (day - dt.timedelta(days=1),)))  # imports
    for tenant, spec in tasks:
        marks = [time.perf_counter()]
        rows = warehouse.read_source(spec, tenant)
        marks.append(time.perf_counter())
        build(spec, rows, end)
        marks.append(time.perf_counter())
        for steps in (STEPS, STEPS, (DRIFT_REPORT,)):
            run_monitoring(MonitoringTask(settings, spec, tenant, (day,), steps))
            marks.append(time.perf_counter())
        for name, part in zip(PARTS, np.diff(marks), strict=True):
            seconds[name] += float(part)
    return {name: 1000 * total / len(tasks) for name, total in seconds.items()}


def exponent(seconds: dict[int, list[float]], small: int, large: int) -> float:
    """How the cost of a run grows with its tenants: 1 is in proportion."""
    ratio = statistics.median(seconds[large]) / statistics.median(seconds[small])
    return math.log(ratio) / math.log(large / small)


def cost_table(name: str, seconds: dict[int, list[float]]) -> list[dict[str, Any]]:
    """One row per size: median, best and worst run, and milliseconds per partition."""
    return [
        {
            "what": name,
            "tenants": size,
            "runs": len(runs),
            "seconds": statistics.median(runs),
            "least": min(runs),
            "most": max(runs),
            "ms_per_partition": 1000 * statistics.median(runs) / size,
        }
        for size, runs in seconds.items()
    ]


def event_costs(settings: Settings, quick: bool) -> dict[str, Any]:
    """Figures of all ways to materialize partitions whose work costs nothing."""
    ours = batched(settings, 2 if quick else REPEATS)
    native = native_ranges(settings)
    single = runs_of_one(settings)
    wall, cpu = (statistics.median(part) for part in zip(*single, strict=True))
    print_table([*cost_table("batched", ours), *cost_table("native range", native)])
    print(f"a run per partition: {wall:.1f} s of wall time, {cpu:.1f} s of CPU each (median of {len(single)})\n")
    largest = max(SIZES)
    return {
        "ms_per_partition_1000": 1000 * (statistics.median(ours[largest]) - pure_work(largest)) / largest,
        "ms_per_partition_run_each": 1000 * wall,
        "cpu_ms_per_partition_run_each": 1000 * cpu,
        "ms_per_partition_native_1000": 1000 * statistics.median(native[largest]) / largest,
        "exponent": exponent(ours, 100, largest),
        "native_exponent": exponent(native, 100, largest),
        "seconds_by_tenants": {str(size): runs for size, runs in ours.items()},
        "workers": settings.workers,
    }


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    with temporary_installation(WORKERS) as settings:
        figures = event_costs(settings, arguments.quick)
        figures |= wave(settings, QUICK_FLEET if arguments.quick else FLEET, arguments.seed)
    figures.setdefault("wave_seconds_1000", None)
    print_table([{"figure": name, "value": value} for name, value in figures.items() if isinstance(value, int | float)])
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
