"""Drift reports: false alarms without a change, alerts on quiet streams, and the share of changes that are detected.

Every check builds a profile of the reference rows and compares the current rows with it, as the product does. For
comparison: Benjamini-Hochberg on Kolmogorov-Smirnov and chi-square only, and the rules always and never.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
from scipy import stats
from threadpoolctl import threadpool_limits

from benchmarks.common import parse_arguments, print_result, print_table
from benchmarks.drift_data import (
    EXTREME_COLUMNS,
    PROTOCOL,
    SHIFTS,
    SIGMA,
    Columns,
    Shift,
    draw,
    frame,
    stream,
)
from ml_pipeline.monitoring.drift.report import compare, windows
from ml_pipeline.monitoring.drift.results import DriftReport
from ml_pipeline.monitoring.profiles.profile import profile
from ml_pipeline.specs import ModelSpec

WORKERS = 2
SIZES = ((200, 200), (1000, 1000), (5000, 1000), (5000, 5000), (100_000, 100_000))
CHECKS, LARGE_CHECKS, POWER_CHECKS = 1000, 300, 200
STREAMS, STREAM_DAYS, ROWS_A_DAY = 100, 60, 40
HISTORY_DAYS = 365
RATE = 0.05
Counts = dict[str, list[float]]


def null_checks(columns: Columns, sizes: tuple[int, int], checks: int, seed: int) -> dict[str, Any]:
    """Reports of pairs without a difference: alarms, and the p-values of each type of column."""
    rng, spec = np.random.default_rng(seed), columns.spec()
    found: dict[str, Any] = {"any": 0, "alert": 0, "checks": checks, "p": defaultdict(list)}
    types = columns.numeric | {name: f"{levels} levels" for name, levels in columns.categorical.items()}
    for _ in range(checks):
        report = _report(spec, draw(rng, columns, sizes[0]), draw(rng, columns, sizes[1]))
        found["any"] += bool(report.drifted)
        found["alert"] += report.alert
        for name, kind in types.items():
            test = report.columns[name].value
            if test is not None:
                found["p"][kind].append(test.p)
    return found


def _report(
    spec: ModelSpec, reference: dict[str, np.ndarray], current: dict[str, np.ndarray], **options: Any
) -> DriftReport:
    kept = profile(spec, frame(reference, "2025-01-01", 30))
    return compare(spec, kept, frame(current, "2025-03-01", 7), **options)


def stream_checks(alike: bool, history: bool, seeds: Sequence[int], days: int) -> dict[str, int]:
    """Daily reports of quiet streams: days with an alert or a drift, and alerts without one on the day before.

    Against the trailing baseline of the default settings, or (``history``) a profile of the year before.
    """
    spec = PROTOCOL.spec()
    found = dict.fromkeys(("days", "alerts", "told", "drift"), 0)
    for seed in seeds:
        before = HISTORY_DAYS if history else spec.monitoring.baseline_from
        rows = stream(np.random.default_rng(seed), before + days, ROWS_A_DAY, alike=alike)
        first = rows["event_time"].iloc[0].date()
        split = rows["event_time"].searchsorted(rows["event_time"].iloc[0].floor("D") + timedelta(days=before))
        kept = profile(spec, rows.iloc[:split]) if history else None
        alerted = False
        for day in range(days):
            baseline, current = windows(rows, first + timedelta(days=before + day), spec.monitoring)
            report = compare(spec, kept if kept is not None else profile(spec, baseline), current)
            found["days"] += 1
            found["drift"] += report.status == "drift"
            found["alerts"] += report.alert
            found["told"] += report.alert and not alerted
            alerted = report.alert
    return found


def power_checks(shift: Shift, checks: int, seed: int, rows: int = 1000) -> Counts:
    """Two of twenty columns moved: detections of our report and of the plain rule, false detections, alerts."""
    rng, spec = np.random.default_rng(seed), PROTOCOL.spec()
    names = list(PROTOCOL.categorical if shift.categorical else PROTOCOL.numeric)
    found: Counts = defaultdict(list)
    for _ in range(checks):
        reference, current = draw(rng, PROTOCOL, rows), draw(rng, PROTOCOL, rows)
        moved = rng.choice(names, size=2, replace=False)
        for name in moved:
            current[name] = shift.apply(rng, current[name], PROTOCOL.numeric.get(name, ""))
        report = _report(spec, reference, current)
        plain = _plain_rule(reference, current)
        found["hits"].append(sum(name in report.drifted for name in moved) / 2)
        found["false"].append(float(any(name not in moved for name in report.drifted)))
        found["alert"].append(report.alert)
        found["plain"].append(sum(name in plain for name in moved) / 2)
    return dict(found)


def _plain_rule(reference: dict[str, np.ndarray], current: dict[str, np.ndarray]) -> list[str]:
    """Columns that Benjamini-Hochberg rejects on Kolmogorov-Smirnov and two-sample chi-square alone."""
    p = []
    for name in PROTOCOL.numeric:
        sides = [side[name][~np.isnan(side[name])] for side in (reference, current)]
        p.append(stats.ks_2samp(*sides, method="asymp").pvalue)
    for name in PROTOCOL.categorical:
        levels = np.unique(np.concatenate([reference[name], current[name]]))
        table = np.array([(side[name][:, None] == levels).sum(axis=0) for side in (reference, current)])
        p.append(stats.chi2_contingency(table, correction=False).pvalue)
    rejected = stats.false_discovery_control(p) <= RATE
    return [name for name, reject in zip(PROTOCOL.all, rejected, strict=True) if reject]


def correlation_checks(checks: int, seed: int) -> Counts:
    """Two columns lose their correlation of 0.6; each keeps its own distribution."""
    rng, spec = np.random.default_rng(seed), PROTOCOL.spec()
    found: Counts = defaultdict(list)
    for _ in range(checks):
        reference, current = draw(rng, PROTOCOL, 1000), draw(rng, PROTOCOL, 1000)
        reference["normal_1"] = 0.6 * reference["normal_0"] + 0.8 * reference["normal_1"]
        report = _report(spec, reference, current)
        found["hits"].append(bool(report.joint and report.joint.drifted))
        found["false"].append(bool(report.drifted))
        found["alert"].append(report.alert)
        found["plain"].append(bool(_plain_rule(reference, current)))
    return dict(found)


def irrelevant_checks(checks: int, seed: int) -> Counts:
    """A column that the champion does not use moves by half a sigma: it is detected, with the advice not to retrain."""
    rng, spec = np.random.default_rng(seed), PROTOCOL.spec()
    importance = {name: 0.0 if name == "normal_0" else 1.0 for name in PROTOCOL.all}
    found: Counts = defaultdict(list)
    for _ in range(checks):
        reference, current = draw(rng, PROTOCOL, 1000), draw(rng, PROTOCOL, 1000)
        current["normal_0"] = current["normal_0"] + 0.5
        report = _report(spec, reference, current, importance=importance)
        found["hits"].append("normal_0" in report.drifted)
        found["false"].append(report.drifted not in ([], ["normal_0"]))
        found["alert"].append(report.alert)
        found["plain"].append("normal_0" in _plain_rule(reference, current))
        found["blocked"].append(report.recommendation.startswith("Hold"))
    return dict(found)


def noop_checks(checks: int, seed: int) -> dict[str, int]:
    """Every numeric column moves by a fiftieth of its sigma in 100,000 rows."""
    rng, spec = np.random.default_rng(seed), PROTOCOL.spec()
    alarms = 0
    for _ in range(checks):
        reference, current = draw(rng, PROTOCOL, 100_000), draw(rng, PROTOCOL, 100_000)
        for name, kind in PROTOCOL.numeric.items():
            current[name] = current[name] + 0.02 * SIGMA[kind]
        alarms += bool(_report(spec, reference, current).drifted)
    return {"alarms": alarms, "checks": checks}


def interval(hits: float, trials: int) -> tuple[float, float]:
    """95% Clopper-Pearson interval of a share."""
    low, high = stats.beta.ppf([0.025, 0.975], [hits, hits + 1], [trials - hits + 1, trials - hits])
    return (0.0 if hits == 0 else float(low)), (1.0 if hits == trials else float(high))


Rows = list[dict[str, Any]]


class Tasks:
    """Runs functions in worker processes, each split by seeds, with progress on the error output."""

    def __init__(self, pool: ProcessPoolExecutor, seed: int) -> None:
        self.pool, self.seed, self.started = pool, seed, time.monotonic()
        self.futures: dict[Any, list[Any]] = {}

    def submit(self, key: Any, function: Callable[..., Any], *arguments: Any) -> None:
        self.futures.setdefault(key, []).append(self.pool.submit(function, *arguments))

    def submit_checks(self, key: Any, function: Callable[..., Any], *arguments: Any, checks: int, parts: int) -> None:
        for _ in range(parts):
            self.seed += 1
            self.submit(key, function, *arguments, checks // parts, self.seed)

    def results(self) -> Iterator[tuple[Any, list[Any]]]:
        for key, futures in self.futures.items():
            yield key, [future.result() for future in futures]
            print(f"{time.monotonic() - self.started:6.0f} s  {key}", file=sys.stderr, flush=True)


def submit_all(tasks: Tasks, quick: bool) -> None:
    scale = 25 if quick else 1
    for sizes in SIZES[: 2 if quick else None]:
        checks = (LARGE_CHECKS if max(sizes) > 10_000 else CHECKS) // scale
        tasks.submit_checks(
            ("null", "protocol", sizes), null_checks, PROTOCOL, sizes, checks=checks, parts=1 if quick else 4
        )
    for name, columns in EXTREME_COLUMNS.items():
        for sizes in ((200, 200), (1000, 1000)):
            checks = CHECKS // scale // (1 if columns.numeric else 2)
            tasks.submit_checks(("null", name, sizes), null_checks, columns, sizes, checks=checks, parts=1)
    seeds = np.arange(2 if quick else STREAMS) + 10_000 * tasks.seed
    arms = ((False, False), (True, False), (False, True), (True, True))
    for alike, history in arms:
        chosen = seeds if not history else seeds[: max(2, len(seeds) // 4)]
        for part in np.array_split(chosen, 2):
            tasks.submit(("stream", alike, history), stream_checks, alike, history, part.tolist(), STREAM_DAYS)
    for shift in range(len(SHIFTS)):
        tasks.submit_checks(("power", SHIFTS[shift].name), _power, shift, checks=POWER_CHECKS // scale, parts=1)
    tasks.submit_checks(("power", "correlation only"), correlation_checks, checks=POWER_CHECKS // scale, parts=1)
    tasks.submit_checks(("power", "irrelevant column"), irrelevant_checks, checks=POWER_CHECKS // scale, parts=1)
    tasks.submit_checks(("noop",), noop_checks, checks=2 if quick else 40, parts=1 if quick else 2)


def _power(shift: int, checks: int, seed: int) -> Counts:
    return power_checks(SHIFTS[shift], checks, seed)


def null_rows(
    name: str, sizes: tuple[int, int], parts: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row of one arm's false alarms, and one row per type of column."""
    checks = sum(part["checks"] for part in parts)
    alarms = sum(part["any"] for part in parts)
    low, high = interval(alarms, checks)
    row = {"columns": name, "reference": sizes[0], "current": sizes[1], "checks": checks}
    row |= {"any column": alarms / checks, "low": low, "high": high}
    row |= {"alert": sum(part["alert"] for part in parts) / checks, "always": 1.0, "never": 0.0}
    types = []
    for kind in parts[0]["p"]:
        p = np.concatenate([part["p"][kind] for part in parts])
        below = int((p < RATE).sum())
        low, high = interval(below, len(p))
        types.append(
            {"type": kind, "reference": sizes[0], "current": sizes[1], "tests": len(p)}
            | {"share below .05": below / len(p), "low": low, "high": high, "below .005": float((p < 0.005).mean())}
        )
    return row, types


