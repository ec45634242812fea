"""Story points on the published split of Tawosi et al. (2022), beside constants and the published Deep-SE.

``prequential`` walks the test part in time: each issue is estimated when it is created, by the version that serves
then, and the product's own policy decides each day whether to retrain on the labels known by then.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import (
    AFTER_EVERYTHING,
    QUICK_TENANTS,
    gain_over_tenants,
    jira_tenants,
    mean_absolute_error,
    parse_arguments,
    print_result,
    print_table,
    source_rows,
)
from ml_pipeline.features.point_in_time import build
from ml_pipeline.lifecycle.policy import BUILT_IN, Policy
from ml_pipeline.replay.history import History
from ml_pipeline.replay.learner import Learner
from ml_pipeline.replay.loop import replay
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.training.splits import Split, time_split
from ml_pipeline.training.train import train_on_split

TIE = 0.01
RECENT_ROWS = 50
PUBLISHED = {"deepse": "Deep-SE", "tfidf_svm": "TF/IDF-SVM"}
MACRO = ("refit", "never_again", "prequential", "median", "recent_median", "rolling_median")


def published_spec(spec: ModelSpec) -> ModelSpec:
    """The product's specification without its filters: the published split holds every type and every value."""
    source = spec.source.model_copy(update={"include": {}, "require": []})
    label = spec.label.model_copy(update={"above": -1.0, "at_most": None})
    return spec.model_copy(update={"source": source, "label": label})


def published_split(rows: int) -> Split:
    """The cuts of the published study: 60, 20 and 20 %, every label of a part known when the next begins."""
    first_validation = 60 * rows // 100 - 1
    first_test = first_validation + 20 * rows // 100
    positions = np.arange(rows)
    return Split(
        train=positions[:first_validation],
        validation=positions[first_validation:first_test],
        test=positions[first_test:],
        refit=positions[:first_test],
        purged={},
    )


def published_frame(spec: ModelSpec, export: pd.DataFrame) -> pd.DataFrame:
    """Feature frame of the rows with a ``published_order``, in that order."""
    ordered = export.dropna(subset="published_order").sort_values("published_order")
    frame = build(spec, source_rows(spec, ordered), AFTER_EVERYTHING)
    frame = (
        frame.set_index("entity_id", drop=False).loc[ordered["issue_key"].astype(str).tolist()].reset_index(drop=True)
    )
    return frame[frame["state"] == "matured"].reset_index(drop=True)


def measure(spec: ModelSpec, frame: pd.DataFrame, seed: int) -> dict[str, Any]:
    """MAE on the test part of every row of the table."""
    split = published_split(len(frame))
    test = frame.iloc[split.test]
    label = frame["label"].to_numpy()
    known = frame.iloc[split.refit].reset_index(drop=True)
    as_of = known["label_time"].max()
    parts = time_split(known, spec.training.validation_share, spec.training.test_share)
    final = train_on_split(spec, known, parts, seed, as_of=as_of).model
    train_median = float(np.median(label[split.train]))
    rolling = test["history_recent_median"].fillna(train_median).to_numpy()
    values: dict[str, np.ndarray | float] = {
        "refit": final.predict(test)["value"].to_numpy(),
        "never_again": final.predict(test, frame)["value"].to_numpy(),
        "median": train_median,
        "recent_median": float(np.median(label[split.refit][-RECENT_ROWS:])),
        "rolling_median": rolling,
    }
    errors = {name: mean_absolute_error(label[split.test], value) for name, value in values.items()}
    return {"rows": len(frame), "selected": final.candidate, **errors, **prequential(spec, frame, split)}


def prequential(spec: ModelSpec, frame: pd.DataFrame, split: Split) -> dict[str, Any]:
    """MAE on the test part when it is lived through under the product's policy, and what that trained.

    The first version is trained the midnight before the first test issue. Where a version was not promoted, the
    constant of the newest training answers.
    """
    first = frame["event_time"].iloc[split.test[0]].date() - timedelta(days=1)
    learner = Learner(History(spec, frame, first, frame["event_time"].iloc[-1].date()))
    done = replay(learner, Policy())
    if done.values is None:
        raise ValueError("a replay without answers")
    label = frame["label"].to_numpy()[split.test]
    return {
        "prequential": mean_absolute_error(label, done.values[split.test]),
        "trainings": done.trainings,
        "updates": done.updates,
        "weekly_trainings": calendar_trainings(learner.history, BUILT_IN["weekly"]),
    }


def calendar_trainings(history: History, policy: Policy) -> int:
    """Trainings of a policy that asks the calendar and for one new label, counted without making them."""
    interval = timedelta(days=policy.schedule[0].days)
    trained, count = history.first, 0
    for day in history.days:
        new = history.matured_before(day + timedelta(days=1)) - history.matured_before(trained + timedelta(days=1))
        if day - trained >= interval and new:
            trained, count = day, count + 1
    return count


def published_errors(data: Path) -> dict[tuple[str, str], float]:
    """MAE by project and method as published; empty where the table is not there."""
    path = data / "published" / "tawosi2022_supp_table2_tawosi.csv"
    if not path.is_file():
        return {}
    table = pd.read_csv(path)
    return dict(zip(zip(table["project"], table["method"], strict=True), table["MAE"].astype(float), strict=True))


def summary(tenants: dict[str, dict[str, Any]], seed: int) -> dict[str, Any]:
    """The figures named in the last line; macro means are over tenants."""
    table = pd.DataFrame(tenants).T
    compared = table.dropna(subset="deepse")
    difference = (compared["refit"] - compared["deepse"]).astype(float)
    over = {
        f"{key}_over_{name}": value
        for name in ("median", "rolling_median")
        for key, value in gain_over_tenants(
            table["prequential"].to_numpy(float), table[name].to_numpy(float), seed
        ).items()
    }
    figures: dict[str, Any] = over | {f"{name}_macro_mae": float(table[name].mean()) for name in MACRO}
    return figures | {
        "tenants": len(table),
        "deepse_macro_mae": float(compared["deepse"].mean()) if len(compared) else None,
        "refit_worst_vs_median": float((table["refit"] / table["median"]).max()),
        "worst_vs_median": float((table["prequential"] / table["median"]).max()),
        "worst_vs_rolling_median": float((table["prequential"] / table["rolling_median"]).max()),
        "wins_vs_deepse": int((difference < -TIE).sum()),
        "ties_vs_deepse": int((difference.abs() <= TIE).sum()),
        "losses_vs_deepse": int((difference > TIE).sum()),
        "trainings_vs_weekly": float(table["trainings"].sum() / max(table["weekly_trainings"].sum(), 1)),
        "per_tenant": tenants,
    }


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    spec = published_spec(load_specs()["story_points"])
    errors = published_errors(arguments.data)
    tenants: dict[str, dict[str, Any]] = {}
    for name, export in jira_tenants(arguments.data):
        if arguments.quick and len(tenants) == QUICK_TENANTS:
            break
        if "published_order" not in export or export["published_order"].notna().sum() < spec.training.min_rows:
            continue
        row = measure(spec, published_frame(spec, export), arguments.seed)
        for key, method in PUBLISHED.items():
            row[key] = errors.get((name, method))
        tenants[name] = row
    if not tenants:
        raise SystemExit(f"no export under {arguments.data} has {spec.training.min_rows} rows with a published_order")
    print_table([{"tenant": name, **row} for name, row in sorted(tenants.items())])
    figures = summary(tenants, arguments.seed)
    print_table([{key: value for key, value in figures.items() if isinstance(value, int | float)}])
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
