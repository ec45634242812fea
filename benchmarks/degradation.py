"""Delay until a rise of an error rate is detected: our test and river's detectors, at the same share of false alarms.

Streams of 0/1 errors: 0.10 for 10,000 items, then 0.10 + d for 5,000. A stream counts as quiet until its change; its
delay is the number of items from the change to the first alarm, for streams without an earlier alarm. Our test runs
once per 40 items, a day of a busy tenant; river's detectors run after every item. The threshold of detectors called
"equal" is chosen on other quiet streams, so that at most 2.5% of them have an alarm; "told" also knows the size of the
change beforehand. By default, half of our false alarm rate is for changes in the last two days; with equal thresholds,
all of it is for changes of any age.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import parse_arguments, print_result, print_table
from benchmarks.peers import allow_river
from ml_pipeline.monitoring.degradation.detector import RECENT_SHARE, rise

try:
    allow_river()
    from river import drift as river_drift
except ImportError:
    river_drift = None

QUIET, CHANGED = 10_000, 5_000
RATE = 0.10
RISES = (0.02, 0.05, 0.10)
A_DAY = 40
CALIBRATED_SHARE = 0.025  # of the calibration streams, so that other streams stay below 3%
START = np.datetime64("2025-01-01")
WORKERS = 2
OURS = [10.0**exponent for exponent in np.arange(-5.0, -1.5, 0.1)]  # false alarms a day
DEFAULT = 0.0005


class Stream(NamedTuple):
    """The stream of a seed, from uniform random numbers; all changes have the same items before the change."""

    seed: int
    rise: float

    @property
    def errors(self) -> np.ndarray:
        uniform = np.random.default_rng([self.seed, 903]).random(QUIET + CHANGED)
        return uniform < RATE + np.where(np.arange(len(uniform)) >= QUIET, self.rise, 0.0)


def rates(stream: Stream, looks: range, recent_share: float) -> np.ndarray:
    """False alarm rate of our test's evidence at the end of each given day."""
    errors = stream.errors.astype(float)
    days = START + np.arange(len(errors)) // A_DAY
    ends = [day * A_DAY for day in looks]
    return np.array([rise(errors[:end], days[:end], recent_share=recent_share).rate for end in ends])


