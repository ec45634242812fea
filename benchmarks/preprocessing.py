"""The effect of each choice of preprocessing and feature selection on the error on newer rows, on real histories.

Issues of Jira by ``story_points`` and ``lead_time``, one tenant per export; pull requests of GitHub by ``rework_risk``,
all repositories one tenant. Boosters are fitted on the older rows (departure from the median, on the scale of the
target) and judged on the newest part. ``ratio`` is the loss (absolute error; Brier score) divided by that of the
defaults, as the geometric mean over tenants. ``cross-fitted`` replaces the codes of categories by scikit-learn's
TargetEncoder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
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
from ml_pipeline.features.encoding.preprocessing import fit_preprocessor
from ml_pipeline.features.encoding.text import TextMemo
from ml_pipeline.features.point_in_time import build
from ml_pipeline.features.selection import stability
from ml_pipeline.specs import ModelSpec, Preprocessing, Selection, load_specs
from ml_pipeline.specs.training import Training
from ml_pipeline.training.learners.base import fit_learner
from ml_pipeline.training.learners.data import FitData
from ml_pipeline.training.splits import time_split

MAX_ROWS = 8000
KEEP = 8
FOLDS = (0.4, 0.6, 0.8, 1.0)  # of the older rows, by time
METHODS = ("importance", "correlation", "mutual_information", "permutation")
DEFAULTS = "defaults"
PREPARED: dict[str, dict[str, Any]] = {
    DEFAULTS: {},
    "missing: constant": {"missing": "constant"},
    "missing: median": {"missing": "median"},
    "missing: median, indicator": {"missing": "median", "missing_indicator": True},
    "missing: knn": {"missing": "knn"},
    "missing: iterative": {"missing": "iterative"},
    "outliers: cap": {"outliers": "cap"},
    "outliers: robust": {"outliers": "robust"},
    "outlier_flag": {"outlier_flag": True},
    "categorical: onehot": {"categorical": "onehot"},
    "categorical: frequency": {"categorical": "frequency"},
    "categorical: target": {"categorical": "target"},
}


@dataclass(frozen=True)
class Case:
    """A tenant's matured rows under one specification, its older rows and the newest part."""

    name: str
    spec: ModelSpec
    older: pd.DataFrame
    newest: pd.DataFrame
    memo: TextMemo = field(default_factory=TextMemo)


Matrices = tuple[np.ndarray, np.ndarray]


def cases(arguments: Any) -> Iterator[Case]:
    """The tenants with enough rows, smallest export first."""
    specs = load_specs()
    for number, (name, export) in enumerate(jira_tenants(arguments.data)):
        if arguments.quick and number == QUICK_TENANTS:
            return
        for model in ("story_points", "lead_time"):
            yield from case(f"{model}.{name}", specs[model], export)
    pulls = pd.read_csv(arguments.data / "pull_requests" / "github_agent_prs.csv.gz")
    pulls["pull_request"] = pulls["id"].astype(str)
    for column in ("created_at", "closed_at"):
        pulls[column] = pd.to_datetime(pulls[column], utc=True)
    yield from case("rework_risk.github", specs["rework_risk"], pulls)


def case(name: str, spec: ModelSpec, export: pd.DataFrame) -> Iterator[Case]:
    features = spec.features.model_copy(update={"history": list(spec.features.categorical)})
    spec = spec.model_copy(update={"features": features})  # target encoding needs a history of every category
    frame = build(spec, source_rows(spec, export), AFTER_EVERYTHING)
    frame = frame[frame["state"] == "matured"].reset_index(drop=True)
    if not spec.training.min_rows <= len(frame) <= MAX_ROWS:
        return
    split = time_split(frame, spec.training.validation_share, spec.training.test_share)
    yield Case(name, spec, frame.iloc[split.refit], frame.iloc[split.test])


def loss(case: Case, matrices: Matrices, seed: int) -> float:
    """Mean loss on the newest part, of boosters fitted on the first matrix."""
    training, label = case.spec.training, case.older["label"].to_numpy()
    outcome = case.newest["label"].to_numpy()
    older, newest = matrices
    if case.spec.task == "binary":
        margin = _margin(training, older, label, newest, seed)
        return float(np.mean((1 / (1 + np.exp(-margin)) - outcome) ** 2))
    to, back = (np.log1p, np.expm1) if training.target == "log" else (np.asarray, np.asarray)
    offset = float(to(np.median(label)))
    departure = _margin(training, older, to(label) - offset, newest, seed)
    return float(np.abs(back(offset + departure) - outcome).mean())


def _margin(training: Training, older: np.ndarray, target: np.ndarray, newest: np.ndarray, seed: int) -> np.ndarray:
    return fit_learner(training.estimator, training.params, training.loss, FitData(older, target, seed)).margin(newest)


def ridge_loss(case: Case, matrices: Matrices) -> float:
    from sklearn.linear_model import LogisticRegression, RidgeCV

    label, outcome = case.older["label"].to_numpy(), case.newest["label"].to_numpy()
    older, newest = matrices
    if case.spec.task == "binary":
        fitted = LogisticRegression(C=0.1, max_iter=500).fit(older, label)
        return float(np.mean((fitted.predict_proba(newest)[:, 1] - outcome) ** 2))
    value = RidgeCV(np.logspace(0, 4, 9)).fit(older, np.log1p(label)).predict(newest)
    return float(np.abs(np.expm1(value) - outcome).mean())


