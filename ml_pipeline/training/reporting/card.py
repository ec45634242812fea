"""Model card of one version in Markdown (Mitchell et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ml_pipeline.display import code, markdown
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.online.mixture import Mixture
from ml_pipeline.training.reporting.importance import importance
from ml_pipeline.training.selection.model_selection import POOLED, significance_required
from ml_pipeline.training.selection.predictors import Baseline
from ml_pipeline.training.trained import Trained

FEW_TEST_ROWS = 50
MOST_IMPORTANT = 10
RELIABILITY_BINS = 5
WEAK_MEASURE = 60.0


@dataclass(frozen=True)
class Origin:
    """Origin of a version.

    ``parent`` is the version that an update continues from, ``quality`` the quality report of the snapshot as JSON, and
    ``why`` the reason of the decision that requested the training, empty if there was no decision.
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
    """Markdown of the whole card.

    Parameters
    ----------
    spec
        The model.
    trained
        The version with its metrics.
    rows
        Feature rows that the version was trained on.
    origin
        Where the version comes from.
    tuning
        A sentence on the parameter search, or None if there was no search.
    """
    of = _Sections(spec, trained, rows, origin, tuning)
    sections = {
        "Question": of.question(),
        "Rows": of.provenance(),
        "Candidates": of.candidates(),
        "Tuning": tuning or "Not tuned: the version uses the parameters of the specification.",
        "Learning curve": of.learning_curve(),
        "Test part": of.test_metrics(),
        "Slices": of.slices(),
        "Interval": of.interval(),
        "Reliability": of.reliability_table(),
        "Feature importance": of.importance_table(),
        "Known limits": of.limits(),
    }
    parts = [
        f"# {markdown(spec.title)}: {markdown(origin.tenant)}, version {markdown(origin.semantic)}",
        summary(spec, trained),
    ]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join(parts) + "\n"


def summary(spec: ModelSpec, trained: Trained) -> str:
    """The card in a few sentences: the selected candidate and its loss compared with the baseline."""
    metric = spec.headline_metric
    loss, baseline = trained.metrics[metric], trained.baseline_metrics[metric]
    unit = f" {markdown(spec.label.unit)}" if spec.task == "regression" and spec.label.unit else ""
    skill = "" if trained.skill is None else f": skill {trained.skill:.3f}"
    who = f"`{trained.candidate}`"
    if isinstance(trained.model.predictor, Baseline):
        who = f"The baseline `{trained.candidate}`"
    return (
        f"{who}, trained on {trained.rows['all']} rows. On the newest {trained.rows['test']} rows (the test part, "
        f"before the final fit included it), its {metric} was **{_number(loss)}{unit}**, that of the baseline "
        f"{_number(baseline)}{unit}{skill}."
    )