QUIET_LOOKS = range(1, QUIET // A_DAY + 1)


def quiet_rates(recent_share: float, seed: int) -> np.ndarray:
    return rates(Stream(seed, 0.0), QUIET_LOOKS, recent_share)


def changed_rates(recent_share: float, stream: Stream) -> list[float]:
    """The same from the change on, until the evidence is beyond every threshold."""
    found: list[float] = []
    for day in range(QUIET_LOOKS[-1] + 1, (QUIET + CHANGED) // A_DAY + 1):
        found.append(float(rates(stream, range(day, day + 1), recent_share)[0]))
        if found[-1] < min(OURS):
            break
    return found


def first_alarm(detector: Any, errors: np.ndarray) -> int | None:
    """Position of the item after which a river detector first reports a drift."""
    for position, error in enumerate(errors.tolist()):
        detector.update(error)
        if detector.drift_detected:
            return position
    return None


class Measured(NamedTuple):
    """Per stream, whether an alarm precedes the change; per rise, the items to the first alarm after it, or None."""

    quiet: list[bool]
    delays: dict[float, list[int | None]]

    def row(self, method: str, setting: str) -> dict[str, Any]:
        row: dict[str, Any] = {"method": method, "setting": setting, "quiet_alarm_share": float(np.mean(self.quiet))}
        for size, delays in self.delays.items():
            waited = [delay for delay, alarmed in zip(delays, self.quiet, strict=True) if not alarmed]
            name = f"{100 * size:02.0f}"
            known = [math.inf if delay is None else float(delay) for delay in waited]
            median = float(np.median(known)) if known else math.inf
            row[f"detected_{name}"] = float(np.mean(np.isfinite(known))) if known else None
            row[f"delay_{name}"] = median if math.isfinite(median) else None
        return row


def measure_ours(recent_share: float, seeds: Sequence[int], pool: ProcessPoolExecutor) -> Callable[[float], Measured]:
    """Alarms of our test on the streams of the seeds, for any budget of false alarms per day."""
    quiet = list(pool.map(partial(quiet_rates, recent_share), seeds, chunksize=4))
    changed = {
        size: list(pool.map(partial(changed_rates, recent_share), [Stream(seed, size) for seed in seeds], chunksize=4))
        for size in RISES
    }

    def at(budget: float) -> Measured:
        delays: dict[float, list[int | None]] = {}
        for size, streams in changed.items():
            looks = [next((look for look, rate in enumerate(found) if rate <= budget), None) for found in streams]
            first = (QUIET_LOOKS[-1] + 1) * A_DAY - QUIET
            delays[size] = [None if look is None else first + look * A_DAY for look in looks]
        return Measured([bool((found <= budget).any()) for found in quiet], delays)

    return at


def calibrated_ours(recent_share: float, seeds: Sequence[int], pool: ProcessPoolExecutor) -> float:
    """The largest budget with at most ``CALIBRATED_SHARE`` of the calibration streams alarmed."""
    smallest = np.array([found.min() for found in pool.map(partial(quiet_rates, recent_share), seeds, chunksize=4)])
    return max(float(budget) for budget in OURS if (smallest <= budget).mean() <= CALIBRATED_SHARE)


def measure_river(make: Callable[[], Any], seeds: Sequence[int], *, boolean: bool = False) -> Measured:
    kind = bool if boolean else float
    quiet, delays = [], {size: list[int | None]() for size in RISES}
    for seed in seeds:
        alarm = first_alarm(make(), Stream(seed, 0.0).errors[:QUIET].astype(kind))
        quiet.append(alarm is not None)
        for size in RISES:
            at = None if alarm is not None else first_alarm(make(), Stream(seed, size).errors.astype(kind))
            delays[size].append(None if at is None else at - QUIET + 1)
    return Measured(quiet, delays)


def calibrated_river(make: Callable[[float], Any], settings: Sequence[float], seeds: Sequence[int]) -> float | None:
    """The loosest setting with at most ``CALIBRATED_SHARE`` of the calibration streams alarmed."""
    streams = [Stream(seed, 0.0).errors[:QUIET].astype(float) for seed in seeds]
    allowed = int(CALIBRATED_SHARE * len(streams))
    for setting in settings:
        alarms = 0
        for errors in streams:
            alarms += first_alarm(make(setting), errors) is not None
            if alarms > allowed:
                break
        else:
            return float(setting)
    return None


def river_rows(seeds: Sequence[int], calibration: Sequence[int]) -> list[dict[str, Any]]:
    if river_drift is None:
        return [
            {"method": name, "setting": "river is not installed. Run: make bench-peers"}
            for name in ("Page-Hinkley", "ADWIN")
        ]
    page_hinkley, adwin, binary = river_drift.PageHinkley, river_drift.ADWIN, river_drift.binary
    rows = [
        measure_river(page_hinkley, seeds).row("Page-Hinkley", "as shipped"),
        measure_river(adwin, seeds).row("ADWIN", "as shipped"),
        measure_river(binary.DDM, seeds, boolean=True).row("DDM", "as shipped"),
        measure_river(binary.EDDM, seeds, boolean=True).row("EDDM", "as shipped"),
    ]
    for name, setting, make, values in (
        (
            "Page-Hinkley",
            "equal",
            lambda v: page_hinkley(threshold=v, mode="up"),
            [float(value) for value in range(30, 70)],
        ),
        (
            "ADWIN",
            "equal",
            lambda v: adwin(delta=v),
            [0.1, 0.08, 0.07, 0.06, 0.055, 0.05, 0.045, 0.04, 0.035, 0.03, 0.02, 0.01],
        ),
        (
            "Page-Hinkley",
            "told",
            lambda v: page_hinkley(delta=0.025, threshold=v, mode="up"),
            [float(value) for value in range(14, 40)],
        ),
    ):
        found = calibrated_river(make, values, calibration)
        if found is not None:
            measured = measure_river(lambda make=make, found=found: make(found), seeds)  # type: ignore[misc]
            rows.append(measured.row(name, f"{setting} ({found:g})"))
    return rows


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    count = 24 if arguments.quick else 200
    seeds = [arguments.seed * 1_000_000 + number for number in range(count)]
    calibration = [seed + 500_000 for seed in seeds]
    fires = Measured([True] * count, {size: [None] * count for size in RISES})
    never = Measured([False] * count, {size: [None] * count for size in RISES})
    with ProcessPoolExecutor(WORKERS) as pool:
        peers = pool.submit(river_rows, seeds, calibration)
        any_age, shipped = (measure_ours(share, seeds, pool) for share in (0.0, RECENT_SHARE))
        budget = calibrated_ours(0.0, calibration, pool)
        river = peers.result()
    at_budget = any_age(budget).row("ours", f"equal ({budget:.2g} a day)")
    rows = [
        at_budget,
        shipped(DEFAULT).row("ours", f"as shipped ({DEFAULT:g} a day)"),
        *river,
        fires.row("always", ""),
        never.row("never", ""),
    ]
    print_table(rows)
    peer_delay = {
        name: next((row.get("delay_05") for row in rows if row["method"] == name and "equal" in row["setting"]), None)
        for name in ("Page-Hinkley", "ADWIN")
    }
    figures = {key: value for key, value in at_budget.items() if key not in ("method", "setting")} | {
        "budget_a_day": budget,
        "page_hinkley_delay_05": peer_delay["Page-Hinkley"],
        "adwin_delay_05": peer_delay["ADWIN"],
        "streams": count,
        "rows": rows,
    }
    if river_drift is None:
        figures["unmeasured"] = dict.fromkeys(("page_hinkley_delay_05", "adwin_delay_05"), "river is not installed")
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
