"""``ml-pipeline explain-prediction``: the contribution of each feature to one prediction."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ml_pipeline.cli.common import (
    Rows,
    checked_spec,
    json_option,
    model_option,
    output,
    prepared,
    print_json,
    tenant_option,
)

if TYPE_CHECKING:
    from ml_pipeline.specs import ModelSpec
    from ml_pipeline.work.explain_prediction import PredictionExplanation

LARGEST = 10
LARGEST_WORDS = 5
LEAST_WEIGHT = 0.01


@click.command("explain-prediction")
@tenant_option
@model_option
@click.option("--entity", required=True, help="Identifier in the source, such as an issue key.")
@json_option
def explain_prediction_command(tenant: str, model: str, entity: str, as_json: bool) -> None:
    """Explain one prediction of the serving version: the contribution of each feature."""
    from ml_pipeline.work.context import Clients
    from ml_pipeline.work.explain_prediction import explain_prediction
    from ml_pipeline.work.monitoring.report_store import json_safe

    with prepared() as settings:
        spec = checked_spec(settings, tenant, model)
        found = explain_prediction(Clients(settings), spec, tenant, entity, dt.datetime.now(dt.UTC))
    if as_json:
        print_json(json_safe(asdict(found)))
        return
    for line in _sentences(found, spec):
        output.say(*line)
    if found.experts:
        output.print(_experts(found, spec))
    elif found.contributions:
        output.print(_table(found))


def _sentences(found: PredictionExplanation, spec: ModelSpec) -> list[list[str | tuple[str, str]]]:
    """Lines as parts; a part may have a style."""
    between = ""
    if found.lower is not None and found.upper is not None:
        between = f", between {found.lower:.4g} and {_quantity(found.upper, spec)}"
    version = f"version {found.version} ({found.semantic}, {found.candidate})"
    lines: list[list[str | tuple[str, str]]] = [
        [
            f"{found.tenant} {found.model} {found.entity}: ",
            (_quantity(found.value, spec), "bold"),
            f"{between}, by {version}.",
        ]
    ]
    if found.outcome is not None:
        known = f"Its outcome is known: {_quantity(found.outcome, spec)}"
        lines.append([f"{known}. The version may have been trained on it."])
    if not found.contributions:
        return [*lines, ["The version is the baseline: no feature adds anything."]]
    start = 1 / (1 + math.exp(-found.offset)) if found.in_log_odds else found.offset
    baseline = _quantity(found.baseline, spec)
    if found.experts:
        middle = "mean" if spec.task == "binary" else "median"
        return [*lines, [f"It is the {middle} of what these experts forecast; the baseline predicts {baseline}."]]
    return [*lines, [f"Without any feature it would be {_quantity(start, spec)}; the baseline predicts {baseline}."]]


def _quantity(value: float, spec: ModelSpec) -> str:
    if spec.task == "binary":
        return f"{value:.1%}"
    return f"{value:.4g} {spec.label.unit}".strip()


def _table(found: PredictionExplanation) -> Rows:
    unit = ("log odds", "odds") if found.in_log_odds else ("adds",)
    table = Rows("feature", "value", *unit)
    largest, others = found.contributions[:LARGEST], found.contributions[LARGEST:]
    rows = [(item.feature, _said(item.feature, item.value, found), item.adds) for item in largest]
    if others:
        rows.append((f"{len(others)} others", "", sum(item.adds for item in others)))
    for name, value, adds in rows:
        odds = (f"x {math.exp(adds):.2f}",) if found.in_log_odds else ()
        table.add_row(name, value, f"{adds:+.3g}", *odds)
    return table


def _experts(found: PredictionExplanation, spec: ModelSpec) -> Rows:
    """The experts of a mixture whose weight is at least 1%."""
    similar = ", ".join(f"{one.entity} ({one.outcome:.4g})" for one in found.neighbours[:LARGEST_WORDS])
    table = Rows("expert", "weight", "predicts", "from")
    for expert in found.experts:
        if expert.weight >= LEAST_WEIGHT:
            predicts = "" if expert.prediction is None else _quantity(expert.prediction, spec)
            source = f"similar: {similar}" if expert.name.startswith("neighbours") else ""
            table.add_row(expert.name, f"{expert.weight:.0%}", predicts, source)
    return table


def _said(feature: str, value: object, found: PredictionExplanation) -> str:
    """The text of a value; for the text feature, the words with the largest contributions, if known."""
    if feature == "text":
        weighed = [(word, adds) for word, adds in found.words.items() if adds][:LARGEST_WORDS]
        return ", ".join(f"{word} {adds:+.2g}" for word, adds in weighed)
    match value:
        case None:
            return _WITHOUT_VALUE.get(feature, "missing")
        case float():
            return f"{value:.4g}"
    return str(value)


_WITHOUT_VALUE = {
    "random_forest": "(its trees, unattributed)",
    "hist_gradient_boosting": "(its trees, unattributed)",
    "is_outlier": "(all numbers together)",
    "calibration": "(of the probability)",
    "range": "(moved to the end of the label's range)",
}
