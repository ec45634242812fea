"""What the answer of a mixture rests on: its experts, the known outcomes that are most similar, and features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ml_pipeline.features.encoding.preprocessing import Preprocessor
from ml_pipeline.specs.names import TEXT, own_feature
from ml_pipeline.training.online.experts import ByGroup, Forest, Neighbours, Probability, Residuals
from ml_pipeline.training.online.mixture import Mixture, value_of

OFFSET = "offset"
TOGETHER = "experts:together"


@dataclass(frozen=True)
class Neighbour:
    """A known entity with a similar text: its outcome, and the cosine of the TF-IDF terms."""

    entity: str
    outcome: float
    similarity: float


@dataclass(frozen=True)
class ExpertOpinion:
    """What an expert predicts for a row, and its weight in the mixture; it sleeps without a prediction."""

    name: str
    weight: float
    prediction: float | None


def opinions(mixture: Mixture, frame: pd.DataFrame, history: pd.DataFrame | None) -> list[list[ExpertOpinion]]:
    """For each row, the experts, the largest weight first."""
    mixed = mixture.mixed(frame, history)
    values = value_of(mixture.task, mixed.grid, mixed.forecasts.cumulative)
    found = []
    for weights, own, awake in zip(mixed.share, values, mixed.forecasts.awake, strict=True):
        experts = zip(mixture.named_experts, weights.tolist(), own.tolist(), awake.tolist(), strict=True)
        row = [ExpertOpinion(name, weight, value if speaks else None) for (name, _), weight, value, speaks in experts]
        found.append(sorted(row, key=lambda opinion: -opinion.weight))
    return found


def expert_contributions(mixture: Mixture, frame: pd.DataFrame, history: pd.DataFrame | None) -> dict[str, np.ndarray]:
    """What each expert adds to the median of the mixture, one float64 per row; they sum to it.

    ``offset`` is the median of the training labels. An expert adds its weight times the distance of its median from
    the offset; ``experts:together`` adds the rest.
    """
    mixed = mixture.mixed(frame, history)
    labels = np.bincount(mixture.known.position, minlength=len(mixture.grid)) / len(mixture.known)
    offset = float(value_of(mixture.task, mixture.grid, np.cumsum(labels)[None, :])[0])
    medians = value_of(mixture.task, mixed.grid, mixed.forecasts.cumulative)
    added = np.where(mixed.forecasts.awake, mixed.share * (medians - offset), 0.0)
    value = value_of(mixture.task, mixed.grid, mixed.mixture)
    found = {OFFSET: np.full(len(frame), offset)}
    for (name, _), amount in zip(mixture.named_experts, added.T, strict=True):
        found[f"expert:{name}"] = amount
    return found | {TOGETHER: value - offset - added.sum(axis=1)}


def neighbours(mixture: Mixture, frame: pd.DataFrame, history: pd.DataFrame | None) -> list[list[Neighbour]]:
    """For each row, the other known entities whose outcomes the expert ``neighbours`` uses, the most similar first."""
    found: list[list[Neighbour]] = [[] for _ in range(len(frame))]
    experts = [expert for _, expert in mixture.named_experts if isinstance(expert, Neighbours)]
    past = mixture.past(frame, history)
    if not experts or past.asked.terms is None:
        return found
    own = frame["entity_id"].to_numpy(dtype=str)
    newest = pd.Series(np.arange(len(past.known)), index=past.known.entity).groupby(level=0).max()
    valid = set(newest.tolist())  # an outcome that was revised later is followed by others of its entity
    largest = max(experts, key=lambda expert: expert.count)
    for rows, nearest, cosines in largest.nearest(past):
        for row, positions, similarities in zip(rows, nearest, cosines, strict=True):
            found[row] = [
                Neighbour(str(past.known.entity[position]), float(past.known.label[position]), float(similarity))
                for position, similarity in zip(positions, similarities, strict=True)
                if similarity > 0 and position in valid and past.known.entity[position] != own[row]
            ]
    return found


def mixture_importance(mixture: Mixture) -> dict[str, float]:
    """Share of the experts' weights, as of the training, that rests on each feature.

    The weight of a forest or learner is divided by the gain of its splits; the neighbours rest on the text, a group on
    its column. Experts that read past outcomes only have no feature.
    """
    experts = mixture.named_experts
    weights = mixture.weights.among(np.ones((1, len(experts)), dtype=bool))[0]
    shares: dict[str, float] = {}

    def add(parts: dict[str, float], weight: float) -> None:
        whole = sum(parts.values())
        if not whole:  # no split was found
            return
        for name, part in parts.items():
            shares[name] = shares.get(name, 0.0) + weight * part / whole

    for (_, expert), weight in zip(experts, weights.tolist(), strict=True):
        if isinstance(expert, Forest):
            add(_gain(mixture.structure.preprocessor, mixture.structure.forest.gain()), weight)
        elif isinstance(expert, Residuals | Probability):
            learner = mixture.structure.learner(expert.learner)
            if learner is not None:
                add(_gain(*learner), weight)
        elif isinstance(expert, Neighbours) and mixture.structure.preprocessor.vectorizer is not None:
            add({TEXT: 1.0}, weight)
        elif isinstance(expert, ByGroup) and mixture.structure.group_column is not None:
            add({mixture.structure.group_column: 1.0}, weight)
    return shares


def _gain(preprocessor: Preprocessor, gain: np.ndarray) -> dict[str, float]:
    found: dict[str, float] = {}
    for position in np.flatnonzero(gain).tolist():
        name = own_feature(preprocessor.features[position], preprocessor.columns.all)
        found[name] = found.get(name, 0.0) + float(gain[position])
    return found
