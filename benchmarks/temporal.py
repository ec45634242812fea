"""Seconds of the temporal features, and the growth of time and memory with the number of rows.

Simulated issues of one tenant over a thousand days, with 8 teams and 200 reporters, every family on, and the team as
the group. Measured is the whole ``features.point_in_time.build``: seconds of one core, the quickest of three, each size
in its own process. Peak memory is the largest resident set of that process, source rows and interpreter included.
"""

from __future__ import annotations

import resource
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import parse_arguments, print_result, print_table
from ml_pipeline.features.point_in_time import build
from ml_pipeline.specs import ModelSpec, load_specs

SIZES = (10_000, 100_000, 300_000, 1_000_000)
REPEATS = 3
ROW = ("entity_id", "event_time", "label_time", "label", "state")
END = datetime(2100, 1, 1, tzinfo=UTC)
FAMILIES = ("calendar", "business", "cyclical", "fourier", "lags", "rolling", "expanding", "trend", "queue")


def specification() -> ModelSpec:
    """The shipped lead-time model without its text, with every family for the tenant and its teams."""
    content = load_specs()["lead_time"].model_dump(mode="json")
    content["source"]["columns"]["effort"] = {"type": "number"}
    temporal: dict[str, Any] = dict.fromkeys(FAMILIES, True) | {"country": "CZ", "time_zone": "Europe/Prague"}
    temporal |= {name: ["effort"] for name in ("log1p", "sqrt", "rank", "zscore")}
    temporal |= {"interactions": [["effort", "history_mean"]], "polynomial": ["effort", "history_recent_median"]}
    content["features"] |= {"text": [], "numeric": ["effort"], "history": ["team"], "temporal": temporal}
    return ModelSpec.model_validate(content)


def source_rows(count: int, seed: int) -> pd.DataFrame:
    """Issues in random order; each takes five days on average, and one in fifty is open."""
    rng = np.random.default_rng(seed)
    created = pd.Timestamp("2022-01-01", tz="UTC") + pd.to_timedelta(rng.integers(0, 1000 * 86_400, count), unit="s")
    resolved = pd.Series(created + pd.to_timedelta(rng.exponential(5 * 86_400, count).astype("int64") + 1, unit="s"))
    return pd.DataFrame(
        {
            "issue_key": np.char.add("A-", np.arange(count).astype(str)).astype(object),
            "issue_type": rng.choice(np.array(["Bug", "Story", "Epic"], dtype=object), count),
            "team": rng.choice(np.array(list("abcdefgh"), dtype=object), count),
            "reporter": np.char.add("r", rng.integers(0, 200, count).astype(str)).astype(object),
            "priority": "Medium",
            "summary": "an issue",
            "created_at": created,
            "resolved_at": resolved.mask(rng.random(count) < 0.02),
            "effort": rng.lognormal(1, 1, count),
        }
    )


def measured(count: int, seed: int) -> dict[str, Any]:
    """The quickest of ``REPEATS`` builds in this process, and its peak memory."""
    spec, rows = specification(), source_rows(count, seed)
    build(spec, rows.head(1000), END)  # imports and caches
    seconds, columns = np.inf, 0
    for _ in range(REPEATS):
        began = time.process_time()
        columns = len(build(spec, rows, END).columns) - len(ROW)
        seconds = min(seconds, time.process_time() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rows": count, "columns": columns, "seconds": seconds, "peak_mb": peak}


def main() -> None:
    """Prints rows, columns, seconds and peak MB of each size, the exponent, and one line of JSON."""
    arguments = parse_arguments(__doc__ or "")
    sizes = SIZES[:2] if arguments.quick else SIZES
    # One process per size, so that each has its own peak memory.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as process:
        table = list(process.map(measured, sizes, [arguments.seed] * len(sizes)))
    print_table(table)
    of_size = {row["rows"]: row for row in table}
    large = [row for row in table if row["rows"] >= 100_000]
    figures = {"seconds_10k": round(of_size[10_000]["seconds"], 3), "columns": table[0]["columns"]}
    if len(large) > 1:
        rows, seconds = (np.log([row[name] for row in large]) for name in ("rows", "seconds"))
        slope = float(np.polyfit(rows, seconds, 1)[0])
        print(f"seconds grow as rows to the power of {slope:.2f}, from 100,000 rows on")
        last = of_size[1_000_000]
        figures |= {"seconds_1m": round(last["seconds"], 2), "exponent": round(slope, 3)}
        figures |= {"peak_mb_1m": round(last["peak_mb"])}
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
