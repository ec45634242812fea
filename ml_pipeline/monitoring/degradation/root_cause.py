"""Likely root cause of a degradation: data drift, concept drift, or harder outcomes for model and baseline."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from ml_pipeline.monitoring.degradation.report import Degradation

RootCauseName = Literal["none", "data_drift", "concept_drift", "outcome_change", "unknown"]
SHARED = 0.5  # share of the rise, on the log scale, that the baseline must show for an outcome change


class RootCause(NamedTuple):
    """The likely cause of a degradation, as a key and as a sentence."""

    name: RootCauseName
    reason: str


def root_cause_of(
    degradation: Degradation, drift_status: Literal["stable", "drift", "insufficient_data"] | None
) -> RootCause:
    """Classify a rise of the loss, from the baseline's loss on the same outcomes and the drift of the inputs.

    - ``data_drift``: the inputs have drifted too, which may be only a part of the cause.
    - ``outcome_change``: the inputs are stable and the baseline's loss has risen too, at least half as much on the log
      scale. Examples are another unit, or harder work; the relation of inputs to outcomes may be unchanged.
    - ``concept_drift``: the inputs are stable and only the model has lost: the same inputs lead to other outcomes.
    - ``unknown``: the drift report has insufficient data.
    - ``none``: there is no degradation.
    """
    if degradation.status != "degraded":
        return RootCause("none", "no degradation")
    if drift_status == "drift":
        return RootCause("data_drift", "data drift: the inputs have drifted as well, see the drift report")
    ours, baseline = degradation.rise, degradation.baseline_rise
    if drift_status != "stable":
        return RootCause("unknown", "cause unknown: too few rows to test the inputs for drift")
    if ours is None or baseline is None:
        return RootCause("concept_drift", "concept drift: the inputs are stable, but their outcomes have changed")
    numbers = f"(loss of the model {ours:+.0%}, of the baseline {baseline:+.0%})"
    if math.log1p(baseline) >= SHARED * math.log1p(ours):
        return RootCause(
            "outcome_change",
            f"outcome change: the inputs are stable and the outcomes are harder for the baseline too {numbers}",
        )
    return RootCause("concept_drift", f"concept drift: the same inputs lead to other outcomes than before {numbers}")
