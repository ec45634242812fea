"""The model card: what a person has to know of one version, in Markdown (Mitchell et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ml_pipeline.display import code, markdown
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.reporting.importance import importance
from ml_pipeline.training.selection.model_selection import POOLED, significance_required
from ml_pipeline.training.selection.predictors import Baseline
from ml_pipeline.training.train import Trained

FEW_TEST_ROWS = 50
MOST_IMPORTANT = 10
RELIABILITY_BINS = 5
WEAK_MEASURE = 60.0


@dataclass(frozen=True)
class Origin:
    """Where a version comes from.

    ``parent`` is the version that an update goes on from, ``quality`` the snapshot's report as JSON, ``why`` the reason
    of the decision that asked for the training, empty where none did.
    """

    tenant: str
    semantic: str
    as_of: str
    snapshot_hash: str
    action: str
    parent: int | None
    quality: Mapping[str, Any]
    why: str


def card(spec: ModelSpec, trained: Trained, rows: pd.DataFrame, origin: Origin, tuning: str | None = None) -> str:
    """The whole card. ``rows`` are those the version was trained on, ``tuning`` a sentence on how it was tuned."""
    sections = {
        "Question": _question(spec),
        "Rows": _rows(spec, trained, rows, origin),
        "Candidates": _candidates(spec, trained, origin),
        "Tuning": tuning or "Not tuned: the parameters are those that the specification declares.",
        "Learning curve": _learning_curve(spec, trained),
        "Test part": _metrics(spec, trained),
        "Slices": _slices(trained),
        "Interval": _interval(spec, trained),
        "Reliability": _reliability(spec, trained.test_predictions),
        "What it relies on": _importance(trained),
        "Known limits": _limits(spec, trained, origin, tuning),
    }
    told = [
        f"# {markdown(spec.title)}: {markdown(origin.tenant)}, version {markdown(origin.semantic)}",
        summary(spec, trained),
    ]
    told += [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join(told) + "\n"


def summary(spec: ModelSpec, trained: Trained) -> str:
    """The card in a few sentences: the version against its constant, and who answers."""
    metric = spec.headline_metric
    loss, constant = trained.metrics[metric], trained.baseline_metrics[metric]
    unit = f" {markdown(spec.label.unit)}" if spec.task == "regression" and spec.label.unit else ""
    skill = "" if trained.skill is None else f": skill {trained.skill:.3f}"
    who = f"`{trained.candidate}`"
    if isinstance(trained.model.predictor, Baseline):
        who = f"The constant `{trained.candidate}`"
    return (
        f"{who}, trained on {trained.rows['all']} rows. On the {trained.rows['test']} newest of them, which it had not "
        f"seen when it was judged, its {metric} was **{_number(loss)}{unit}**, that of the constant "
        f"{_number(constant)}{unit}{skill}."
    )


def _question(spec: ModelSpec) -> str:
    kind = "a number" if spec.task == "regression" else "the probability of 1"
    unit = f" in {markdown(spec.label.unit)}" if spec.task == "regression" and spec.label.unit else ""
    known = ", else ".join(code(term) for term in spec.label.time)
    columns = spec.feature_columns
    return (
        f"For each {code(spec.source.entity)} of {code(spec.source.table)}, at its {code(spec.source.event_time)}: "
        f"{kind}{unit}, "
        f"{', else '.join(map(code, spec.label.value))}. The outcome is known at {known}. Features: "
        f"{len(columns.numeric)} numeric, {len(columns.categorical)} categorical"
        f"{', and text' if columns.text else ''}, each as it was known at that time."
    )


def _rows(spec: ModelSpec, trained: Trained, rows: pd.DataFrame, origin: Origin) -> str:
    first, last = (f"{time:%Y-%m-%d}" for time in (rows["event_time"].min(), rows["event_time"].max()))
    parts = [("part", "rows"), *((name, str(count)) for name, count in trained.rows.items())]
    facts = [
        ("known at", origin.as_of),
        ("events", f"{first} to {last} (window of {spec.training.window_days} days)"),
        ("feature snapshot", f"`{origin.snapshot_hash}`"),
        ("specification", f"`{spec.hash}`"),
        ("made by", f"{origin.action}{f' of version {origin.parent}' if origin.parent is not None else ''}"),
        ("asked for by", markdown(origin.why)),
        ("data quality", _quality(origin.quality)),
    ]
    return f"{_table(parts)}\n\n{_table([('', ''), *((name, value) for name, value in facts if value)])}"


def _quality(quality: Mapping[str, Any]) -> str:
    weakest = min(quality["measures"], key=lambda measure: measure["score"])
    return f"{quality['score']:.0f} of 100; weakest: {weakest['name']} ({weakest['score']:.0f})"


def _candidates(spec: ModelSpec, trained: Trained, origin: Origin) -> str:
    metric = spec.headline_metric
    table = [("candidate", f"{metric} on held-out rows", "members and their weights")]
    for record in trained.candidates:
        name = f"**{record['name']}**" if record["name"] == trained.candidate else record["name"]
        weights = ", ".join(f"{member} {weight:.0%}" for member, weight in record.get("weights", {}).items())
        calibrated = f"; calibration: {record['calibration']}" if "calibration" in record else ""
        table.append((name, _number(record[metric]), markdown(record["error"] or "") or weights + calibrated))
    return f"{_table(table)}\n\n{_choice(spec, trained, origin)}"


def _choice(spec: ModelSpec, trained: Trained, origin: Origin) -> str:
    if isinstance(trained.model.predictor, Baseline):
        if trained.candidate == POOLED:
            return f"What is typical of the tenant and of others that share answers: its {significance_required(spec)}."
        return "The constant answers; why, the known limits say."
    if origin.parent is not None:
        return f"An {origin.action} of version {origin.parent}, which serves: nothing was chosen anew."
    better = f"its {significance_required(spec)}"
    if trained.candidate == spec.training.ensemble:
        return f"The ensemble answers: {better}."
    raced = any(record["name"] == spec.training.ensemble for record in trained.candidates)
    alone = "which cannot be said of the ensemble" if raced else "and it is the best of which that is true"
    return f"`{trained.candidate}` answers alone: {better}, {alone}."


def _learning_curve(spec: ModelSpec, trained: Trained) -> str:
    if not trained.learning_curve:
        return ""
    metric = spec.headline_metric
    points = [tuple(map(_number, point)) for point in trained.learning_curve]
    table = _table([("rows fitted on", f"{metric} on later rows", f"{metric} of the constant there"), *points])
    return f"{table}\n\nEach fit has later rows of its own: compare it with the constant on the same line."


def _metrics(spec: ModelSpec, trained: Trained) -> str:
    titles = {metric.name: metric.title for metric in spec.business_metrics}
    table = [("metric", "version", "constant")]
    for name, value in trained.metrics.items():
        title = f"{markdown(titles[name])} (`{name}`)" if name in titles else name
        table.append((title, _number(value), _number(trained.baseline_metrics.get(name))))
    times = trained.test_predictions["event_time"]
    return f"Events of {times.min():%Y-%m-%d} to {times.max():%Y-%m-%d}.\n\n{_table(table)}"


def _slices(trained: Trained) -> str:
    if not trained.slices:
        return ""
    rows = [
        (markdown(level), str(part["count"]), _number(part["mae"]), _number(part["baseline_mae"]))
        for level, part in trained.slices.items()
    ]
    return _table([("level", "rows", "mae", "mae of the constant"), *rows])


def _interval(spec: ModelSpec, trained: Trained) -> str:
    coverage = trained.metrics.get("interval_coverage")
    if coverage is None:
        return ""
    return (
        f"Meant to hold {spec.training.interval:.0%} of outcomes; held {coverage:.1%} on the test part, with a mean "
        f"width of {_number(trained.metrics['interval_width'])} {markdown(spec.label.unit)}".rstrip()
        + "."
    )


def _reliability(spec: ModelSpec, predictions: pd.DataFrame) -> str:
    """Predicted beside observed shares, in bins of equally many rows of the test part."""
    if spec.task != "binary":
        return ""
    table = [("rows", "predicted", "observed")]
    for count, predicted, observed in reliability(predictions["label"].to_numpy(), predictions["value"].to_numpy()):
        table.append((str(count), f"{predicted:.1%}", f"{observed:.1%}"))
    return _table(table)


def reliability(
    label: np.ndarray, probability: np.ndarray, bins: int = RELIABILITY_BINS
) -> list[tuple[int, float, float]]:
    """Rows, mean probability and share of ones in bins of equally many rows, from the least likely on.

    Fewer bins where there are fewer rows; equal probabilities may fall into two of them.
    """
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [(len(part), float(probability[part].mean()), float(label[part].mean())) for part in parts]


def _importance(trained: Trained) -> str:
    shares = list(importance(trained.model).items())[:MOST_IMPORTANT]
    if not shares:
        return "Nothing: it gives everybody the same answer."
    return _table([("feature", "share of the gain"), *((code(name), f"{share:.1%}") for name, share in shares)])


def _limits(spec: ModelSpec, trained: Trained, origin: Origin, tuning: str | None) -> str:
    limits = [note for note in trained.notes if note != tuning]
    if trained.rows["test"] < FEW_TEST_ROWS:
        limits.append(f"the metrics are of {trained.rows['test']} rows only, and will differ on others")
    limits += [
        f"data quality, {measure['name']} {measure['score']:.0f} of 100: {measure['recommendation']}"
        for measure in origin.quality["measures"]
        if measure["score"] < WEAK_MEASURE and measure["recommendation"]
    ]
    if spec.task == "regression":
        limits.append("the interval holds its coverage while the rows to come are like those of the test part")
    limits.append("shares of the gain are a rank of what it relies on, not a measure of cause")
    return "\n".join(f"- {markdown(limit[:1].upper() + limit[1:].rstrip('.'))}." for limit in limits)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(rows: Sequence[Iterable[str]]) -> str:
    """A Markdown table; the first row is its head. Cells that hold data are Markdown already."""
    cells = [tuple(row) for row in rows]
    head, *lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([head, "|" + "---|" * len(cells[0]), *lines])