@dataclass(frozen=True, eq=False)
class _Sections:
    """The texts of the card's sections; an empty text leaves its section out."""

    spec: ModelSpec
    trained: Trained
    rows: pd.DataFrame
    origin: Origin
    tuning: str | None

    def question(self) -> str:
        source, label, columns = self.spec.source, self.spec.label, self.spec.feature_columns
        kind = "the probability of 1"
        if self.spec.task == "regression":
            kind = f"a number in {markdown(label.unit)}" if label.unit else "a number"
        known = ", else ".join(map(code, label.time))
        return (
            f"For each {code(source.entity)} of {code(source.table)}, at its {code(source.event_time)}: "
            f"{kind}, "
            f"{', else '.join(map(code, label.value))}. The outcome is known at {known}. Features: "
            f"{len(columns.numeric)} numeric, {len(columns.categorical)} categorical"
            f"{', and text' if columns.text else ''}, each as it was known at that time."
        )

    def provenance(self) -> str:
        quality = self.origin.quality
        weakest = min(quality["measures"], key=lambda measure: measure["score"])
        parent = f" of version {self.origin.parent}" if self.origin.parent is not None else ""
        first, last = (f"{time:%Y-%m-%d}" for time in (self.rows["event_time"].min(), self.rows["event_time"].max()))
        parts = [("part", "rows"), *((name, str(count)) for name, count in self.trained.rows.items())]
        facts = [
            ("as-of time", self.origin.as_of),
            ("events", f"{first} to {last} (window of {self.spec.training.window_days} days)"),
            ("feature snapshot", f"`{self.origin.snapshot_hash}`"),
            ("specification", f"`{self.spec.hash}`"),
            ("created by", f"{self.origin.action}{parent}"),
            ("requested because", markdown(self.origin.why)),
            ("data quality", f"{quality['score']:.0f} of 100; weakest: {weakest['name']} ({weakest['score']:.0f})"),
        ]
        return f"{_table(parts)}\n\n{_table([('', ''), *((name, value) for name, value in facts if value)])}"

    def candidates(self) -> str:
        metric = self.spec.headline_metric
        table = [("candidate", f"{metric} on held-out rows", "members and their weights")]
        for record in self.trained.candidates:
            name = f"**{record['name']}**" if record["name"] == self.trained.candidate else record["name"]
            weights = ", ".join(f"{member} {weight:.0%}" for member, weight in record.get("weights", {}).items())
            calibrated = f"; calibration: {record['calibration']}" if "calibration" in record else ""
            table.append((name, _number(record[metric]), markdown(record["error"] or "") or weights + calibrated))
        return f"{_table(table)}\n\n{self._choice()}"

    def _choice(self) -> str:
        if isinstance(self.trained.model.predictor, Mixture):
            moved = "moved by every outcome that matures" if self.trained.model.predictor.learns else "equal"
            return (
                f"No candidate is selected: the prediction is a mixture of all experts, whose weights are {moved}. The "
                "loss of an expert is that on rows it was not trained on."
            )
        if isinstance(self.trained.model.predictor, Baseline):
            if self.trained.candidate == POOLED:
                return (
                    "Selected: the tenant's baseline, shrunk toward the baselines of other tenants, because its "
                    f"{significance_required(self.spec)}."
                )
            return "Selected: the baseline, for the reason given under known limits."
        if self.origin.parent is not None:
            return (
                f"An {self.origin.action} of the serving version {self.origin.parent}, without a new model selection."
            )
        better = f"its {significance_required(self.spec)}"
        if self.trained.candidate == self.spec.training.ensemble:
            return f"Selected: the ensemble, because {better}."
        compared = any(record["name"] == self.spec.training.ensemble for record in self.trained.candidates)
        alone = "which does not hold for the ensemble" if compared else "and no other such candidate has a lower loss"
        return f"Selected: `{self.trained.candidate}` alone, because {better}, {alone}."

    def learning_curve(self) -> str:
        if not self.trained.learning_curve:
            return ""
        metric = self.spec.headline_metric
        points = [tuple(map(_number, point)) for point in self.trained.learning_curve]
        table = _table([("rows fitted on", f"{metric} on later rows", f"{metric} of the baseline on them"), *points])
        return f"{table}\n\nEach line has its own later rows, so compare a fit with the baseline on the same line only."

    def test_metrics(self) -> str:
        titles = {metric.name: metric.title for metric in self.spec.business_metrics}
        table = [("metric", "version", "baseline")]
        for name, value in self.trained.metrics.items():
            title = f"{markdown(titles[name])} (`{name}`)" if name in titles else name
            table.append((title, _number(value), _number(self.trained.baseline_metrics.get(name))))
        times = self.trained.test_predictions["event_time"]
        return f"Events of {times.min():%Y-%m-%d} to {times.max():%Y-%m-%d}.\n\n{_table(table)}"

    def slices(self) -> str:
        if not self.trained.slices:
            return ""
        rows = [
            (markdown(level), str(part["count"]), _number(part["mae"]), _number(part["baseline_mae"]))
            for level, part in self.trained.slices.items()
        ]
        return _table([("level", "rows", "mae", "mae of the baseline"), *rows])

    def interval(self) -> str:
        coverage = self.trained.metrics.get("interval_coverage")
        if coverage is None:
            return ""
        width = f"{_number(self.trained.metrics['interval_width'])} {markdown(self.spec.label.unit)}".rstrip()
        return (
            f"Nominal coverage {self.spec.training.interval:.0%}; coverage on the test part {coverage:.1%}, "
            f"with a mean width of {width}."
        )

    def reliability_table(self) -> str:
        """Table of predicted and observed shares on the test part, in bins with equal numbers of rows."""
        if self.spec.task != "binary":
            return ""
        table = [("rows", "predicted", "observed")]
        label, value = (self.trained.test_predictions[name].to_numpy() for name in ("label", "value"))
        for count, predicted, observed in reliability(label, value):
            table.append((str(count), f"{predicted:.1%}", f"{observed:.1%}"))
        return _table(table)

    def importance_table(self) -> str:
        shares = list(importance(self.trained.model).items())[:MOST_IMPORTANT]
        if not shares:
            return "None: the prediction is the same for every entity."
        return _table([("feature", "share of the gain"), *((code(name), f"{share:.1%}") for name, share in shares)])

    def limits(self) -> str:
        limits = [note for note in self.trained.notes if note != self.tuning]
        if self.trained.rows["test"] < FEW_TEST_ROWS:
            limits.append(f"the metrics come from only {self.trained.rows['test']} test rows and are uncertain")
        limits += [
            f"data quality, {measure['name']} {measure['score']:.0f} of 100: {measure['recommendation']}"
            for measure in self.origin.quality["measures"]
            if measure["score"] < WEAK_MEASURE and measure["recommendation"]
        ]
        if self.spec.task == "regression":
            limits.append("the interval keeps its coverage only while new rows resemble those of the test part")
        limits.append("the feature importance ranks what the model uses; it does not measure cause and effect")
        return "\n".join(f"- {markdown(limit[:1].upper() + limit[1:].rstrip('.'))}." for limit in limits)


def reliability(
    label: np.ndarray, probability: np.ndarray, bins: int = RELIABILITY_BINS
) -> list[tuple[int, float, float]]:
    """Number of rows, mean probability and share of ones per bin, in ascending order of probability.

    All bins have about the same number of rows. There are fewer bins if there are fewer rows than bins; equal
    probabilities may fall into two bins.
    """
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [(len(part), float(probability[part].mean()), float(label[part].mean())) for part in parts]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(rows: Sequence[Iterable[str]]) -> str:
    """A Markdown table whose first row is the header. Cells with data are already escaped."""
    cells = [tuple(row) for row in rows]
    head, *lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([head, "|" + "---|" * len(cells[0]), *lines])
