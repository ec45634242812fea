"""Share of bad versions rolled back within 48 hours, of good ones kept, and the delay until a doubled loss is reported.

Every run draws entities with their outcome and prediction from the product's own backtest of a simulated organisation,
so that losses have their real shapes: absolute errors of story points and lead times, squared errors of a probability.
A bad version is made in several ways, each of which doubles the mean loss: doubled errors, or scaled, shifted or noisy
predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.common import parse_arguments, print_result, print_table
from ml_pipeline.demo.simulator import Organisation, simulate
from ml_pipeline.features.point_in_time import build
from ml_pipeline.lifecycle.rollback import Activation, Pairs, watch
from ml_pipeline.monitoring.performance import degradation
from ml_pipeline.specs import load_specs
from ml_pipeline.stats import losses
from ml_pipeline.training.backtest import rolling_origin

A_DAY = 30
WATCH_DAYS = 28
HISTORY_DAYS = 90
WORKERS = 2
SPECS = load_specs()
ACTIVATED = datetime(2025, 3, 10, tzinfo=UTC)
START = pd.Timestamp("2025-01-01", tz="UTC")
Distort = Callable[[np.ndarray, np.ndarray, float, np.random.Generator], np.ndarray]


class Shape(NamedTuple):
    """Matured entities of one model: outcome, prediction made before it, and prediction of the baseline."""

    model: str
    label: np.ndarray
    value: np.ndarray
    baseline: np.ndarray

    @property
    def task(self) -> Any:
        return SPECS[self.model].task

    def draw(self, count: int, rng: np.random.Generator) -> Shape:
        at = rng.integers(0, len(self.label), count)
        return Shape(self.model, self.label[at], self.value[at], self.baseline[at])

    def losses(self, value: np.ndarray) -> np.ndarray:
        return losses(self.task, self.label, value)


def shapes(seed: int, quick: bool) -> list[Shape]:
    """One pool per model: out-of-sample predictions for a simulated organisation."""
    end = START + pd.Timedelta(days=330)
    history = simulate(Organisation("pool", seed + 3, START, end, 200, 140, people=60, teams=6))
    found = []
    for name, spec in SPECS.items():
        rows = history.issues if spec.source.table == "source.issues" else history.pull_requests
        frame = build(spec, rows, end)
        first = end - pd.Timedelta(days=90 if quick else 150)
        made = rolling_origin(spec, frame, first, first + pd.Timedelta(days=50 if quick else 110))
        matured = frame.loc[frame["state"] == "matured", ["entity_id", "label"]].merge(made, on="entity_id")
        columns = (matured[column].to_numpy(float) for column in ("label", "value", "baseline"))
        found.append(Shape(name, *columns))
    return found


def errors_scaled(label: np.ndarray, value: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(label + (value - label) * (1 + size))


def surer(label: np.ndarray, value: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """A probability with a larger error, at most 1."""
    return np.asarray(label + np.clip((value - label) * (1 + size), -1, 1))


def scaled(label: np.ndarray, value: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    return value * (1 + size)


def shifted(label: np.ndarray, value: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    return value + size


def shifted_up(label: np.ndarray, value: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    return np.minimum(value + size, 1)


def noisy(label: np.ndarray, value: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    return value * np.exp(size * rng.normal(size=len(value)))


def noisy_odds(label: np.ndarray, value: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    odds = np.log(np.clip(value, 1e-6, 1 - 1e-6) / np.clip(1 - value, 1e-6, 1))
    return np.asarray(1 / (1 + np.exp(-odds - size * rng.normal(size=len(value)))))


def turned(label: np.ndarray, value: np.ndarray, size: float, rng: np.random.Generator) -> np.ndarray:
    """A probability mixed with its opposite."""
    return value + (1 - 2 * value) * min(size, 1.0)


BAD: dict[str, dict[str, Distort]] = {
    "regression": {"errors doubled": errors_scaled, "scaled": scaled, "shifted": shifted, "noisy": noisy},
    "binary": {"errors doubled": surer, "turned": turned, "shifted": shifted_up, "noisy": noisy_odds},
}


def doubling(shape: Shape, distort: Distort) -> float | None:
    """The size at which the distortion doubles the mean loss of the pool; None if no size does."""
    target, low, high = 2 * shape.losses(shape.value).mean(), 0.0, 50.0

    def loss(size: float) -> float:
        return float(shape.losses(distort(shape.label, shape.value, size, np.random.default_rng(0))).mean())

    if loss(high) < target:
        return None
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if loss(middle) < target else (low, middle)
    return high


def pairs_at_a_pace(ours: np.ndarray, theirs: np.ndarray, rng: np.random.Generator) -> Pairs:
    days = np.sort(rng.random(len(ours))) * len(ours) / A_DAY
    start = np.datetime64(ACTIVATED.replace(tzinfo=None), "us")
    return Pairs(ours, theirs, start + 1 + (days * 86_400_000_000).astype("timedelta64[us]"))


def watched(shape: Shape, make: Callable[[Shape, np.random.Generator], Any], hours: int, seed: int) -> str:
    """The verdict of the watch after ``hours`` on two versions' predictions of the same entities."""
    rng = np.random.default_rng([seed, 48])
    entities = shape.draw(A_DAY * WATCH_DAYS, rng)
    ours, theirs = make(entities, rng)
    pairs = pairs_at_a_pace(entities.losses(ours), entities.losses(theirs), rng)
    now = ACTIVATED + timedelta(hours=hours)
    return watch(pairs, Activation(2, 1, ACTIVATED, shape.task), now=now).verdict


