"""The metrics that a specification defines for the business, over predictions and their outcomes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ml_pipeline.monitoring.metrics import Metrics
from ml_pipeline.specs.model_spec import ModelSpec

_AGGREGATES: dict[str, Callable[[np.ndarray], float]] = {"mean": np.mean, "median": np.median, "sum": np.sum}


def business_metrics(spec: ModelSpec, outcome: ArrayLike, prediction: ArrayLike, baseline: ArrayLike) -> Metrics:
    """Each business metric of ``spec`` by its name, over entities in the same order.

    Outcomes and predictions are in the label's unit (binary: 0 or 1, and a probability), ``baseline`` is the constant's
    answer; give it as the prediction to learn what the constant reaches. An entity for which the expression has no
    value (a division by zero) does not count; without any the metric is ``None``.
    """
    scored = pd.DataFrame(
        {
            "outcome": np.asarray(outcome, dtype=np.float64),
            "prediction": np.asarray(prediction, dtype=np.float64),
            "baseline": np.asarray(baseline, dtype=np.float64),
        }
    )
    found: Metrics = {}
    for metric in spec.business_metrics:
        values = metric.expression.evaluate(scored).to_numpy()
        known = values[np.isfinite(values)]
        found[metric.name] = float(_AGGREGATES[metric.aggregate](known)) if len(known) else None
    return found
