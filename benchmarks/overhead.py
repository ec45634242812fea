"""What Dagster costs per tenant: batched runs against a run per partition, and the nightly run of a whole fleet.

The batched runs are the product's own assets, job, fan-out and event log, with empty work and one failing
tenant in a hundred. For comparison, Dagster with its defaults: a run per partition, and its native range run.
"""

from __future__ import annotations

import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import dagster as dg

from benchmarks.common import parse_arguments, print_result, print_table
from benchmarks.installation import default_instance, product_instance, temporary_installation
from benchmarks.nightly_run import nightly_run
from ml_pipeline import launch, partitions
from ml_pipeline.definitions import definitions
from ml_pipeline.resources.compute import Compute, Key, Result
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.settings import PROJECT_ROOT, Settings, load_settings
from ml_pipeline.specs import load_specs
from ml_pipeline.work.training.task import FEATURES, TaskReport, TrainingTask

WORKERS = 2
SIZES = (10, 100, 1000)
REPEATS = 5
NATIVE_REPEATS = 3
RUNS_OF_ONE = 3
FAILING = "05"  # tenants whose name ends so: one in a hundred
FLEET, QUICK_FLEET = 1000, 100
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
    """A task without work, with the metadata of a real one."""
    if task.tenant.endswith(FAILING):
        return TaskReport(error=f"{FEATURES}: ValueError: tenant {task.tenant} is one of those that fail")
    return TaskReport({FEATURES: FACTS})


class IdleCompute(Compute):
    """The product's fan-out over worker processes, with tasks without work."""

    def map(self, function: Callable[[Any], Any], tasks: Iterable[tuple[Key, Any]]) -> Iterator[Result[Key]]:
        return super().map(nothing, tasks)


class IdleInstallation(Installation):
    def compute(self) -> Compute:
        settings = self.settings()
        return IdleCompute(settings.workers, settings.tenant_timeout)


@dg.asset(partitions_def=partitions.tenants, backfill_policy=dg.BackfillPolicy.single_run())
def plain() -> dg.MaterializeResult[Any]:
    """The same metadata, from a plain asset."""
    return dg.MaterializeResult(metadata=FACTS)


@dg.definitions
def plain_definitions() -> dg.Definitions:
    """The definitions for runs of one partition, with Dagster's default executor."""
    return dg.Definitions(assets=[plain])


class Timing(NamedTuple):
    """Wall seconds, and CPU seconds of this process without workers and PostgreSQL."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> Timing:
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return Timing(time.perf_counter() - started, time.process_time() - cpu)


def tenant_names(count: int) -> list[str]:
    return [f"tenant-{number:04d}" for number in range(1, count + 1)]


def batched(settings: Settings, repeats: int) -> dict[int, list[Timing]]:
    """Seconds of each batched run by its number of tenants; the largest is checked partition by partition."""
    spec = load_specs()["story_points"]
    job = definitions({spec.name: spec}, IdleInstallation()).resolve_job_def("train")
    asset = dg.AssetKey([spec.name, FEATURES])
    seconds: dict[int, list[Timing]] = {size: [] for size in SIZES}
    with product_instance(settings) as instance:
        known = launch.add_partitions(instance, tenant_names(max(SIZES)))
        for _ in range(repeats):
            for size in SIZES:
                tags = partitions.tenant_range(known, known[0], known[size - 1])
                run = partial(job.execute_in_process, run_config=QUIET, tags=tags, instance=instance)
                seconds[size].append(timed(partial(run, asset_selection=[asset], raise_on_error=False)))
        check_statuses(instance, asset, known)
    return seconds


def check_statuses(instance: dg.DagsterInstance, asset: dg.AssetKey, tenants: Sequence[str]) -> None:
    """Check that exactly the failed tenants show FAILED, and all others MATERIALIZED.

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
        raise SystemExit(f"{len(wrong)} partitions show a wrong status: {Counter(found.values())}")


def pure_work(size: int) -> float:
    """Seconds of the work, without Dagster and the fan-out."""
    tasks = [TrainingTask(load_settings(), load_specs()["story_points"], name, "", ()) for name in tenant_names(size)]
    return timed(lambda: [nothing(task) for task in tasks]).wall


def native_ranges(settings: Settings) -> dict[int, list[Timing]]:
    """Seconds of Dagster's own range run, with its defaults and in one process, by the number of tenants."""
    job = dg.Definitions(assets=[plain], executor=dg.in_process_executor).resolve_implicit_global_asset_job_def()
    seconds: dict[int, list[Timing]] = {}
    with default_instance(settings) as instance:
        known = launch.add_partitions(instance, tenant_names(max(SIZES)))
        for size in SIZES:
            for _ in range(1 if size == max(SIZES) else NATIVE_REPEATS):
                tags = partitions.tenant_range(known, known[0], known[size - 1])
                run = partial(job.execute_in_process, run_config=QUIET, tags=tags, instance=instance)
                seconds.setdefault(size, []).append(timed(run))
    return seconds