def distorted(distort: Distort, size: float, entities: Shape, rng: np.random.Generator) -> Any:
    return distort(entities.label, entities.value, size, rng), entities.value


def equally_noisy(size: float, entities: Shape, rng: np.random.Generator) -> Any:
    blur = noisy if entities.task == "regression" else noisy_odds
    return tuple(blur(entities.label, entities.value, size, rng) for _ in range(2))


def rollbacks(pool: ProcessPoolExecutor, found: list[Shape], seeds: list[int]) -> list[dict[str, Any]]:
    rows = []
    for shape in found:
        arms: dict[str, tuple[Any, int]] = {}
        for name, distort in BAD[shape.task].items():
            size = doubling(shape, distort)
            if size is not None:
                arms[f"bad: {name}"] = partial(distorted, distort, size), 48
        for name, size in {"nearly the same": 0.02, "a little apart": 0.2, "far apart": 0.6}.items():
            arms[f"equal: {name}"] = partial(equally_noisy, size), 24 * WATCH_DAYS
        for name, (make, hours) in arms.items():
            verdicts = list(pool.map(partial(watched, shape, make, hours), seeds, chunksize=20))
            rows.append(
                {
                    "model": shape.model,
                    "version": name,
                    "hours": hours,
                    "rolled_back": verdicts.count("roll_back") / len(verdicts),
                    "kept": verdicts.count("keep") / len(verdicts),
                }
            )
    return rows


class SimulationWindow(NamedTuple):
    """A simulated tenant: the effect of a day on the loss (log scale), its autocorrelation, and the change."""

    day_effect: float = 0.0
    memory: float = 0.0
    distort: Distort | None = None
    size: float = 0.0
    a_day: int = A_DAY


def scored_history(shape: Shape, life: SimulationWindow, days: int, change: int, seed: int) -> pd.DataFrame:
    """Scored outcomes of a tenant, distorted from the day of the change on."""
    rng = np.random.default_rng([seed, 90])
    entities = shape.draw(days * life.a_day, rng)
    day = np.repeat(np.arange(days), life.a_day)
    effect = rng.normal(size=days) * life.day_effect
    for later in range(1, days):
        effect[later] = life.memory * effect[later - 1] + np.sqrt(1 - life.memory**2) * effect[later]
    value = entities.value
    if life.distort is not None:
        value = np.where(day >= change, life.distort(entities.label, value, life.size, rng), value)
    time = START + pd.to_timedelta(day * 24 + np.tile(np.arange(life.a_day) * 24 / life.a_day, days), unit="h")
    return pd.DataFrame(
        {
            "entity_id": np.arange(len(day)).astype(str),
            "label_time": time.astype("datetime64[us, UTC]"),
            "label": entities.label,
            "value": value,
            "lower": np.nan,
            "upper": np.nan,
            "baseline": entities.baseline,
            "version": 1,
            "origin": "live",
            "loss": entities.losses(value) * np.exp(effect)[day],
            "baseline_loss": entities.losses(entities.baseline),
        }
    )


