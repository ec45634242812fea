"""Why the version that serves predicts what it does for one entity, as it is known now."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ml_pipeline.display import command
from ml_pipeline.errors import UserError
from ml_pipeline.features.point_in_time import build_one
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.reporting.explanation import OFFSET, contributions, in_log_odds, words
from ml_pipeline.work.context import Clients
from ml_pipeline.work.monitoring.report_store import json_safe
from ml_pipeline.work.scoring import is_compatible, load_version
from ml_pipeline.work.tenant_settings import spec_for


class NothingToExplain(UserError):
    """No version answers for the tenant; the message names tenant, model and the remedy."""


@dataclass(frozen=True)
class Contribution:
    """What one feature adds to the prediction, and its value (None where it is missing, or is no single feature)."""

    feature: str
    value: Any
    adds: float


@dataclass(frozen=True)
class PredictionExplanation:
    """One prediction taken apart: ``offset`` and what ``contributions`` add, the largest first, sum to it.

    They are in the reported unit, or in log odds of the probability (``in_log_odds``). ``words`` of the text, the
    largest first, are what a linear member makes of them. ``lower`` and ``upper`` are None without an interval.
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


def explain_prediction(
    clients: Clients, spec: ModelSpec, tenant: str, entity: str, now: dt.datetime
) -> PredictionExplanation:
    """The champion's prediction for an entity from the features that it has at ``now``, taken apart.

    Nothing is logged: it is asked for by a person, and the entity may have its outcome already.

    Raises
    ------
    NothingToExplain
        If no version serves, or the one that does answers another question than the specification's.
    FeatureError
        If the tenant has no such entity.
    """
    spec = spec_for(clients.warehouse, spec, tenant)
    champion = clients.registry.aliased(tenant, spec.name)
    if champion is None or not is_compatible(spec, champion):
        why = "no version serves"
        if champion is not None:
            why = f"version {champion.number} answers another question: the specification has changed since"
        train = command("ml-pipeline", "run", "--tenant", tenant, "--model", spec.name)
        raise NothingToExplain(
            f"tenant {tenant}, model {spec.name}: {why}. Train one with `{train}`; `ml-pipeline explain` says why none "
            "serves"
        )
    row = build_one(spec, clients.warehouse.read_source(spec, tenant), entity, now)
    model, _ = load_version(clients, spec, champion)
    (predicted,) = json_safe(model.predict(row).to_dict("records"))
    (known,) = json_safe(row.to_dict("records"))
    found = contributions(model, row).iloc[0]
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
        contributions=_largest_first(found, known),
        words=dict(sorted(words(model, row)[0].items(), key=lambda word: -abs(word[1]))),
    )


def _largest_first(found: pd.Series, known: dict[str, Any]) -> tuple[Contribution, ...]:
    added = found.drop(OFFSET)
    ordered = added[added != 0].sort_values(key=abs, ascending=False, kind="stable")
    return tuple(Contribution(str(name), known.get(str(name)), float(adds)) for name, adds in ordered.items())
