"""Lead time of issues in days: 60, 20 and 20 % by creation, only labels known when each part began.

Intervals are those that the product would have given when each issue of the test part came: they follow the outcomes
known by then, and start from the residuals of the validation part that were known when the test part began.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binom

from benchmarks.common import (
    AFTER_EVERYTHING,
    QUICK_TENANTS,
    jira_tenants,
    mean_absolute_error,
    parse_arguments,
    print_result,
    print_table,
    source_rows,
)
from ml_pipeline.features.point_in_time import build
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.training.intervals.conformal import NEAR
from ml_pipeline.training.intervals.online import Predictions, live_intervals, waiting_unit
from ml_pipeline.training.selection.model_selection import select_model
from ml_pipeline.training.splits import Split, time_split
from ml_pipeline.training.train import refit, train_on_split
from ml_pipeline.training.trained import with_interval

SHARE = 0.2
COVERAGE_TOLERANCE = 0.02
MIN_HELD_OUT = 30
TIMES = ("event_time", "label_time")


def measure(spec: ModelSpec, frame: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Errors, coverage and width on the test part of one tenant's matured rows."""
    matured = frame[frame["state"] == "matured"].reset_index(drop=True)
    split = time_split(matured, SHARE, SHARE)
    trained = train_on_split(spec, matured, split, seed)
    label, value = (trained.test_predictions[name].to_numpy() for name in ("label", "value"))
    train_median = float(matured["label"].iloc[split.train].median())
    rolling = matured["history_recent_median"].iloc[split.test].fillna(train_median).to_numpy()
    return {
        "rows": len(matured),
        "test_rows": len(label),
        "selected": trained.candidate,
        "mae": trained.metrics["mae"],
        "mdae": trained.metrics["mdae"],
        "median_mae": mean_absolute_error(label, train_median),
        "median_mdae": float(np.median(np.abs(label - train_median))),
        "refit_median_mae": trained.baseline_metrics["mae"],
        "rolling_mae": mean_absolute_error(label, rolling),
        "rolling_mdae": float(np.median(np.abs(label - rolling))),
        "confidence": float(trained.test_predictions["confidence"].mean()),
        "near": float((np.abs(label - value) <= NEAR * value).mean()),
        **coverages(spec, frame, matured, split, seed),
        "seconds": trained.seconds,
    }


def coverages(spec: ModelSpec, frame: pd.DataFrame, matured: pd.DataFrame, split: Split, seed: int) -> dict[str, float]:
    """Of intervals that follow the outcomes and of the fixed one, on the test part: coverage, mean width and score.

    The score is the width plus 20 times the distance of an outcome that is outside (for 90 %; Gneiting and Raftery
    2007), in days: lower is better, and no wrong interval has a lower expected one than the right one.
    """
    train_rows, validation, known = (matured.iloc[rows] for rows in (split.train, split.validation, split.refit))
    race = select_model(spec, train_rows, validation, seed)
    start = matured["event_time"].iloc[split.test[0]]
    early = validation[validation["label_time"] < start]
    held_out = early if len(early) >= MIN_HELD_OUT else validation
    version = with_interval(spec, refit(spec, race, known, seed), held_out, race.predictor)
    # What never got a usable label came too, and had an interval that it outlived.
    come = frame[
        (frame["event_time"] >= validation["event_time"].iloc[0]) & ~frame["entity_id"].isin(held_out["entity_id"])
    ]
    predicted = version.predict(come)
    event_time, label_time = (come[name].dt.tz_convert(None).to_numpy("datetime64[us]") for name in TIMES)
    is_new = (come["event_time"] >= start).to_numpy()
    value, lower, upper = (predicted[name].to_numpy() for name in ("value", "lower", "upper"))
    label = come["label"].to_numpy()
    made = Predictions(value, lower, upper, event_time, label_time, label, is_new)
    ends = live_intervals(version, made, spec.training.interval, waiting_unit(spec))
    judged = is_new & ~np.isnan(label)
    found: dict[str, float] = {}
    for name, (low, high) in (("", ends), ("fixed_", (lower, upper))):
        inside = (low <= label) & (label <= high)
        outside = np.maximum(low - label, 0) + np.maximum(label - high, 0)
        score = high - low + 2 / (1 - spec.training.interval) * outside
        measures = {"coverage": inside, "width": high - low, "interval_score": score}
        found |= {f"{name}{measure}": float(values[judged].mean()) for measure, values in measures.items()}
    return found


