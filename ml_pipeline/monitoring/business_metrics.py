"""Business metrics of a specification, computed from predictions and their outcomes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ml_pipeline.monitoring.metrics import Metrics
from ml_pipeline.specs.model_spec import ModelSpec

_AGGREGATES: dict[str, Callable[[np.ndarray], float]] = {"mean": np.mean, "median": np.median, "sum": np.sum}


def business_metrics(spec: ModelSpec, outcome: ArrayLike, prediction: ArrayLike, baseline: ArrayLike) -> Metrics:
    """Value of each business metric of ``spec``, by name.

    Entities for which the expression is undefined (a division by zero) are left out; without any entity the metric is
    None.

    Parameters
    ----------
    spec
        The model.
    outcome, prediction
        One value per entity, in the label's unit; for a binary model 0 or 1, and a probability.
    baseline
        Prediction of the baseline. Pass it as ``prediction`` to get the metrics of the baseline itself.
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
