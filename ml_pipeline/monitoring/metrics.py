"""Metrics for training, daily reports, promotion and benchmarks.

A metric that is undefined for the rows is None, never NaN, so that it can be stored in JSON and in a database.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_pipeline.stats import Floats

Metrics = dict[str, float | int | None]

ECE_BINS = 10


def evaluate(
    task: Literal["regression", "binary"],
    label: ArrayLike,
    prediction: ArrayLike,
    lower: ArrayLike | None = None,
    upper: ArrayLike | None = None,
) -> Metrics:
    """All metrics of a task: :func:`regression_metrics` or :func:`binary_metrics`.

    Parameters
    ----------
    task : {"regression", "binary"}
        For a binary task, predictions are probabilities and intervals are ignored.
    label, prediction : array of shape (rows,)
        Labels and predictions, in the same unit for a regression.
    lower, upper : array of shape (rows,), optional
        Ends of the prediction intervals, NaN for rows without one.

    Raises
    ------
    ValueError
        If lengths differ, or a value is not valid for the task.

    >>> evaluate("regression", [1.0, 3.0], [2.0, 3.0])["mae"]
    0.5
    """
    if task == "regression":
        return regression_metrics(label, prediction, lower, upper)
    return binary_metrics(label, prediction)


def regression_metrics(
    label: ArrayLike, prediction: ArrayLike, lower: ArrayLike | None = None, upper: ArrayLike | None = None
) -> Metrics:
    """Errors in the label's unit, and the mean width and coverage of the intervals over the rows that have one.

    Returns
    -------
    dict
        ``mae``, ``mdae``, ``rmse``, ``r2`` (``None`` for a constant label), ``bias`` (mean of prediction - label),
        ``count``, and ``interval_width``, ``interval_coverage`` over rows with finite ``lower`` and ``upper``.

    Raises
    ------
    ValueError
        If lengths differ, or a label or prediction is not finite.
    """
    y, prediction = _pair(label, prediction)
    if not len(y):
        return {"mae": None, "mdae": None, "rmse": None, "r2": None, "bias": None, "count": 0}
    error = prediction - y
    absolute = np.abs(error)
    squared = float(np.square(error).sum())
    spread = float(np.square(y - y.mean()).sum())
    metrics: Metrics = {
        "mae": float(absolute.mean()),
        "mdae": float(np.median(absolute)),
        "rmse": float(np.sqrt(squared / len(y))),
        "r2": 1 - squared / spread if y.min() < y.max() and spread > 0 else None,
        "bias": float(error.mean()),
        "count": len(y),
    }
    if lower is not None and upper is not None:
        low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        known = np.isfinite(low) & np.isfinite(high)
        if known.any():
            inside = (low[known] <= y[known]) & (y[known] <= high[known])
            metrics["interval_width"] = float((high[known] - low[known]).mean())
            metrics["interval_coverage"] = float(inside.mean())
    return metrics


def binary_metrics(label: ArrayLike, probability: ArrayLike, threshold: float = 0.5) -> Metrics:
    """Metrics of the probability that the label is 1; at ``threshold`` and above, the predicted class is 1.

    Returns
    -------
    dict
        ``brier``, ``log_loss`` (probabilities clipped one float epsilon from 0 and 1), ``accuracy``, ``precision``,
        ``recall``, ``f1``, ``roc_auc`` (from ranks, ties averaged), ``pr_auc`` (average precision, the step
        definition), ``tp``, ``fp``, ``tn``, ``fn``, ``ece`` (expected calibration error over ten bins of equal width)
        and ``count``.

    Raises
    ------
    ValueError
        If lengths differ, a label is not 0 or 1, or a probability is not between 0 and 1.
    """
    y, p = _pair(label, probability)
    if not np.isin(y, (0.0, 1.0)).all():
        raise ValueError(f"a binary label must be 0 or 1, got {_first(y, ~np.isin(y, (0.0, 1.0)))}")
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"a probability must be between 0 and 1, got {_first(p, (p < 0) | (p > 1))}")
    truth, positive = y == 1, p >= threshold
    tp, fp = int((positive & truth).sum()), int((positive & ~truth).sum())
    fn = int(truth.sum()) - tp
    tn = len(y) - tp - fp - fn
    safe = np.clip(p, np.finfo(np.float64).eps, 1 - np.finfo(np.float64).eps)
    roc_auc, pr_auc = _ranking_metrics(truth, p)
    return {
        "brier": float(np.square(p - y).mean()) if len(y) else None,
        "log_loss": float(-np.log(np.where(truth, safe, 1 - safe)).mean()) if len(y) else None,
        "accuracy": _ratio(tp + tn, len(y)),
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "roc_auc": roc_auc,
        "pr_auc": pr_auc,
        "tp": tp,
        "fp": fp,
        "tn": tn,
        "fn": fn,
        "ece": _calibration_error(y, p),
        "count": len(y),
    }


def _pair(label: ArrayLike, prediction: ArrayLike) -> tuple[Floats, Floats]:
    y, p = np.asarray(label, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    if y.shape != p.shape:
        raise ValueError(f"{len(y)} labels but {len(p)} predictions; pass one prediction per label")
    for name, values in (("label", y), ("prediction", p)):
        if not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise ValueError(f"{count} of {len(values)} {name} values are not finite; leave those rows out")
    return y, p


def _ranking_metrics(truth: NDArray[np.bool_], p: Floats) -> tuple[float | None, float | None]:
    """ROC AUC (probability that a positive outranks a negative, ties count half) and average precision, by one sort."""
    positives = int(truth.sum())
    if not positives:
        return None, None
    order = np.argsort(-p, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    hits = np.cumsum(truth[order])[ends]
    gained = np.diff(hits, prepend=0)
    average_precision = float((gained * hits / (ends + 1)).sum() / positives)
    negatives = len(p) - positives
    if not negatives:
        return None, average_precision
    misses = np.diff(ends + 1 - hits, prepend=0)
    outranked = (misses * (hits - gained / 2)).sum()
    return float(outranked / (positives * negatives)), average_precision


def _calibration_error(y: Floats, p: Floats) -> float | None:
    if not len(y):
        return None
    bins = np.minimum((p * ECE_BINS).astype(np.intp), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=p - y, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(y))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _first(values: Floats, wrong: NDArray[np.bool_]) -> float:
    return float(values[wrong][0])
