"""Five concurrent trainings with a search, compared with a single one: seconds, processes and peak memory."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.common import parse_arguments, print_result, print_table
from benchmarks.installation import temporary_installation
from benchmarks.training import SEARCH_ROWS, SEARCH_TRIALS, feature_frame, search_spec, store_snapshot, train_version
from ml_pipeline.resources.compute import PRELOAD
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec

AT_ONCE = 5  # the default of the policy for approved retrainings
WORKERS = 2
SAMPLE_SECONDS = 0.5


class Watch:
    """Peak number and peak memory of all processes that this process started, without the database."""

    def __init__(self) -> None:
        self.processes = 0
        self.megabytes = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            found = descendants(os.getpid())
            self.processes = max(self.processes, len(found))
            self.megabytes = max(self.megabytes, sum(map(proportional_megabytes, found)))


def descendants(root: int) -> list[int]:
    """Python processes below ``root``."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, rest = (folder / "stat").read_text().rsplit(")", 1)
        except OSError:
            continue  # it has ended meanwhile
        if "(python" in name:
            parents[int(folder.name)] = int(rest.split()[1])
    found, newest = [], [root]
    while newest:
        newest = [process for process, parent in parents.items() if parent in newest]
        found += newest
    return found


def proportional_megabytes(process: int) -> float:
    """Proportional memory of a process (shared pages counted in part); 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def timed(settings: Settings, spec: ModelSpec, tenant: str) -> float:
    started = time.perf_counter()
    train_version(settings, spec, tenant)
    return time.perf_counter() - started


def trained_at_once(settings: Settings, spec: ModelSpec, tenants: list[str]) -> tuple[list[dict[str, Any]], Watch]:
    """Trains each tenant in its own process; all begin together."""
    context = get_context("forkserver")
    with Watch() as watch, ProcessPoolExecutor(len(tenants), context) as pool:
        running = [pool.submit(timed, settings, spec, tenant) for tenant in tenants]
        seconds = [one.result() for one in running]
    at_once = len(tenants)
    return [
        {"at_once": at_once, "tenant": name, "seconds": one} for name, one in zip(tenants, seconds, strict=True)
    ], watch


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    get_context("forkserver").set_forkserver_preload(PRELOAD)
    spec = search_spec(processes=WORKERS)
    with temporary_installation(WORKERS) as settings:
        tenants = [f"tenant-{number}" for number in range(AT_ONCE + 1)]
        for number, tenant in enumerate(tenants):
            store_snapshot(settings, spec, tenant, feature_frame(spec, SEARCH_ROWS, arguments.seed + number))
        load = os.getloadavg()[0]
        alone, watch_alone = trained_at_once(settings, spec, tenants[:1])
        together, watch = trained_at_once(settings, spec, tenants[1:])
    print_table([*alone, *together])
    seconds = [row["seconds"] for row in together]
    figures = {
        "alone_seconds": alone[0]["seconds"],
        "at_once_seconds_first": min(seconds),
        "at_once_seconds_last": max(seconds),
        "at_once_against_in_turn": max(seconds) / (AT_ONCE * alone[0]["seconds"]),
        "peak_mb_alone": watch_alone.megabytes,
        "peak_mb_at_once": watch.megabytes,
        "processes_at_once": watch.processes,
        "at_once": AT_ONCE,
        "workers": WORKERS,
        "trials": SEARCH_TRIALS,
        "rows": SEARCH_ROWS,
        "load_before": load,
    }
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
