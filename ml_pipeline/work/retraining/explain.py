"""Why a tenant's model is as it is: the last decisions with their numbers, and what would be decided now."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ml_pipeline.lifecycle.policy import PolicyError
from ml_pipeline.lifecycle.retraining import RetrainingDecision, decide
from ml_pipeline.resources import tables
from ml_pipeline.specs import ModelSpec
from ml_pipeline.timeutil import DAY
from ml_pipeline.work.context import Clients
from ml_pipeline.work.deployment.deployer import ALIAS_BY_HAND, PROMOTE, PROMOTE_BY_HAND, ROLLBACK
from ml_pipeline.work.retraining.decide import policy_of, waiting
from ml_pipeline.work.retraining.decisions import RETRAIN, TRAIN, WATCH
from ml_pipeline.work.retraining.fleet_state import completed, fleet_states

# What a person asks, and the kinds of decision that answer it; the newest of each is shown.
QUESTIONS = {
    "retraining": (RETRAIN,),
    "training": (TRAIN, PROMOTE),
    "serving": (PROMOTE_BY_HAND, ROLLBACK, ALIAS_BY_HAND),
    "watch": (WATCH,),
}


@dataclass(frozen=True)
class Explanation:
    """The newest decision on each question, and the decision that the policy would take now (None for a past day)."""

    tenant: str
    model: str
    decisions: dict[str, dict[str, Any]]
    now: RetrainingDecision | None
    undecided: str = ""
    """Why there is none now, where the policy cannot be read."""


def explain(
    clients: Clients, spec: ModelSpec, tenant: str, now: dt.datetime, day: dt.date | None = None
) -> Explanation:
    """What was decided for a tenant's model by the end of ``day``, or until now."""
    table = tables.decisions
    by_then: sa.ColumnElement[bool] = sa.true()
    if day is not None:
        by_then = table.c.as_of < dt.datetime.combine(day + DAY, dt.time(), dt.UTC)
    with clients.warehouse.tenant(tenant) as connection:
        found = {}
        for question, kinds in QUESTIONS.items():
            query = (
                sa.select(table)
                .where(table.c.tenant_id == tenant, table.c.model == spec.name, table.c.kind.in_(kinds))
                .where(by_then)
                .order_by(table.c.sequence.desc())
                .limit(1)
            )
            row = connection.execute(query).mappings().first()
            if row is not None:
                found[question] = dict(row)
    if day is not None:
        return Explanation(tenant, spec.name, found, None)
    try:
        return Explanation(tenant, spec.name, found, _now(clients, spec, tenant, now))
    except PolicyError as error:
        return Explanation(tenant, spec.name, found, None, str(error))


def _now(clients: Clients, spec: ModelSpec, tenant: str, now: dt.datetime) -> RetrainingDecision:
    under_way = len(waiting(clients.warehouse))
    states = fleet_states(clients.warehouse, clients.settings, {spec.name: spec}, [tenant], now, {}, under_way)
    policy, off_peak = policy_of(clients.settings)
    (state,) = completed(clients.warehouse, states, off_peak)
    return decide(state, policy)