def runs_of_one(settings: Settings) -> list[Timing]:
    """Wall and CPU seconds of runs of one partition, each a process with Dagster's default executor."""
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "benchmarks.overhead"]
    command += ["-a", "plain_definitions", "--select", "plain", "--partition"]
    with default_instance(settings) as instance:
        launch.add_partitions(instance, tenant_names(RUNS_OF_ONE))
        environment = {"DAGSTER_HOME": str(settings.home / "defaults"), "PYTHONPATH": str(PROJECT_ROOT)}
        return [_run_timed([*command, tenant], environment) for tenant in tenant_names(RUNS_OF_ONE)]


def _run_timed(command: Sequence[str], environment: dict[str, str]) -> Timing:
    started, before = time.perf_counter(), _children_cpu()
    subprocess.run(command, env=os.environ | environment, check=True, capture_output=True)
    return Timing(time.perf_counter() - started, _children_cpu() - before)


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def exponent(runs: dict[int, list[float]], small: int, large: int) -> float:
    """Exponent of the cost of a run in its number of tenants; 1 is proportional."""
    ratio = statistics.median(runs[large]) / statistics.median(runs[small])
    return math.log(ratio) / math.log(large / small)


def walls(runs: dict[int, list[Timing]]) -> dict[int, list[float]]:
    return {size: [run.wall for run in timings] for size, timings in runs.items()}


def cpus(runs: dict[int, list[Timing]]) -> dict[int, list[float]]:
    return {size: [run.cpu for run in timings] for size, timings in runs.items()}


def cost_table(name: str, runs: dict[int, list[Timing]]) -> list[dict[str, Any]]:
    """One row per size: median, best and worst run, CPU of this process, and milliseconds per partition."""
    return [
        {
            "what": name,
            "tenants": size,
            "runs": len(seconds),
            "seconds": statistics.median(seconds),
            "least": min(seconds),
            "most": max(seconds),
            "cpu_seconds": statistics.median(cpus(runs)[size]),
            "ms_per_partition": 1000 * statistics.median(seconds) / size,
        }
        for size, seconds in walls(runs).items()
    ]


def event_costs(settings: Settings, quick: bool) -> dict[str, Any]:
    """Figures of all ways to materialize partitions without work."""
    ours = batched(settings, 2 if quick else REPEATS)
    native = native_ranges(settings)
    single = runs_of_one(settings)
    wall, cpu = (statistics.median(part) for part in zip(*single, strict=True))
    print_table([*cost_table("batched", ours), *cost_table("native range", native)])
    print(f"a run per partition: {wall:.1f} s of wall time, {cpu:.1f} s of CPU each (median of {len(single)})\n")
    largest = max(SIZES)
    return {
        "ms_per_partition_1000": 1000 * (statistics.median(walls(ours)[largest]) - pure_work(largest)) / largest,
        "ms_per_partition_1000_best": 1000 * min(walls(ours)[largest]) / largest,
        "cpu_ms_per_partition_1000": 1000 * statistics.median(cpus(ours)[largest]) / largest,
        "ms_per_partition_run_each": 1000 * wall,
        "cpu_ms_per_partition_run_each": 1000 * cpu,
        "ms_per_partition_native_1000": 1000 * statistics.median(walls(native)[largest]) / largest,
        "cpu_ms_per_partition_native_1000": 1000 * statistics.median(cpus(native)[largest]) / largest,
        "exponent": exponent(walls(ours), 100, largest),
        "exponent_cpu": exponent(cpus(ours), 100, largest),
        "native_exponent": exponent(walls(native), 100, largest),
        "seconds_by_tenants": {str(size): runs for size, runs in walls(ours).items()},
        "workers": settings.workers,
    }


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    with temporary_installation(WORKERS) as settings:
        figures = event_costs(settings, arguments.quick)
        figures |= nightly_run(settings, QUICK_FLEET if arguments.quick else FLEET, arguments.seed)
    if arguments.quick:
        figures |= {
            "nightly_run_seconds_1000": None,
            "nightly_run_reason": f"--quick runs the nightly run of {QUICK_FLEET} tenants",
        }
    print_table([{"figure": name, "value": value} for name, value in figures.items() if isinstance(value, int | float)])
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
