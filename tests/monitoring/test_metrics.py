"""Every metric against scikit-learn, and what it says where it is undefined."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from ml_pipeline.monitoring.metrics import binary_metrics, evaluate, regression_metrics

finite = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 3))
regression_rows = st.lists(st.tuples(finite, finite), min_size=2, max_size=40)
# Few distinct probabilities, so that ties are common.
binary_rows = st.lists(
    st.tuples(st.sampled_from([0, 1]), st.integers(0, 8).map(lambda k: k / 8)), min_size=2, max_size=60
)


@given(regression_rows)
def test_regression_metrics_agree_with_scikit_learn(rows):
    y, p = map(np.array, zip(*rows, strict=True))
    ours = regression_metrics(y, p)
    assert ours["mae"] == pytest.approx(reference.mean_absolute_error(y, p))
    assert ours["mdae"] == pytest.approx(reference.median_absolute_error(y, p))
    assert ours["rmse"] == pytest.approx(reference.root_mean_squared_error(y, p))
    if len(set(y)) > 1:
        assert ours["r2"] == pytest.approx(reference.r2_score(y, p), rel=1e-6)


@given(binary_rows)
def test_binary_metrics_agree_with_scikit_learn(rows):
    y, p = map(np.array, zip(*rows, strict=True))
    ours = binary_metrics(y, p)
    assert ours["brier"] == pytest.approx(reference.brier_score_loss(y, p))
    assert ours["log_loss"] == pytest.approx(reference.log_loss(y, p, labels=[0, 1]))
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(y, p >= 0.5))
    assert [[ours["tn"], ours["fp"]], [ours["fn"], ours["tp"]]] == reference.confusion_matrix(
        y, p >= 0.5, labels=[0, 1]
    ).tolist()
    if y.any():
        assert ours["pr_auc"] == pytest.approx(reference.average_precision_score(y, p))
    if y.any() and not y.all():
        assert ours["roc_auc"] == pytest.approx(reference.roc_auc_score(y, p))


@given(binary_rows)
def test_precision_recall_and_f1_agree_with_scikit_learn_wherever_they_are_defined(rows):
    y, p = map(np.array, zip(*rows, strict=True))
    ours = binary_metrics(y, p)
    for name in ("precision", "recall", "f1"):
        expected = getattr(reference, f"{name}_score")(y, p >= 0.5, zero_division=np.nan)
        if ours[name] is None:
            assert np.isnan(expected)
        else:
            assert ours[name] == pytest.approx(expected)


def test_a_metric_without_a_value_is_none_and_never_nan():
    for task in ("regression", "binary"):
        for label, prediction in (([], []), ([0.0, 0.0], [0.1, 0.2]), ([1.0], [1.0])):
            json.dumps(evaluate(task, label, prediction), allow_nan=False)
    assert regression_metrics([2.0, 2.0], [1.0, 3.0])["r2"] is None
    assert binary_metrics([0, 0], [0.1, 0.2])["roc_auc"] is None
    assert binary_metrics([0, 1], [0.1, 0.2])["precision"] is None


def test_bias_is_positive_when_predictions_are_too_high():
    assert regression_metrics([1.0, 2.0], [2.0, 3.0])["bias"] == 1.0


def test_intervals_count_only_where_both_ends_are_known():
    metrics = regression_metrics([1, 5, 9], [1, 5, 9], lower=[0, 6, np.nan], upper=[2, 8, 10])
    assert (metrics["interval_width"], metrics["interval_coverage"]) == (2.0, 0.5)
    assert "interval_width" not in regression_metrics([1], [1], lower=[np.nan], upper=[np.nan])


def test_calibration_error_is_the_weighted_gap_between_probability_and_frequency():
    assert binary_metrics([0, 1, 1, 1], [0.2, 0.2, 1.0, 1.0])["ece"] == pytest.approx(0.5 * 0.3)


@pytest.mark.parametrize(
    ("label", "probability", "message"),
    [
        ([0, 2], [0.1, 0.2], "a binary label must be 0 or 1, got 2.0"),
        ([0, 1], [0.1, 1.2], "a probability must be between 0 and 1, got 1.2"),
        ([0, 1], [0.1], "2 labels but 1 predictions"),
        ([0, np.nan], [0.1, 0.2], "1 of 2 label values are not finite"),
    ],
)
def test_values_that_cannot_be_measured_are_refused_by_name(label, probability, message):
    with pytest.raises(ValueError, match=message):
        binary_metrics(label, probability)