def prepared(case: Case, keys: dict[str, Any], selection: Selection | None, for_linear: bool = False) -> Matrices:
    features = case.spec.features.model_copy(update={"selection": selection})
    spec = case.spec.model_copy(update={"preprocessing": Preprocessing(**keys), "features": features})
    fitted = fit_preprocessor(spec, case.older, for_linear, case.memo)
    return fitted.transform(case.older), fitted.transform(case.newest)


def cross_fitted(case: Case, seed: int, history: bool) -> Matrices:
    """``categorical: target`` beside the columns of a TargetEncoder; ``history`` False takes the level means away."""
    from sklearn.model_selection import KFold
    from sklearn.preprocessing import TargetEncoder

    columns = list(case.spec.features.categorical)
    levels = [rows[columns].astype(object).fillna("").to_numpy(dtype=object) for rows in (case.older, case.newest)]
    label = case.older["label"].to_numpy()
    label = np.log1p(label) if case.spec.training.target == "log" else label
    kind = "binary" if case.spec.task == "binary" else "continuous"
    encoder = TargetEncoder(target_type=kind, cv=KFold(5, shuffle=True, random_state=seed))
    encoded = encoder.fit_transform(levels[0], label), encoder.transform(levels[1])
    others = prepared(case, {"categorical": "target"}, None) if history else without_history(case, "target")
    older, newest = (np.hstack([a, b]).astype("float32") for a, b in zip(others, encoded, strict=True))
    return older, newest


def without_history(case: Case, categorical: str) -> Matrices:
    spec = case.spec.model_copy(update={"preprocessing": Preprocessing(categorical=categorical)})
    fitted = fit_preprocessor(spec, case.older, memo=case.memo)
    gone = {f"history_{column}_mean" for column in case.spec.features.categorical}
    kept = [position for position, name in enumerate(fitted.features) if name not in gone]
    return fitted.transform(case.older)[:, kept], fitted.transform(case.newest)[:, kept]


def measure(case: Case, seed: int) -> dict[str, dict[str, float]]:
    """For each variant its loss, the seconds to fit and transform with the text at hand, and selections' stability."""
    rows: dict[str, dict[str, float]] = {}

    def record(name: str, make: Callable[[], Matrices], judge: Callable[[Matrices], float]) -> None:
        started = time.perf_counter()
        matrices = make()
        rows[name] = {"seconds": time.perf_counter() - started, "loss": judge(matrices)}

    def boosted(matrices: Matrices) -> float:
        return loss(case, matrices, seed)

    prepared(case, {}, None)  # fits the text
    record("defaults, text fitted anew", partial(prepared, replace(case, memo=TextMemo()), {}, None), boosted)
    for name, keys in PREPARED.items():
        record(name, partial(prepared, case, keys, None), boosted)
    record("cross-fitted", lambda: cross_fitted(case, seed, history=True), boosted)
    record("cross-fitted, no history", lambda: cross_fitted(case, seed, history=False), boosted)
    record("ordinal, no history", lambda: without_history(case, "ordinal"), boosted)
    for method in METHODS:
        chosen = Selection(method=method, keep=KEEP)
        name = f"selection: {method}"
        record(name, partial(prepared, case, {}, chosen), boosted)
        rows[name]["stability"] = fold_stability(case, chosen)
    record("linear model", lambda: prepared(case, {}, None, for_linear=True), lambda made: ridge_loss(case, made))
    return rows


def fold_stability(case: Case, chosen: Selection) -> float:
    features = case.spec.features.model_copy(update={"selection": chosen})
    spec = case.spec.model_copy(update={"features": features})
    oldest_first = case.older.sort_values("event_time", kind="stable")
    folds = [oldest_first.iloc[: round(share * len(oldest_first))] for share in FOLDS]
    selections = [set(fit_preprocessor(spec, fold, memo=case.memo).features) for fold in folds]
    return stability(selections, set(fit_preprocessor(case.spec, case.older, memo=case.memo).features)).value


def summary(measured: dict[str, dict[str, dict[str, float]]], prefix: str) -> dict[str, dict[str, float | None]]:
    """Per variant over the cases whose name starts so: ratio to the defaults, better and worse cases, seconds."""
    chosen = [rows for name, rows in measured.items() if name.startswith(prefix)]
    table: dict[str, dict[str, float | None]] = {}
    for variant in chosen[0]:
        ratio = np.array([rows[variant]["loss"] / rows[DEFAULTS]["loss"] for rows in chosen])
        stable = [rows[variant]["stability"] for rows in chosen if "stability" in rows[variant]]
        table[variant] = {
            "tenants": len(chosen),
            "ratio": float(np.exp(np.log(ratio).mean())),
            "worst": float(ratio.max()),
            "better": int((ratio < 0.99).sum()),
            "worse": int((ratio > 1.01).sum()),
            "seconds": float(np.median([rows[variant]["seconds"] for rows in chosen])),
            "stability": float(np.mean(stable)) if stable else None,
        }
    return table


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    measured = {case.name: measure(case, arguments.seed) for case in cases(arguments)}
    figures: dict[str, Any] = {}
    for model in dict.fromkeys(name.split(".")[0] for name in measured):
        figures[model] = summary(measured, f"{model}.")
        print_table([{"model": model, "variant": name, **row} for name, row in figures[model].items()])
    print_result({"models": figures, "keep": KEEP}, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
