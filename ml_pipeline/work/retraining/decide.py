"""Decides which models of many tenants to retrain, stores the decisions, and returns the approved retrainings."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from ml_pipeline.lifecycle.policy import Policy, load_policy
from ml_pipeline.lifecycle.retraining import Request, RetrainingDecision, State, calls_for_decision, decide
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.severity import RANK
from ml_pipeline.specs import ModelSpec
from ml_pipeline.work.context import Clients
from ml_pipeline.work.retraining.decisions import RETRAIN, DecisionRecord
from ml_pipeline.work.retraining.fleet_state import Running, completed, fleet_states

APPROVED, DONE, FAILED = "approved", "done", "failed"
SCORES = ("drift_score", "rise", "outcomes", "new_labels", "quality")
_NAMESPACE = uuid.UUID("5d0f6f6e-6b3c-4a5e-9a0e-2f3a8f1f7f10")

# Tags of a run: they identify it, and people see them on its page.
DECISION_TAG, TENANT_TAG, MODEL_TAG = "ml_pipeline/decision", "ml_pipeline/tenant", "ml_pipeline/model"
UNIQUE_TAG = "ml_pipeline/tenant_model"


@dataclass(frozen=True)
class Approved:
    """An approved retraining that waits for its run."""

    decision_id: uuid.UUID
    tenant: str
    model: str
    action: str
    trigger: str
    severity: str | None
    reason: str
    scores: Mapping[str, float | int | None]
    approved_at: dt.datetime
    lease: str = ""  # of the command that approved it and runs it itself; empty if the sensor requests its run

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the run: tenant, model, trigger, and the scores behind the decision."""
        return {
            DECISION_TAG: str(self.decision_id),
            TENANT_TAG: self.tenant,
            MODEL_TAG: self.model,
            UNIQUE_TAG: f"{self.tenant}/{self.model}",
            "ml_pipeline/action": self.action,
            "ml_pipeline/trigger": self.trigger,
            "ml_pipeline/severity": self.severity or "none",
            "ml_pipeline/scores": json.dumps(self.scores),
        }


@dataclass
class SweepResult:
    """The result of evaluating some tenants."""

    looked_at: int = 0
    approved: list[Approved] = field(default_factory=list)
    blocked: list[tuple[State, RetrainingDecision]] = field(default_factory=list)

    def merge(self, other: SweepResult) -> None:
        self.looked_at += other.looked_at
        self.approved += other.approved
        self.blocked += other.blocked


def policy_of(settings: Settings) -> tuple[Policy, tuple[int, ...] | None]:
    """The installation's policy (the file of the settings, or the built-in one), and its off-peak hours.

    The hours are returned separately, because a tenant's own hours take precedence over them.
    """
    policy = load_policy(settings.policy) if settings.policy is not None else Policy()
    return policy.model_copy(update={"off_peak": None}), policy.off_peak


def decide_for(
    clients: Clients,
    specs: Mapping[str, ModelSpec],
    tenants: Collection[str],
    now: dt.datetime,
    *,
    running: Running | None = None,
    request: Request | None = None,
    lease: str = "",
) -> SweepResult:
    """Decides for every tenant and model, most severe first, and stores the decision of each that has a trigger.

    A repeated evaluation stores nothing twice: the identity of a decision follows from its content, tenant, model and
    day.

    Parameters
    ----------
    now : datetime
        Time of the decision, with time zone.
    running : Running or None
        Trainings under way. Those of the fleet count against the policy's budget, and so does each approval.
    request : Request or None
        The retraining that a person asked for, of all these tenants and models.
    lease : str
        Lease of the process that will run the approved retrainings itself; they fail when it ends.
    """
    warehouse, running = clients.warehouse, running or Running()
    policy, off_peak = policy_of(clients.settings)
    collected = [replace(state, request=request) for state in fleet_states(clients, specs, tenants, now, running)]
    triggered = [state for state in collected if calls_for_decision(state, policy)]
    decided = _decide(completed(warehouse, triggered, off_peak), policy, running.fleet)
    _record(warehouse, decided, lease)
    recorded = {item.decision_id for item in waiting(warehouse)}  # the table allows one per tenant and model
    approved = [
        Approved(
            identity(state, decision),
            state.tenant,
            state.model,
            str(decision.action),
            str(decision.trigger),
            decision.severity,
            decision.reason,
            {name: decision.numbers[name] for name in SCORES},
            state.now,
            lease,
        )
        for state, decision in decided
        if decision.verdict == "retrain" and identity(state, decision) in recorded
    ]
    blocked = [(state, decision) for state, decision in decided if decision.verdict != "retrain"]
    return SweepResult(len(collected), approved, blocked)


