"""The metrics that a specification defines: values, what does not count, and names that are taken."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.monitoring.business_metrics import business_metrics
from ml_pipeline.monitoring.metrics import evaluate
from ml_pipeline.monitoring.performance import daily_metrics
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.specs.business_metric import TECHNICAL_METRICS, BusinessMetric

SHIPPED = load_specs()["lead_time"]


def asking(value: str, **more: str) -> ModelSpec:
    metric = BusinessMetric.model_validate({"name": "asked", "title": "Asked", "value": value, **more})
    return SHIPPED.model_copy(update={"business_metrics": [metric]})


def asked(spec: ModelSpec, outcome, prediction, baseline=None) -> float | None:
    return business_metrics(spec, outcome, prediction, prediction if baseline is None else baseline)["asked"]


def test_the_shipped_lead_time_counts_what_was_finished_within_20_percent_of_the_forecast():
    found = business_metrics(SHIPPED, [8.0, 11.9, 12.1, 7.9], [10.0] * 4, [10.0] * 4)
    assert found == {"within_20_percent": 0.5}


@pytest.mark.parametrize(("aggregate", "expected"), [("mean", 4.0), ("median", 2.0), ("sum", 12.0)])
def test_the_values_are_aggregated_as_declared(aggregate, expected):
    assert asked(asking("outcome - prediction", aggregate=aggregate), [2.0, 3.0, 10.0], [1.0] * 3) == expected


def test_the_answer_of_the_constant_can_be_named():
    spec = asking("abs(outcome - prediction) < abs(outcome - baseline)")
    assert asked(spec, [1.0, 5.0], [2.0, 9.0], [4.0, 4.0]) == 0.5


def test_an_entity_without_a_value_does_not_count():
    assert asked(asking("outcome / prediction"), [1.0, 6.0], [0.0, 2.0]) == 3.0


def test_without_any_value_the_metric_is_none():
    spec = asking("outcome / prediction")
    assert asked(spec, [1.0], [0.0]) is None
    assert asked(spec, [], []) is None


@pytest.mark.parametrize("task", ["regression", "binary"])
def test_every_technical_metric_is_a_name_that_is_taken(task):
    found = evaluate(task, [0.0, 1.0], [0.2, 0.9], np.array([0.0, 0.0]), np.array([1.0, 1.0]))
    assert set(found) <= set(TECHNICAL_METRICS)


def test_a_days_row_holds_the_metric_of_the_predictions_and_of_the_constant():
    times = pd.to_datetime(["2025-03-10"] * 2, utc=True)
    outcomes = pd.DataFrame({"entity_id": ["A", "B"], "label_time": times, "label": [10.0, 20.0]})
    made = {"predicted_at": times - pd.Timedelta(days=3), "value": [11.0, 21.0], "lower": 0.0, "upper": 99.0}
    made |= {"baseline": 10.0, "version": 1, "origin": "live"}
    report = daily_metrics(SHIPPED, outcomes, pd.DataFrame({"entity_id": ["A", "B"], **made}), date(2025, 3, 10))
    assert report.metrics["within_20_percent"] == 1.0
    assert report.metrics["baseline_within_20_percent"] == 0.5
