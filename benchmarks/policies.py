"""Retraining policies replayed over streams, Jira tenants and commits: mean loss, trainings and alerts of each.

Every policy is replayed with the same learner: fits are judged against the baseline and the champion, and fits with the
same as-of time are computed once for all policies. All policies begin with the same first version, which is not
counted. Text features are left out and trees are few, so that thousands of fits take minutes. Policies that use only
the calendar are replayed without monitors and rollback watch, so their alerts are not counted. The parameters of the
product's policy were chosen on the streams at a label delay of 7 days; the other delays and the tenants were not used
for the choice.
"""

from __future__ import annotations

import datetime as dt
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import pandas as pd

from benchmarks.common import (
    AFTER_EVERYTHING,
    QUICK_TENANTS,
    jira_tenants,
    parse_arguments,
    print_result,
    print_table,
    source_rows,
)
from benchmarks.streams import commits, streams
from ml_pipeline.features.point_in_time import build
from ml_pipeline.lifecycle.policy import BUILT_IN, Policy, VolumeClass
from ml_pipeline.replay.history import History
from ml_pipeline.replay.learner import Learner
from ml_pipeline.replay.loop import replay
from ml_pipeline.replay.result import Replay
from ml_pipeline.specs import ModelSpec, load_specs

PRODUCT, WEEKLY = "product", "weekly"
POLICIES = ("never", WEEKLY, "monthly", "drift_only", PRODUCT)
WATCHED = frozenset({"drift_only", PRODUCT})
DELAYS = (0, 7, 30)
EVERY_BATCH_DELAY = 7
EVERY_BATCH_TRAININGS = 250
QUICK_DAYS = 150
QUICK_BATCHES = 30
LAST_DAYS = 730  # of a Jira tenant and of a project
JIRA_MODELS = ("story_points", "lead_time")
MIN_LABELS = 150  # labels that a Jira tenant needs; the first version is trained on 100
SMALL_TREES = {"n_estimators": 30, "max_depth": 4, "learning_rate": 0.1}
WORKERS = 2
COMPARED = ("streams", "jira")  # the groups that the figures are over; commits are shown beside them
TIMED = 5
TIMED_SOURCES = 8


class Past(NamedTuple):
    """A source to replay."""

    group: str
    name: str
    spec: ModelSpec
    rows: pd.DataFrame
    days: int | None  # number of newest rows to use; None: all


def pasts(arguments: Any) -> Iterator[Past]:
    """Every stream at every label delay, every project's commits, every Jira tenant and model with enough labels."""
    delays = (EVERY_BATCH_DELAY,) if arguments.quick else DELAYS
    for name, spec, rows in streams(arguments.data, delays):
        yield Past("streams", name, spec, rows, QUICK_DAYS if arguments.quick else None)
    for name, spec, rows in () if arguments.quick else commits(arguments.data):
        yield Past("commits", name, spec, rows, LAST_DAYS)
    specs = load_specs()
    small = {model: without_text(specs[model]) for model in JIRA_MODELS}
    found = 0
    for tenant, export in jira_tenants(arguments.data):
        for model, spec in small.items():
            rows = source_rows(spec, export)
            if arguments.quick and found == QUICK_TENANTS:
                return
            if (build(spec, rows, AFTER_EVERYTHING)["state"] == "matured").sum() >= MIN_LABELS:
                found += 1
                yield Past("jira", f"{tenant} {model}", spec, rows, QUICK_DAYS if arguments.quick else LAST_DAYS)


def without_text(spec: ModelSpec) -> ModelSpec:
    """The specification without text features and with few trees."""
    features = spec.features.model_copy(update={"text": []})
    training = spec.training.model_copy(update={"params": SMALL_TREES})
    return spec.model_copy(update={"features": features, "training": training})


def learner(past: Past) -> Learner:
    """The history of a source, from the day with enough labels for a first version to its last label."""
    frame = build(past.spec, past.rows, AFTER_EVERYTHING)
    matured = frame.loc[frame["state"] == "matured", "label_time"].sort_values()
    last = min(frame["event_time"].max(), matured.iloc[-1]).date()
    first = matured.iloc[min(past.spec.training.min_rows, len(matured)) - 1].date()
    if past.days is not None:
        first = max(first, last - dt.timedelta(days=past.days - 1))
    return Learner(History(past.spec, frame, min(first, last), last))


def measure(past: Past) -> dict[str, Any]:
    """Every policy on one source."""
    from threadpoolctl import threadpool_limits

    started, cpu = time.perf_counter(), time.process_time()
    with threadpool_limits(1):
        ready = learner(past)
        chosen = [BUILT_IN[name] for name in POLICIES]
        if past.group == "streams" and past.name.endswith(f"+{EVERY_BATCH_DELAY}d"):
            chosen.append(every_batch(ready, EVERY_BATCH_TRAININGS if past.days is None else QUICK_BATCHES))
        found = {
            policy.name: figures(replay(ready, policy, watched=policy.name in WATCHED), policy.name)
            for policy in chosen
        }
    row = {"group": past.group, "days": len(ready.history.days), "policies": found}
    return row | {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}


def every_batch(ready: Learner, trainings: int) -> Policy:
    """Trains on every batch of new labels: of one day, or of as many days as limit the number of trainings."""
    days = math.ceil(len(ready.history.days) / trainings)
    schedule = (VolumeClass(weekly_items=0, days=days, samples=1),)
    return BUILT_IN["every_batch"].model_copy(update={"schedule": schedule})


