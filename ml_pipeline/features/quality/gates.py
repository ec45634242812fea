"""Quality gates of a specification that the data quality of a snapshot fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ml_pipeline.specs.training import Gate

OVERALL = "quality"


@dataclass(frozen=True)
class FailedGate:
    """``name`` is ``quality``, a dimension or a measure; ``score`` and ``needed`` are between 0 and 100."""

    name: str
    score: float
    needed: float
    recommendation: str | None

    def sentence(self) -> str:
        return f"{self.name} {self.score:.4g} of 100, needed {self.needed:.4g}" + (
            f": {self.recommendation.rstrip('.')}" if self.recommendation else ""
        )


def failed_gates(gate: Gate, quality: Mapping[str, Any]) -> list[FailedGate]:
    """Failed gates: copies of the label, then the overall score, then the others in the order of the specification.

    The recommendation for a dimension, or for the overall score, is that of its weakest measure.

    Parameters
    ----------
    gate
        ``gate`` of the specification.
    quality
        Result of ``QualityReport.to_dict``, as stored with the snapshot.
    """
    measures = {measure["name"]: measure for measure in quality["measures"]}
    failed = [
        FailedGate(
            "label_copies",
            0.0,
            100.0,
            f"{feature!r} equals the label in {share:.1%} of the rows. Remove it from features. If the label really "
            "is known at event time, it needs no prediction",
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
