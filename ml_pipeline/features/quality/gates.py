"""Which bars of a specification the data quality of a snapshot does not reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_pipeline.specs.training import Gate

OVERALL = "quality"


@dataclass(frozen=True)
class FailedGate:
    """``name``: ``quality``, a dimension or a measure; ``score`` and ``needed`` lie between 0 and 100."""

    name: str
    score: float
    needed: float
    recommendation: str | None

    def sentence(self) -> str:
        return f"{self.name} {self.score:.4g} of 100, needed {self.needed:.4g}" + (
            f": {self.recommendation.rstrip('.')}" if self.recommendation else ""
        )


def failed_gates(gate: Gate, quality: Mapping[str, Any]) -> list[FailedGate]:
    """The bars that are not reached: copies of the label, the overall one, then in the order of the specification.

    Of a dimension, and of the whole, the recommendation is the weakest measure's, with its name.

    Parameters
    ----------
    quality
        What ``QualityReport.to_dict`` made, as it is stored with the snapshot.
    """
    measures = {measure["name"]: measure for measure in quality["measures"]}
    failed = [
        FailedGate(
            "label_copies",
            0.0,
            100.0,
            f"{feature!r} equals the label in {share:.1%} of the rows. Remove it from features, or, if the label "
            "really is known at event time, there is nothing to predict",
        )
        for feature, share in quality.get("label_copies", {}).items()
    ]
    for name, needed in {OVERALL: gate.min_quality, **gate.min_quality_of}.items():
        if name in measures:
            score, recommendation = measures[name]["score"], measures[name]["recommendation"]
        else:
            score = quality["score" if name == OVERALL else name]
            parts = [part for part in quality["measures"] if name in (OVERALL, part["dimension"])]
            weakest = min(parts, key=lambda part: part["score"])
            recommendation = f"{weakest['name']}: {weakest['recommendation']}" if weakest["recommendation"] else None
        if score < needed:
            failed.append(FailedGate(name, score, needed, recommendation))
    return failed
