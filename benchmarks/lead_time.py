"""Lead time of issues in days: 60, 20 and 20 % by creation, only labels known when each part began."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

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
from ml_pipeline.training.splits import time_split
from ml_pipeline.training.train import train_on_split

SHARE = 0.2
COVERAGE_TOLERANCE = 0.05


def measure(spec: ModelSpec, frame: pd.DataFrame, seed: int) -> dict[str, Any]:
    """Errors, coverage and width on the test part of one tenant's matured rows."""
    split = time_split(frame, SHARE, SHARE)
    trained = train_on_split(spec, frame, split, seed)
    label = trained.test_predictions["label"].to_numpy()
    train_median = float(frame["label"].iloc[split.train].median())
    rolling = frame["history_recent_median"].iloc[split.test].fillna(train_median).to_numpy()
    return {
        "rows": len(frame),
        "winner": trained.candidate,
        "mae": trained.metrics["mae"],
        "mdae": trained.metrics["mdae"],
        "median_mae": mean_absolute_error(label, train_median),
        "median_mdae": float(np.median(np.abs(label - train_median))),
        "refit_median_mae": trained.baseline_metrics["mae"],
        "rolling_mae": mean_absolute_error(label, rolling),
        "rolling_mdae": float(np.median(np.abs(label - rolling))),
        "coverage": trained.metrics["interval_coverage"],
        "width": trained.metrics["interval_width"],
        "seconds": trained.seconds,
    }


def summary(tenants: dict[str, dict[str, Any]], nominal: float) -> dict[str, Any]:
    """The figures named in the last line. A gain is 1 - ours / the train median's."""
    table = pd.DataFrame(tenants).T
    mae_gain = (1 - table["mae"] / table["median_mae"]).astype(float)
    mdae_gain = (1 - table["mdae"] / table["median_mdae"]).astype(float)
    coverage = table["coverage"].astype(float)
    return {
        "tenants": len(table),
        "mae_gain_macro": float(1 - table["mae"].mean() / table["median_mae"].mean()),
        "mae_gain_median_tenant": float(mae_gain.median()),
        "mae_gain_worst_tenant": float(mae_gain.min()),
        "mdae_gain_median_tenant": float(mdae_gain.median()),
        "rolling_mae_gain_macro": float(1 - table["rolling_mae"].mean() / table["median_mae"].mean()),
        "coverage_macro": float(coverage.mean()),
        "coverage_ok_tenants": int(((coverage - nominal).abs() <= COVERAGE_TOLERANCE).sum()),
        "coverage_tolerance": COVERAGE_TOLERANCE,
        "per_tenant": tenants,
    }


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    spec = load_specs()["lead_time"]
    tenants: dict[str, dict[str, Any]] = {}
    for name, export in jira_tenants(arguments.data):
        if arguments.quick and len(tenants) == QUICK_TENANTS:
            break
        frame = build(spec, source_rows(spec, export), AFTER_EVERYTHING)
        matured = frame[frame["state"] == "matured"].reset_index(drop=True)
        if len(matured) >= spec.training.min_rows:
            tenants[name] = measure(spec, matured, arguments.seed)
    if not tenants:
        raise SystemExit(f"no export under {arguments.data} has {spec.training.min_rows} resolved issues")
    print_table([{"tenant": name, **row} for name, row in sorted(tenants.items())])
    figures = summary(tenants, spec.training.interval)
    print_table([{key: value for key, value in figures.items() if isinstance(value, int | float)}])
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