def summary(tenants: dict[str, dict[str, Any]], nominal: float) -> dict[str, Any]:
    """The figures named in the last line. A gain is 1 - ours / the train median's.

    ``coverage_ok_by_chance``: tenants that would be expected within the tolerance, had each outcome been inside with
    the nominal probability, whatever the others did: so few rows have some tenants. ``near_macro`` is the share of
    outcomes within 20 % of their prediction, ``confidence_macro`` what the predictions said of it.
    """
    table = pd.DataFrame(tenants).T
    mae_gain = (1 - table["mae"] / table["median_mae"]).astype(float)
    mdae_gain = (1 - table["mdae"] / table["median_mdae"]).astype(float)
    coverage, fixed = table["coverage"].astype(float), table["fixed_coverage"].astype(float)
    rows = table["test_rows"].astype(int).to_numpy()
    most = np.floor(rows * (nominal + COVERAGE_TOLERANCE) + 1e-9)
    least = np.ceil(rows * (nominal - COVERAGE_TOLERANCE) - 1e-9)
    return {
        "tenants": len(table),
        "mae_gain_macro": float(1 - table["mae"].mean() / table["median_mae"].mean()),
        "mae_gain_median_tenant": float(mae_gain.median()),
        "mae_gain_worst_tenant": float(mae_gain.min()),
        "mdae_gain_median_tenant": float(mdae_gain.median()),
        "rolling_mae_gain_macro": float(1 - table["rolling_mae"].mean() / table["median_mae"].mean()),
        "coverage_macro": float(coverage.mean()),
        "coverage_worst": float(coverage.min()),
        "coverage_mean_deviation": float((coverage - nominal).abs().mean()),
        "coverage_ok_tenants": _within(coverage, nominal),
        "coverage_ok_by_chance": float((binom.cdf(most, rows, nominal) - binom.cdf(least - 1, rows, nominal)).sum()),
        "coverage_tolerance": COVERAGE_TOLERANCE,
        "width_macro": float(table["width"].mean()),
        "interval_score_macro": float(table["interval_score"].mean()),
        "fixed_coverage_macro": float(fixed.mean()),
        "fixed_coverage_worst": float(fixed.min()),
        "fixed_coverage_mean_deviation": float((fixed - nominal).abs().mean()),
        "fixed_coverage_ok_tenants": _within(fixed, nominal),
        "fixed_width_macro": float(table["fixed_width"].mean()),
        "fixed_interval_score_macro": float(table["fixed_interval_score"].mean()),
        "confidence_macro": float(table["confidence"].mean()),
        "near_macro": float(table["near"].mean()),
        "per_tenant": tenants,
    }


def _within(coverage: pd.Series, nominal: float) -> int:
    return int(((coverage - nominal).abs() <= COVERAGE_TOLERANCE + 1e-9).sum())


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    spec = load_specs()["lead_time"]
    tenants: dict[str, dict[str, Any]] = {}
    for name, export in jira_tenants(arguments.data):
        if arguments.quick and len(tenants) == QUICK_TENANTS:
            break
        frame = build(spec, source_rows(spec, export), AFTER_EVERYTHING)
        if (frame["state"] == "matured").sum() >= spec.training.min_rows:
            tenants[name] = measure(spec, frame, arguments.seed)
    if not tenants:
        raise SystemExit(f"no export under {arguments.data} has {spec.training.min_rows} resolved issues")
    print_table([{"tenant": name, **row} for name, row in sorted(tenants.items())])
    figures = summary(tenants, spec.training.interval)
    print_table([{key: value for key, value in figures.items() if isinstance(value, int | float)}])
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
