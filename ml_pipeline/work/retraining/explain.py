"""Explains a tenant's model: the last decisions with their numbers, and what the policy would decide now."""

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
from ml_pipeline.work.retraining.fleet_state import Running, completed, fleet_states

# The questions of a person, and the kinds of decision that answer each; the newest is shown.
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
    """Why ``now`` is None although no day was given: the policy cannot be read."""


def explain(
    clients: Clients, spec: ModelSpec, tenant: str, now: dt.datetime, day: dt.date | None = None
) -> Explanation:
    """The decisions about a tenant's model up to the end of ``day``, or up to now."""
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
        policy, off_peak = policy_of(clients.settings)
    except PolicyError as error:
        return Explanation(tenant, spec.name, found, None, str(error))
    running = Running(fleet=len(waiting(clients.warehouse)))
    states = fleet_states(clients, {spec.name: spec}, [tenant], now, running)
    (state,) = completed(clients.warehouse, states, off_peak)
    return Explanation(tenant, spec.name, found, decide(state, policy))
