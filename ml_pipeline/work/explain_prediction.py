"""Explains the serving version's prediction for one entity, from what is known now."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from ml_pipeline.display import command
from ml_pipeline.errors import UserError
from ml_pipeline.features.point_in_time import build, entity_row
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.online.explanation import OFFSET, ExpertOpinion, Neighbour, neighbours, opinions
from ml_pipeline.training.online.mixture import Mixture
from ml_pipeline.training.reporting.explanation import contributions, in_log_odds, words
from ml_pipeline.work.context import Clients
from ml_pipeline.work.monitoring.report_store import json_safe
from ml_pipeline.work.scoring import is_compatible, load_version
from ml_pipeline.work.tenant_settings import spec_for


class NothingToExplain(UserError):
    """No version can predict for the tenant; the message names tenant, model and the remedy."""


@dataclass(frozen=True)
class Contribution:
    """What one feature adds to the prediction, and its value (None if missing, or if several features are grouped)."""

    feature: str
    value: Any
    adds: float


@dataclass(frozen=True)
class PredictionExplanation:
    """One prediction as the sum of ``offset`` and ``contributions``, the largest first.

    Both are in the reported unit, or in log odds of the probability (``in_log_odds``). ``words`` are the contributions
    of single words in a linear member, the largest first; ``neighbours`` are the known entities with the most similar
    texts that a mixture uses, ``experts`` what its experts predict. ``lower`` and ``upper`` are None without an
    interval.
    """

    tenant: str
    model: str
    entity: str
    version: int
    semantic: str
    candidate: str
    as_of: str
    state: str
    outcome: float | None
    value: float
    lower: float | None
    upper: float | None
    baseline: float
    in_log_odds: bool
    offset: float
    contributions: tuple[Contribution, ...]
    words: dict[str, float]
    neighbours: tuple[Neighbour, ...]
    experts: tuple[ExpertOpinion, ...]


def explain_prediction(
    clients: Clients, spec: ModelSpec, tenant: str, entity: str, now: dt.datetime
) -> PredictionExplanation:
    """Explains the champion's prediction for an entity from its features at ``now``.

    The prediction is not stored: a person asked for it, and the outcome of the entity may be known already.

    Raises
    ------
    NothingToExplain
        If no version serves, or the one that does no longer fits the specification.
    FeatureError
        If the tenant has no such entity.
    """
    spec = spec_for(clients.warehouse, spec, tenant)
    champion = clients.registry.aliased(tenant, spec.name)
    if champion is None or not is_compatible(spec, champion):
        why = "no version serves"
        if champion is not None:
            why = f"version {champion.number} does not fit the specification, which has changed since"
        train = command("ml-pipeline", "run", "--tenant", tenant, "--model", spec.name)
        raise NothingToExplain(
            f"tenant {tenant}, model {spec.name}: {why}. Train one with `{train}`; `ml-pipeline explain` says why none "
            "serves"
        )
    frame = build(spec, clients.warehouse.read_source(spec, tenant), now)
    row = entity_row(spec, frame, entity, now)
    model, _ = load_version(clients, spec, champion)
    (predicted,) = json_safe(model.predict(row, frame).to_dict("records"))
    mixture = model.predictor if isinstance(model.predictor, Mixture) else None
    (known,) = json_safe(row.to_dict("records"))
    found = contributions(model, row, frame).iloc[0]
    added = found.drop(OFFSET)
    largest_first = added[added != 0].sort_values(key=abs, ascending=False, kind="stable")
    return PredictionExplanation(
        tenant=tenant,
        model=spec.name,
        entity=entity,
        version=champion.number,
        semantic=champion.semantic,
        candidate=model.candidate,
        as_of=now.isoformat(),
        state=known["state"],
        outcome=known["label"],
        **{name: predicted[name] for name in ("value", "lower", "upper", "baseline")},
        in_log_odds=in_log_odds(model),
        offset=float(found[OFFSET]),
        contributions=tuple(
            Contribution(str(name), known.get(str(name)), float(adds)) for name, adds in largest_first.items()
        ),
        neighbours=tuple(neighbours(mixture, row, frame)[0]) if mixture else (),
        experts=tuple(opinions(mixture, row, frame)[0]) if mixture else (),
        words=dict(sorted(words(model, row)[0].items(), key=lambda word: -abs(word[1]))),
    )