def stream_row(alike: bool, history: bool, parts: list[dict[str, int]]) -> dict[str, Any]:
    total = {key: sum(part[key] for part in parts) for key in parts[0]}
    per = 1000 / total["days"]
    return {
        "stream": "AR(1), weekdays" if alike else "independent",
        "against": f"profile of {HISTORY_DAYS} days" if history else "trailing window",
        "stream-days": total["days"],
        "alerts per 1000": total["alerts"] * per,
        "told per 1000": total["told"] * per,
        "drift per 1000": total["drift"] * per,
        "always": 1000.0,
        "never": 0.0,
    }


def power_row(name: str, parts: list[Counts]) -> dict[str, Any]:
    values = {key: np.concatenate([part[key] for part in parts]).astype(float) for key in parts[0]}
    return {
        "change": name,
        "checks": len(values["hits"]),
        "hits": values["hits"].mean(),
        "KS and chi-square": values["plain"].mean(),
        "always": 1.0,
        "never": 0.0,
        "false hit": values["false"].mean(),
        "alert": values["alert"].mean(),
        "blocked": values["blocked"].mean() if "blocked" in values else None,
    }


def main() -> None:
    options = parse_arguments(__doc__ or "")
    nulls, types, streams, powers, noop = [], [], [], [], {}
    # One thread per process: threads of linear algebra would compete for the cores.
    with ProcessPoolExecutor(WORKERS, initializer=threadpool_limits, initargs=(1,)) as pool:
        tasks = Tasks(pool, options.seed * 1000)
        submit_all(tasks, options.quick)
        for key, parts in tasks.results():
            if key[0] == "null":
                row, of_types = null_rows(key[1], key[2], parts)
                nulls.append(row)
                types += of_types
            elif key[0] == "stream":
                streams.append(stream_row(key[1], key[2], parts))
            elif key[0] == "power":
                powers.append(power_row(key[1], parts))
            else:
                noop = {name: sum(part[name] for part in parts) for name in parts[0]}
    print(f"\nFalse alarms per check without a change, 20 columns, q = {RATE}")
    print_table(nulls)
    print("\nShare of one column's p-values below .05 without a change, before any tolerance")
    print_table(types)
    print(f"\nQuiet streams of {STREAM_DAYS} days, {ROWS_A_DAY} rows a day; told: without alerts on consecutive days")
    print_table(streams)
    print("\nHit share, two of 20 columns moved, 1000 against 1000 rows")
    print_table(powers)
    print(f"\nEvery column moved by .02 sigma, 100,000 rows: {noop['alarms']} of {noop['checks']} checks alarm\n")
    print_result(figures(nulls, types, streams, powers, noop), options.seed, options.json)