def figures(done: Replay, policy: str) -> dict[str, Any]:
    return {
        "loss": done.mean_loss(),
        "baseline": done.mean_loss("baseline"),
        "rolling": done.mean_loss("rolling"),
        "outcomes": done.outcomes,
        "trainings": done.trainings,
        "updates": done.updates,
        "promotions": done.promotions,
        "rollbacks": len(done.rollbacks) if policy in WATCHED else None,
        "alerts": len(done.alerts) if policy in WATCHED else None,
    }


def summary(sources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The product against fixed weekly, over streams and tenants together; a loss ratio is a mean over sources."""
    judged = {name: row for name, row in sources.items() if row["group"] in COMPARED}
    compared = {name: row for name, row in judged.items() if row["policies"][WEEKLY]["loss"]}
    ours = [row["policies"][PRODUCT] for row in compared.values()]
    weekly = [row["policies"][WEEKLY] for row in compared.values()]
    trainings = sum(one["trainings"] for one in weekly)
    outcomes = sum(one["outcomes"] for one in weekly)
    ratios = [one["loss"] / other["loss"] for one, other in zip(ours, weekly, strict=True)]
    days = sum(row["days"] for row in compared.values())
    alerts = sum(one["alerts"] for one in ours)
    weighted = sum(one["outcomes"] * ratio for one, ratio in zip(weekly, ratios, strict=True))
    return {
        "sources": len(compared),
        "trainings": sum(one["trainings"] for one in ours),
        "updates": sum(one["updates"] for one in ours),
        "weekly_trainings": trainings,
        "trainings_vs_weekly": sum(one["trainings"] for one in ours) / trainings,
        "fits_vs_weekly": sum(one["trainings"] + one["updates"] for one in ours) / trainings,
        "loss_vs_weekly": statistics.fmean(ratios),
        "loss_vs_weekly_by_outcomes": weighted / outcomes,
        "loss_vs_weekly_median": statistics.median(ratios),
        "loss_vs_weekly_worst": max(ratios),
        "alerts": alerts,
        "alerts_per_1000_days": 1000 * alerts / days,
    }


def by_policy(sources: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per group and policy: trainings, and the mean ratio of its loss to weekly's."""
    rows = []
    for group in sorted({row["group"] for row in sources.values()}):
        members = [
            row["policies"] for row in sources.values() if row["group"] == group and row["policies"][WEEKLY]["loss"]
        ]
        for policy in (*POLICIES, "every_batch", "baseline", "rolling"):
            without_model = policy in ("baseline", "rolling")
            found = [member for member in members if without_model or policy in member]
            if not found:
                continue
            losses = [member[PRODUCT][policy] if without_model else member[policy]["loss"] for member in found]
            ratios = [loss / member[WEEKLY]["loss"] for loss, member in zip(losses, found, strict=True)]
            own = [] if without_model else [member[policy] for member in found]
            rows.append(
                {
                    "group": group,
                    "policy": policy,
                    "sources": len(found),
                    "trainings": sum(one["trainings"] for one in own),
                    "updates": sum(one["updates"] for one in own),
                    "alerts": sum(one["alerts"] or 0 for one in own) if policy in WATCHED else None,
                    "loss_vs_weekly": statistics.fmean(ratios),
                }
            )
    return rows


def replay_seconds(past: Past, times: int) -> tuple[float, bool]:
    """Seconds that the last year of a source takes with the monitors and without a training: median, after the fit.

    And whether a version served: where none does, the monitors have nothing to look at.
    """
    ready = learner(past._replace(days=365))
    spent = []
    for _ in range(times + 1):  # the first one fits and warms up
        started = time.perf_counter()
        done = replay(ready, BUILT_IN["never"])
        spent.append(time.perf_counter() - started)
    return statistics.median(spent[1:]), done.days[-1].version is not None


def slowest_year(sources: Iterable[Past], times: int) -> dict[str, Any]:
    """The slowest year, of the largest sources, in which a version served."""
    largest = sorted(sources, key=lambda past: -len(past.rows))[:TIMED_SOURCES]
    taken = {past.name: replay_seconds(past, times) for past in largest}
    served = {name: seconds for name, (seconds, was_served) in taken.items() if was_served}
    name = max(served, key=lambda name: served[name]) if served else None
    return {
        "replay_seconds_without_training": served[name] if name else None,
        "replayed_year": name or "no version served in any of the years",
    }


def table(sources: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for name, row in sources.items():
        found = row["policies"]
        line: dict[str, Any] = {"source": name, "days": row["days"], "outcomes": found[PRODUCT]["outcomes"]}
        for policy in (*POLICIES, "every_batch"):
            line[policy] = found[policy]["loss"] if policy in found else None
        line |= {"baseline": found[PRODUCT]["baseline"], "rolling": found[PRODUCT]["rolling"]}
        line |= {"n weekly": found[WEEKLY]["trainings"], "n drift": found["drift_only"]["trainings"]}
        line |= {"n product": found[PRODUCT]["trainings"], "updates": found[PRODUCT]["updates"]}
        rows.append(line | {"alerts": found[PRODUCT]["alerts"]})
    return rows


def measured(sources: Iterable[Past]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each source in turn, two at a time, the longest first."""
    waiting = sorted(sources, key=lambda past: -len(past.rows))
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        for past, row in zip(waiting, pool.map(measure, waiting), strict=True):
            print(f"{past.name}: {row['cpu_seconds']:.0f} CPU seconds", file=sys.stderr, flush=True)
            yield past.name, row


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    chosen = list(pasts(arguments))
    sources = dict(sorted(measured(chosen)))
    print_table(table(sources))
    print_table(by_policy(sources))
    found = summary(sources) | slowest_year(chosen, 1 if arguments.quick else TIMED)
    print_table([found])
    print_result(found | {"per_stream": sources, "label_delays": list(DELAYS)}, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