def reported(shape: Shape, life: SimulationWindow, seed: int) -> list[bool]:
    """Whether the day of the change, and the next day, are reported as degraded."""
    rows = scored_history(shape, life, HISTORY_DAYS + 2, HISTORY_DAYS, seed)
    days = [(START + pd.Timedelta(days=HISTORY_DAYS + later)).date() for later in range(2)]
    return [degradation(SPECS[shape.model], rows, day).status == "degraded" for day in days]


def quiet_days(shape: Shape, life: SimulationWindow, days: int, seed: int) -> list[bool]:
    """Whether each of the last ``days`` of a tenant without a change is reported as degraded."""
    rows = scored_history(shape, life, HISTORY_DAYS + days, HISTORY_DAYS + days, seed)
    first = START + pd.Timedelta(days=HISTORY_DAYS)
    spec = SPECS[shape.model]
    return [
        degradation(spec, rows, (first + pd.Timedelta(days=number)).date()).status == "degraded"
        for number in range(days)
    ]


LIVES = {
    "independent": SimulationWindow(),
    "10 a day": SimulationWindow(a_day=10),
    "day effect 10%": SimulationWindow(day_effect=0.1),
    "day effect 20%": SimulationWindow(day_effect=0.2),
    "day effect 10%, AR .5": SimulationWindow(day_effect=0.1, memory=0.5),
}


def degradations(pool: ProcessPoolExecutor, found: list[Shape], seeds: list[int], days: int) -> list[dict[str, Any]]:
    rows = []
    quiet_seeds = seeds[: max(len(seeds) // 2, 1)]
    for shape in found:
        for name, life in LIVES.items():
            for change, distort in (
                BAD[shape.task].items() if name == "independent" else [next(iter(BAD[shape.task].items()))]
            ):
                size = doubling(shape, distort)
                if size is None:
                    continue
                changed = life._replace(distort=distort, size=size)
                seen = np.array(list(pool.map(partial(reported, shape, changed), seeds, chunksize=20)))
                row = {
                    "model": shape.model,
                    "outcomes": name,
                    "change": change,
                    "that_day": float(seen[:, 0].mean()),
                    "by_next_day": float(seen.any(axis=1).mean()),
                }
                if change == "errors doubled":
                    alarms = np.array(list(pool.map(partial(quiet_days, shape, life, days), quiet_seeds, chunksize=5)))
                    begins = alarms & ~np.pad(alarms, ((0, 0), (1, 0)))[:, :-1]
                    row |= {
                        "quiet_days": alarms.size,
                        "alarm_days_per_1000": 1000 * float(alarms.mean()),
                        "alarms_per_1000": 1000 * float(begins.mean()),
                    }
                rows.append(row)
    return rows


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    seeds = [arguments.seed * 1_000_000 + number for number in range(40 if arguments.quick else 200)]
    found = shapes(arguments.seed, arguments.quick)
    with ProcessPoolExecutor(WORKERS) as pool:
        watches = rollbacks(pool, found, seeds)
        changes = degradations(pool, found, seeds, 6 if arguments.quick else 30)
    print_table(watches)
    print_table(changes)
    bad = [row["rolled_back"] for row in watches if row["version"] == "bad: errors doubled"]
    equal = [row["rolled_back"] for row in watches if row["version"].startswith("equal")]
    plain = [row for row in changes if row["outcomes"] == "independent" and row["change"] == "errors doubled"]
    figures = {
        "bad_rolled_back_48h": min(bad),
        "bad_rolled_back_48h_worst_kind": min(row["rolled_back"] for row in watches if row["version"][:3] == "bad"),
        "good_rolled_back": float(np.mean(equal)),
        "good_rolled_back_max": max(equal),
        "detected_next_day": min(row["by_next_day"] for row in plain),
        "quiet_alarm_days_per_1000": float(np.mean([row["alarm_days_per_1000"] for row in plain])),
        "runs": len(seeds),
        "outcomes_a_day": A_DAY,
        "watches": watches,
        "changes": changes,
    }
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