def figures(nulls: Rows, types: Rows, streams: Rows, powers: Rows, noop: dict[str, Any]) -> dict[str, Any]:
    hits = {row["change"]: float(row["hits"]) for row in powers}
    plain = {row["change"]: float(row["KS and chi-square"]) for row in powers}
    names = {
        "hit_mean_01": "mean +0.1 sigma",
        "hit_mean_02": "mean +0.2 sigma",
        "hit_mean_05": "mean +0.5 sigma",
        "hit_variance": "variance +20%",
        "hit_tail": "tail 2%",
        "hit_category": "category 3 points",
        "hit_null": "nulls 0 -> 10%",
    }
    shares = [row["share below .05"] for row in types]
    return {
        "any_false_alarm_max": max(row["any column"] for row in nulls),
        "column_false_alarm_min": min(shares),
        "column_false_alarm_max": max(shares),
        "alerts_per_1000_days_iid": streams[0]["alerts per 1000"],
        "alerts_per_1000_days_ar1": streams[1]["alerts per 1000"],
        "alerts_per_1000_days_iid_history": streams[2]["alerts per 1000"],
        "alerts_per_1000_days_ar1_history": streams[3]["alerts per 1000"],
        **{key: hits[name] for key, name in names.items()},
        "plain": {key: plain[name] for key, name in names.items()},
        "noop_alarms": noop["alarms"],
        "noop_checks": noop["checks"],
        "hits": hits,
        "checks": {f"{row['columns']} {row['reference']}/{row['current']}": row["checks"] for row in nulls},
    }


if __name__ == "__main__":
    main()
