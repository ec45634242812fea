"""The gain of each feature family, learner and ensemble, on real Jira histories.

Each variant differs from the shipped specification in one property. Its gain is 1 - loss / loss as shipped, the mean
over tenants with a 95% bootstrap interval over tenants. ``validation`` is measured without the newest fifth of the
rows, on the fifth before it: the defaults were chosen on it. ``test`` is the newest fifth, evaluated afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
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
from ml_pipeline.features.point_in_time import build
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.specs.experts import TRAINING
from ml_pipeline.specs.temporal import Temporal
from ml_pipeline.training.splits import oldest_first, time_split
from ml_pipeline.training.train import train_on_split

SHARE = 0.2
MOST_ROWS = 1_000  # the newest: a few large tenants would take most of the time
RESAMPLES = 2_000
FAMILIES = ("calendar", "cyclical", "fourier", "lags", "rolling", "expanding", "trend", "queue")
SHIPPED = "as shipped"
QUESTIONS = ("story_points", "lead_time")
STANDARD_ERRORS = (2.0, 1.0, -3.0)


def training(spec: ModelSpec, **changes: Any) -> ModelSpec:
    return spec.model_copy(update={"training": spec.training.model_copy(update=changes)})


def features(spec: ModelSpec, **changes: Any) -> ModelSpec:
    return spec.model_copy(update={"features": spec.features.model_copy(update=changes)})


def variants(spec: ModelSpec) -> dict[str, ModelSpec]:
    """The shipped specification, and variants that each change one property."""
    shipped = spec.features.temporal
    found = {SHIPPED: spec}
    for family in FAMILIES:
        switched = not getattr(shipped, family)
        temporal = shipped.model_copy(update={family: switched})
        found[f"{'+' if switched else '-'} {family}"] = features(spec, temporal=temporal)
    found["- text"] = features(spec, text=[])
    found["- history by column"] = features(spec, history=[])
    half_life = spec.training.recency_half_life_days
    recency = "rows of a year ago count half" if half_life is None else "all rows count alike"
    found[recency] = training(spec, recency_half_life_days=365.0 if half_life is None else None)
    return found | (mixtures(spec) if spec.training.is_mixture else selections(spec))


def mixtures(spec: ModelSpec) -> dict[str, ModelSpec]:
    """Without each expert, and with a vote instead."""
    experts = spec.training.mixed_experts
    without = {name: tuple(other for other in experts if other != name) for name in experts if name != TRAINING}
    found = {f"- {name}": training(spec, experts=kept) for name, kept in without.items()}
    return found | {"voting": training(spec, ensemble="voting", experts=None, candidates={"linear": {}})}


def selections(spec: ModelSpec) -> dict[str, ModelSpec]:
    """With other candidates, ways to combine them, and standard errors by which one must be better."""
    other = "lightgbm" if spec.training.estimator == "xgboost" else "xgboost"
    further = spec.training.candidates
    found = {"- linear": training(spec, candidates={})}
    for name in (other, "random_forest", "hist_gradient_boosting"):
        found[f"+ {name}"] = training(spec, candidates={**further, name: {}})
    found["stacking"] = training(spec, ensemble="stacking")
    found["best single candidate"] = training(spec, ensemble="none")
    errors = spec.training.min_improvement_se
    return found | {
        f"{wanted:g} standard errors": training(spec, min_improvement_se=wanted)
        for wanted in STANDARD_ERRORS
        if wanted != errors
    }


def histories(data: Any, spec: ModelSpec, quick: bool) -> Iterator[tuple[str, pd.DataFrame]]:
    """The newest matured rows of each tenant, with the columns of every feature family."""
    everything = features(spec, temporal=Temporal(**dict.fromkeys(FAMILIES, True)))
    done = 0
    for name, export in jira_tenants(data):
        frame = build(everything, source_rows(everything, export), AFTER_EVERYTHING)
        matured = frame[frame["state"] == "matured"]
        if len(matured) >= 2 * spec.training.min_rows:
            yield name, matured.iloc[oldest_first(matured)[-MOST_ROWS:]].reset_index(drop=True)
            done += 1
        if quick and done == QUICK_TENANTS:
            return


def of_tenant(question: str, tenant: str, frame: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """One row per variant: its losses on the tenant's rows."""
    tried = variants(load_specs()[question])
    return [{"tenant": tenant, "variant": name, **losses(variant, frame, seed)} for name, variant in tried.items()]


def losses(spec: ModelSpec, frame: pd.DataFrame, seed: int) -> dict[str, float]:
    """Mean absolute error on the last fifth but one (validation) and on the newest fifth (test)."""
    older = frame.iloc[: len(frame) - round(len(frame) * SHARE)].reset_index(drop=True)
    parts = {"validation": older, "test": frame}
    return {
        name: float(train_on_split(spec, rows, time_split(rows, SHARE, SHARE), seed).metrics["mae"])
        for name, rows in parts.items()
    }


def gains(table: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """One row per variant: mean gain over tenants and its interval, on both parts."""
    rng = np.random.default_rng(seed)
    shipped = table[table["variant"] == SHIPPED].set_index("tenant")
    lines = []
    for name, part in table.groupby("variant", sort=False):
        line: dict[str, Any] = {"variant": name}
        for which in ("validation", "test"):
            gain = (1 - part.set_index("tenant")[which] / shipped[which]).to_numpy()
            drawn = gain[rng.integers(0, len(gain), (RESAMPLES, len(gain)))].mean(axis=1)
            line |= {which: gain.mean(), f"{which}_lower": np.quantile(drawn, 0.025)}
            line |= {f"{which}_upper": np.quantile(drawn, 0.975)}
        lines.append({key: value if key == "variant" else float(value) for key, value in line.items()})
    return lines


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    figures: dict[str, Any] = {}
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for question in QUESTIONS:
            spec = load_specs()[question]
            under_way = [
                pool.submit(of_tenant, question, tenant, frame, arguments.seed)
                for tenant, frame in histories(arguments.data, spec, arguments.quick)
            ]
            rows = [line for tenant in under_way for line in tenant.result()]
            table = gains(pd.DataFrame(rows), arguments.seed)
            print(question)
            print_table(table)
            figures[question] = {line.pop("variant"): line for line in table}
            figures[f"{question}_tenants"] = len(under_way)
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
