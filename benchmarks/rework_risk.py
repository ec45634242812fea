"""Rework risk of review votes, pull requests and commits, evaluated on later data.

``reviews``: whether any vote on a change is negative, on the last 20% of the changes by the time they were uploaded.
``pull_requests``: the shipped model on repositories with at least ``MIN_PULL_REQUESTS``, on the last 20%. One tenant
contains all repositories, as an organisation would (the figure of the last line); for comparison, each repository is
also a tenant of its own, with few positives.
``commits``: whether a later commit fixed what this one broke, prequential. Twice a year a version is trained on what
was known that day, and predicts the commits until the next training. If no learner beats the prior, the previous
version continues to serve. Predictions are evaluated with the outcomes known at the end of the data.

Each result is compared with a logistic regression: numbers as signed logarithms, categories as indicators, no text, and
the penalty selected on the validation part.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import data
from benchmarks.common import (
    AFTER_EVERYTHING,
    QUICK_TENANTS,
    parse_arguments,
    print_result,
    print_table,
    source_rows,
)
from ml_pipeline.features.encoding.preprocessing import steady_columns
from ml_pipeline.features.point_in_time import build
from ml_pipeline.features.temporal.windows import training_window
from ml_pipeline.monitoring.metrics import evaluate
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.selection.predictors import Baseline
from ml_pipeline.training.splits import Split, time_split
from ml_pipeline.training.train import train, train_on_split

SHARE = 0.2
MIN_PULL_REQUESTS = 100
MIN_POSITIVES = 10  # labels of each class that a version of the commits is trained on
PERIOD = pd.Timedelta(days=182)
PENALTIES = (0.003, 0.01, 0.03, 0.1, 1.0)
EXAMPLES = Path(__file__).parents[1] / "examples" / "specs"


def reviews_spec(known_after_days: int = 0) -> ModelSpec:
    """Model of the changes. Of votes there is no date: they are known when the change was committed, or days later.

    Columns and parameters were chosen on eight rolling parts of the project before its test part.
    """
    numbers = data.CHANGE_COLUMNS + data.DERIVED_COLUMNS
    columns: dict[str, dict[str, Any]] = {column: {"type": "number"} for column in numbers}
    columns |= {
        "author": {"type": "category"},
        "committed_at": {"type": "time", "known_at": "label"},
        "negative": {"type": "number", "known_at": "label"},
    }
    return ModelSpec.model_validate(
        {
            "name": "negative_vote",
            "title": "Will this change get a negative vote?",
            "task": "binary",
            "source": {"table": "review.changes", "entity": "change", "event_time": "uploaded_at", "columns": columns},
            "label": {"value": "negative", "time": f"committed_at + {known_after_days}d"},
            "features": {"numeric": numbers, "history": ["author"], "calendar": False},
            "training": {
                "estimator": "lightgbm",
                "params": {"n_estimators": 100, "num_leaves": 7, "learning_rate": 0.05},
                "ensemble": "mean",
                "loss": "log_loss",
            },
        }
    )


def matured(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """Feature frame of all entities with a label at the end of the data."""
    frame = build(spec, source_rows(spec, rows), AFTER_EVERYTHING)
    return frame[frame["state"] == "matured"].reset_index(drop=True)


def on_last_part(spec: ModelSpec, frame: pd.DataFrame, seed: int) -> dict[str, Any]:
    """The version and the logistic regression on the last 20% of the rows."""
    started = time.perf_counter()
    split = time_split(frame, SHARE, SHARE)
    trained = train_on_split(spec, frame, split, seed)
    label = frame["label"].to_numpy()[split.test]
    found = trained.test_predictions.set_index("entity_id")["value"]
    value = found.loc[frame["entity_id"].iloc[split.test]].to_numpy()
    figures: dict[str, Any] = {"rows": len(frame), "test": len(split.test), "positives": int(label.sum())}
    figures |= {"selected": trained.candidate} | judged(label, value)
    figures |= prefixed("logistic", judged(label, logistic(spec, frame, split)))
    return figures | {"seconds": time.perf_counter() - started}


def judged(label: np.ndarray, value: np.ndarray) -> dict[str, Any]:
    """ROC-AUC (None if a class is missing), PR-AUC, calibration error and Brier score."""
    found = evaluate("binary", label, value)
    return {"auc": found["roc_auc"], "pr_auc": found["pr_auc"], "ece": found["ece"], "brier": found["brier"]}


def prefixed(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}_{key}": value for key, value in figures.items()}


def logistic(spec: ModelSpec, frame: pd.DataFrame, split: Split) -> np.ndarray:
    """Probabilities of the test part: the penalty that is best on validation, fitted on what was known by the test."""
    label = frame["label"].to_numpy()
    for part in (split.train, split.validation, split.refit):
        if len(np.unique(label[part])) < 2:
            return np.full(len(split.test), label[split.refit].mean())
    tried = [
        (
            log_loss(label[split.validation], fitted_logistic(spec, frame, split.train, split.validation, penalty)),
            penalty,
        )
        for penalty in PENALTIES
    ]
    return fitted_logistic(spec, frame, split.refit, split.test, min(tried)[1])


def log_loss(label: np.ndarray, value: np.ndarray) -> float:
    return float(-np.log(np.where(label == 1, value, 1 - value)).mean())


def fitted_logistic(
    spec: ModelSpec, frame: pd.DataFrame, known: np.ndarray, asked: np.ndarray, penalty: float
) -> np.ndarray:
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    numeric, categorical = steady_columns(spec.feature_columns), list(spec.feature_columns.categorical)
    numbers = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True), FunctionTransformer(signed_log), StandardScaler()
    )
    indicators = OneHotEncoder(min_frequency=3, handle_unknown="infrequent_if_exist")
    model = make_pipeline(
        make_column_transformer((numbers, numeric), (indicators, categorical)),
        LogisticRegression(C=penalty, max_iter=1000),
    )
    rows = frame.assign(**{column: frame[column].fillna("missing") for column in categorical})
    model.fit(rows.iloc[known], rows["label"].iloc[known])
    return np.asarray(model.predict_proba(rows.iloc[asked])[:, 1])


def signed_log(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


def prequential(spec: ModelSpec, rows: pd.DataFrame, seed: int) -> dict[str, Any] | None:
    """The commits of a project, each predicted at most half a year ahead; None if there are too few."""
    started = time.perf_counter()
    last = max(rows["committed_at"].max(), rows["fixed_at"].max())
    in_the_end = build(spec, source_rows(spec, rows), last)
    in_the_end = in_the_end[in_the_end["state"] == "matured"]
    outcome = dict(zip(in_the_end["entity_id"], in_the_end["label"], strict=True))
    parts, trainings = [], 0
    version: FittedModel | None = None
    for origin, frame in periods(spec, rows):
        known, _ = training_window(spec, frame[frame["event_time"] <= origin], origin)
        if min((known["label"] == 0).sum(), (known["label"] == 1).sum()) < MIN_POSITIVES:
            continue
        trained = train(spec, known, origin, seed)
        trainings += 1
        if version is None or not isinstance(trained.model.predictor, Baseline):
            version = trained.model
        asked = frame[(frame["event_time"] > origin) & frame["entity_id"].isin(outcome)]
        if len(asked):
            other = logistic_forecast(spec, known, asked)
            value = version.predict(asked)["value"].to_numpy()
            parts.append(pd.DataFrame({"entity_id": asked["entity_id"], "value": value, "logistic": other}))
    if not parts:
        return None
    foreseen = pd.concat(parts)
    label = np.array([outcome[entity] for entity in foreseen["entity_id"]])
    figures: dict[str, Any] = {"rows": len(rows), "test": len(foreseen), "positives": int(label.sum())}
    figures |= {"trainings": trainings} | judged(label, foreseen["value"].to_numpy())
    figures |= prefixed("logistic", judged(label, foreseen["logistic"].to_numpy()))
    return figures | {"seconds": time.perf_counter() - started}


def periods(spec: ModelSpec, rows: pd.DataFrame) -> Iterator[tuple[pd.Timestamp, pd.DataFrame]]:
    """Each origin with the features of what there was until the next one, by fixes that were known at the origin."""
    origin, end = rows["committed_at"].min() + PERIOD, rows["committed_at"].max()
    while origin < end:
        then = rows[rows["committed_at"] <= origin + PERIOD]
        then = then.assign(fixed_at=then["fixed_at"].where(then["fixed_at"] <= origin))
        frame = build(spec, source_rows(spec, then), origin + PERIOD)
        late = frame["label_time"] > origin
        frame.loc[late, "state"] = "open"
        yield origin, frame
        origin += PERIOD


def logistic_forecast(spec: ModelSpec, known: pd.DataFrame, asked: pd.DataFrame) -> np.ndarray:
    """The logistic regression on all known rows, with the penalty that is best on the newest part."""
    split = time_split(known, SHARE, SHARE)
    frame = pd.concat([known, asked], ignore_index=True)
    everything = np.arange(len(known))
    return logistic(
        spec,
        frame,
        Split(
            train=np.concatenate([split.train, split.validation]),
            validation=split.test,
            test=np.arange(len(known), len(frame)),
            refit=everything,
            purged={},
        ),
    )


def reviewed(arguments: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, changes in data.reviews(arguments.data):
        row = on_last_part(reviews_spec(), matured(reviews_spec(), changes), arguments.seed)
        later = reviews_spec(known_after_days=7)
        row["auc_known_7d_later"] = on_last_part(later, matured(later, changes), arguments.seed)["auc"]
        yield name, row


def requested(arguments: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """All large repositories as one tenant, named ``*``, then each as its own tenant."""
    table = data.pull_requests(arguments.data)
    if table is None:
        return
    spec = load_specs()["rework_risk"]
    large = table[table.groupby("repository")["pull_request"].transform("size") >= MIN_PULL_REQUESTS]
    yield "*", on_last_part(spec, matured(spec, large), arguments.seed)
    for name, rows in large.groupby("repository", sort=True):
        frame = matured(spec, rows)
        if len(frame) >= spec.training.min_rows:
            yield str(name), on_last_part(spec, frame, arguments.seed)


def committed(arguments: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    spec = load_specs([EXAMPLES])["defect_risk"]
    for number, (name, rows) in enumerate(data.commits(arguments.data)):
        if arguments.quick and number == QUICK_TENANTS:
            return
        row = prequential(spec, rows, arguments.seed)
        if row is not None:
            yield name, row


def mean(rows: dict[str, dict[str, Any]], key: str) -> float | None:
    found = [row[key] for row in rows.values() if row[key] is not None]
    return statistics.fmean(found) if found else None


def summary(parts: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """The figures named in the last line; those of reviews and commits are means over projects."""
    reviews, commits = parts["reviews"], parts["commits"]
    together = {name: row for name, row in parts["pull_requests"].items() if name == "*"}
    figures: dict[str, Any] = {}
    for part, rows in (("reviews", reviews), ("pull_requests", together), ("commits", commits)):
        for key in ("auc", "pr_auc", "ece", "logistic_auc", "logistic_pr_auc", "logistic_ece"):
            figures[f"{part}_{key}"] = mean(rows, key)
        if not rows:
            figures[f"{part}_reason"] = f"no {part} under the folder of data"
    figures["reviews_auc_known_7d_later"] = mean(reviews, "auc_known_7d_later")
    rows = {f"{part}/{name}": row for part, tenants in parts.items() for name, row in tenants.items()}
    return figures | {"per_tenant": rows}


def main() -> None:
    arguments = parse_arguments(__doc__ or "")
    sources = {"reviews": reviewed, "pull_requests": requested, "commits": committed}
    parts = {part: dict(measure(arguments)) for part, measure in sources.items()}
    if not any(parts.values()):
        raise SystemExit(
            f"{arguments.data} contains neither reviews nor pull_requests nor commits. Set --data to a folder that does"
        )
    for part, rows in parts.items():
        print(part)
        print_table([{"tenant": name, **row} for name, row in rows.items()])
    figures = summary(parts)
    print_table([{key: value for key, value in figures.items() if isinstance(value, int | float)}])
    print_result(figures, arguments.seed, arguments.json)


if __name__ == "__main__":
    main()
