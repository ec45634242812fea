"""Seconds of one data-quality report, its 15 measures and the temporal patterns, by rows and columns.

The rows are simulated: four years of arrivals without weekends, numbers, categories of 5 to 3,000 levels and texts,
with missing values in every column. The findings do not change the duration.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from benchmarks.common import parse_arguments, print_result, print_table
from ml_pipeline.features.point_in_time import build
from ml_pipeline.features.quality.measures import assess
from ml_pipeline.features.quality.patterns import temporal_patterns
from ml_pipeline.specs import ModelSpec

RUNS = 5
NUMBERS, CATEGORIES, TEXTS = 36, 20, 4
LEVELS = (5, 20, 100, 500, 3000)
YEARS = 4
SIZES = (1_000, 10_000, 50_000)
AS_OF = pd.Timestamp("2024-01-01", tz="UTC")
WORDS = np.array(["page", "login", "slow", "error", "report", "export", "user", "team", "list", "field"])


def made_up_spec() -> ModelSpec:
    """A regression with ``NUMBERS + CATEGORIES + TEXTS`` own columns, calendar columns and history columns."""
    names = {
        kind: [f"{kind}_{position}" for position in range(count)]
        for kind, count in (("number", NUMBERS), ("category", CATEGORIES), ("text", TEXTS))
    }
    columns: dict[str, Any] = {name: {"type": kind} for kind, listed in names.items() for name in listed}
    columns |= {"done_at": {"type": "time", "known_at": "label"}, "effort": {"type": "number", "known_at": "label"}}
    return ModelSpec.model_validate(
        {
            "name": "made_up",
            "title": "Made up",
            "task": "regression",
            "source": {"table": "source.items", "entity": "item", "event_time": "created_at", "columns": columns},
            "label": {"value": "effort", "time": "done_at"},
            "features": {"numeric": names["number"], "categorical": names["category"], "text": names["text"]},
            "training": {"estimator": "xgboost", "loss": "absolute_error"},
        }
    )


def made_up_rows(spec: ModelSpec, count: int, seed: int) -> pd.DataFrame:
    """``count`` rows over four years on working days, one number in ten and one category in twenty missing."""
    rng = np.random.default_rng(seed)
    days = pd.bdate_range(AS_OF - pd.DateOffset(years=YEARS), AS_OF - pd.Timedelta(days=1))
    created = days[np.sort(rng.integers(0, len(days), count))] + pd.to_timedelta(rng.uniform(0, 24, count), unit="h")
    rows = pd.DataFrame({"item": [f"I-{number}" for number in range(count)], "created_at": created})
    values: dict[str, Any] = {}
    for position, name in enumerate(spec.features.numeric):
        values[name] = np.where(rng.random(count) < 0.1, np.nan, rng.lognormal(position % 4, 1, count))
    for position, name in enumerate(spec.features.categorical):
        levels = np.array([f"level {level}" for level in range(LEVELS[position % len(LEVELS)])], dtype=object)
        values[name] = pd.Series(rng.choice(levels, count)).mask(rng.random(count) < 0.05, None)
    for name in spec.features.text:
        values[name] = [" ".join(words) for words in rng.choice(WORDS, (count, 12))]
    values["done_at"] = rows["created_at"] + pd.to_timedelta(rng.exponential(10, count), unit="D")
    values["effort"] = rng.lognormal(1, 0.8, count)
    return rows.assign(**values)


def measure(spec: ModelSpec, count: int, seed: int) -> dict[str, Any]:
    """Median wall and CPU seconds of the report, of its patterns only, and of its features."""
    rows = made_up_rows(spec, count, seed)
    frame = build(spec, rows, AS_OF)
    seconds = []
    for _ in range(RUNS):
        wall, cpu = time.perf_counter(), time.process_time()
        report = assess(spec, rows, frame, AS_OF)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        started = time.perf_counter()
        temporal_patterns(spec, frame, AS_OF)
        patterns = time.perf_counter() - started
        started = time.perf_counter()
        build(spec, rows, AS_OF)
        seconds.append((wall, cpu, patterns, time.perf_counter() - started))
    names = ("seconds", "cpu_seconds", "of_patterns", "features_seconds")
    return {"rows": count, "score": report.score} | dict(
        zip(names, np.median(seconds, axis=0).round(4).tolist(), strict=True)
    )


def main() -> None:
    arguments = parse_arguments(__doc__)
    spec = made_up_spec()
    assess(spec, rows := made_up_rows(spec, 200, arguments.seed), build(spec, rows, AS_OF), AS_OF)  # imports scipy
    with threadpool_limits(1):
        table = [measure(spec, count, arguments.seed) for count in SIZES[: 2 if arguments.quick else None]]
    print_table(table)
    at_10k = next(row for row in table if row["rows"] == 10_000)
    figures = {
        "columns": NUMBERS + CATEGORIES + TEXTS,
        "runs": RUNS,
        "seconds_10k_60": at_10k["seconds"],
        "cpu_seconds_10k_60": at_10k["cpu_seconds"],
        "patterns_seconds_10k_60": at_10k["of_patterns"],
        "table": table,
    }
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
