"""What a degradation comes from: other inputs, other outcomes of the same inputs, or harder outcomes for all."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from ml_pipeline.monitoring.degradation.report import Degradation

RootCauseName = Literal["none", "data_drift", "concept_drift", "outcome_change", "unknown"]
SHARED = 0.5  # part of the rise, on the log scale, from which on it is the constant's as much as the model's


class RootCause(NamedTuple):
    """The likely cause of a degradation, in two words and in a sentence."""

    name: RootCauseName
    reason: str


def root_cause_of(
    degradation: Degradation, drift_status: Literal["stable", "drift", "insufficient_data"] | None
) -> RootCause:
    """Tells apart why the loss rose, from the loss of the constant on the same outcomes and the drift of the inputs.

    - ``data drift``: the inputs have drifted too; whether they are the whole cause cannot be told from this.
    - ``outcome change``: the inputs are stable and the constant's loss has risen too, at least half as much on the log
      scale: other units, or harder work. What a model can know has not become less.
    - ``concept drift``: the inputs are stable and the model alone has lost: the same inputs now mean other outcomes.
    - ``unknown``: the drift report could say nothing. ``none``: nothing is degraded.
    """
    if degradation.status != "degraded":
        return RootCause("none", "no degradation")
    if drift_status == "drift":
        return RootCause("data_drift", "data drift: the inputs have drifted as well, see the drift report")
    ours, constant = degradation.rise, degradation.constant_rise
    if drift_status != "stable":
        return RootCause("unknown", "cause unknown: too few inputs to say whether they have drifted")
    if ours is None or constant is None:
        return RootCause("concept_drift", "concept drift: the inputs are stable, their outcomes are not")
    numbers = f"(loss of the model {ours:+.0%}, of the constant {constant:+.0%})".replace("%", " %")
    if math.log1p(constant) >= SHARED * math.log1p(ours):
        return RootCause(
            "outcome_change", f"outcome change: the inputs are stable and the outcomes are harder for all {numbers}"
        )
    return RootCause("concept_drift", f"concept drift: the same inputs have other outcomes than before {numbers}")