def _decide(states: Sequence[State], policy: Policy, under_way: int) -> list[tuple[State, RetrainingDecision]]:
    """Decides each state, most severe first; each approval counts against the fleet's budget of the later ones."""

    def urgency(state: State) -> tuple[int, str, str]:
        return -RANK[decide(state, policy).severity], state.tenant, state.model

    decided: list[tuple[State, RetrainingDecision]] = []
    for state in sorted(states, key=urgency):
        decision = decide(replace(state, fleet_trainings=under_way), policy)
        under_way += decision.verdict == "retrain"
        decided.append((state, decision))
    return decided


def identity(state: State, decision: RetrainingDecision) -> uuid.UUID:
    """Identifier of a decision: equal for equal verdicts on one day, so that a repeated tick adds nothing.

    A second approval on one day has another identifier, because it follows another attempt.
    """
    attempt = state.last_attempt if decision.verdict == "retrain" else None
    what = (decision.verdict, decision.trigger, decision.severity, *decision.blocked_by, attempt)
    parts = [state.tenant, state.model, RETRAIN, state.now.date(), *what]
    return uuid.uuid5(_NAMESPACE, "/".join(map(str, parts)))


def _record(warehouse: Warehouse, decided: Sequence[tuple[State, RetrainingDecision]], lease: str) -> None:
    """Stores the decisions that are not stored yet, with one transaction per tenant."""
    rows: dict[str, list[dict[str, Any]]] = {}
    ids = {identity(state, decision) for state, decision in decided}
    table = tables.decisions
    with warehouse.operator() as connection:
        stored = set(connection.scalars(sa.select(table.c.decision_id).where(table.c.decision_id.in_(ids))))
    for state, decision in decided:
        decision_id = identity(state, decision)
        if decision_id not in stored:
            found = state.degradation
            # A training after a degradation begins where the outcomes changed.
            since = found.since if found is not None and found.status == "degraded" else None
            record = DecisionRecord(
                state.tenant,
                state.model,
                kind=RETRAIN,
                verdict=decision.verdict,
                reason=decision.reason,
                as_of=state.now,
                numbers=decision.numbers
                | {"trigger": decision.trigger, "severity": decision.severity, "action": decision.action}
                | {"since": since}
                | ({"lease": lease} if lease else {}),
                version=state.champion.number if state.champion else None,
                decision_id=decision_id,
                state=APPROVED if decision.verdict == "retrain" else None,
            )
            rows.setdefault(state.tenant, []).append(record.row())
    for tenant, of_tenant in rows.items():
        with warehouse.tenant(tenant) as connection:
            warehouse.insert_missing(connection, tables.decisions, of_tenant)


def waiting(warehouse: Warehouse) -> list[Approved]:
    """Every approved retraining whose run has not ended or not begun, oldest first."""
    table = tables.decisions
    query = sa.select(table).where(table.c.state == APPROVED).order_by(table.c.sequence)
    with warehouse.operator() as connection:
        rows = connection.execute(query).mappings().all()
    return [
        Approved(
            row["decision_id"],
            row["tenant_id"],
            row["model"],
            row["numbers"]["action"],
            row["numbers"]["trigger"],
            row["numbers"]["severity"],
            row["reason"],
            {name: row["numbers"][name] for name in SCORES},
            row["as_of"],
            row["numbers"].get("lease", ""),
        )
        for row in rows
    ]


def settle(warehouse: Warehouse, tenant: str, decision_id: uuid.UUID, outcome: str) -> None:
    """Marks an approved retraining as DONE or FAILED; only the first call has an effect."""
    table = tables.decisions
    with warehouse.tenant(tenant) as connection:
        connection.execute(
            sa.update(table)
            .where(table.c.tenant_id == tenant, table.c.decision_id == decision_id, table.c.state == APPROVED)
            .values(state=outcome, settled_at=sa.func.now())
        )
