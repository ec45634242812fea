"""Seconds and memory of one drift report against a stored profile, compared with a loop over scipy and other monitors.

Fifty normal columns, as many reference as current rows. scipy compares both raw samples, column by column, in this
process, alternating with ours; other monitors run their default check in environments of their own (``make
bench-peers``).
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from threadpoolctl import threadpool_limits

from benchmarks.common import parse_arguments, print_result, print_table
from benchmarks.drift_data import Columns, frame
from benchmarks.peers import PEERS, timings
from ml_pipeline.monitoring.drift.report import compare
from ml_pipeline.monitoring.profiles.profile import Profile, profile

COLUMNS, RUNS, PEER_RUNS = 50, 7, 5
SIZES = (10_000, 100_000)


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(rows: int, seed: int, runs: int, peer_runs: int) -> dict[str, Any]:
    """Median wall and CPU seconds per monitor, memory of a report, and the reason for a missing peer."""
    rng = np.random.default_rng(seed)
    columns = Columns({f"x{position}": "normal" for position in range(COLUMNS)}, {})
    spec = columns.spec()
    reference, current = (rng.standard_normal((COLUMNS, rows)) for _ in range(2))
    names = list(columns.numeric)
    past = frame(dict(zip(names, reference, strict=True)), "2025-01-01", 30)
    recent = frame(dict(zip(names, current, strict=True)), "2025-03-01", 7)
    stored = profile(spec, past).to_bytes()

    def ours() -> None:
        compare(spec, Profile.from_bytes(stored), recent)

    def scipy_loop() -> None:
        for before, after in zip(reference, current, strict=True):
            stats.ks_2samp(before, after)

    ours()  # warm
    scipy_loop()
    rounds = [(timed(ours), timed(scipy_loop)) for _ in range(runs)]
    seconds = {name: np.median([round_[at] for round_ in rounds], axis=0) for at, name in enumerate(("ours", "scipy"))}
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("reference.npy", "current.npy")]
        for path, sample in zip(paths, (reference, current), strict=True):
            np.save(path, sample)
        for peer in PEERS:
            found, problem = timings(peer, paths[0], paths[1], peer_runs)
            if found is None:
                missing[peer.name] = problem
            else:
                seconds[peer.name] = np.median(found, axis=0)
    return {"rows": rows, "seconds": seconds, "missing": missing, "extra_mb": extra_megabytes(ours), "kb": len(stored)}


def extra_megabytes(run: Callable[[], Any]) -> float:
    """Peak of the memory allocated during one run."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (peak - before) / 1e6


def table(found: dict[str, Any]) -> list[dict[str, Any]]:
    ours = found["seconds"]["ours"]
    rows = [
        {"rows": found["rows"], "monitor": name, "seconds": wall, "CPU seconds": cpu}
        | {"ours / it": ours[0] / wall, "CPU ours / it": ours[1] / cpu, "note": ""}
        for name, (wall, cpu) in found["seconds"].items()
    ]
    return rows + [{"rows": found["rows"], "monitor": name, "note": why} for name, why in found["missing"].items()]


def main() -> None:
    options = parse_arguments(__doc__ or "")
    sizes = SIZES[:1] if options.quick else SIZES
    runs, peer_runs = (5, 1) if options.quick else (RUNS, PEER_RUNS)
    with threadpool_limits(1):  # as in the product's worker processes; scipy's loop uses one thread as well
        results = [measure(rows, options.seed, runs, peer_runs) for rows in sizes]
    print(f"One report of {COLUMNS} columns, median of {runs} ({peer_runs} of the peers')")
    print_table([row for found in results for row in table(found)])
    figures: dict[str, Any] = {"columns": COLUMNS, "runs": runs}
    for found in results:
        print(
            f"{found['rows']} rows: + {found['extra_mb']:.1f} MB at the peak of a report; the stored profile has "
            f"{found['kb'] / 1000:.0f} kB"
        )
        ours, seconds = found["seconds"]["ours"][0], found["seconds"]
        suffix = f"{found['rows'] // 1000}k"
        figures |= {f"seconds_{suffix}": float(ours), f"cpu_seconds_{suffix}": float(found["seconds"]["ours"][1])}
        for name in ("scipy", *(peer.name for peer in PEERS)):
            ratio = float(ours / seconds[name][0]) if name in seconds else None
            figures[f"ratio_to_{name}_{suffix}"] = ratio
        figures |= {f"missing_{name}": why for name, why in found["missing"].items()}
        figures[f"extra_mb_{suffix}"] = found["extra_mb"]
    largest = f"{sizes[-1] // 1000}k"
    for name in ("scipy", "evidently"):
        figures[f"ratio_to_{name}"] = figures[f"ratio_to_{name}_{largest}"]
    figures["extra_mb"] = figures[f"extra_mb_{largest}"]
    if "seconds_100k" not in figures:
        figures |= {"seconds_100k": None, "seconds_100k_reason": "--quick measures 10,000 rows only"}
    print_result(figures, options.seed, options.json)


if __name__ == "__main__":
    main()
