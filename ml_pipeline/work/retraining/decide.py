"""From the states of many tenants to recorded decisions, and to the runs that they ask for."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from ml_pipeline.lifecycle.policy import Policy, load_policy
from ml_pipeline.lifecycle.retraining import Request, RetrainingDecision, State, calls_for_decision, decide
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.severity import RANK
from ml_pipeline.specs import ModelSpec
from ml_pipeline.work.retraining.decisions import RETRAIN, decision_row
from ml_pipeline.work.retraining.fleet_state import Key, completed, fleet_states

APPROVED, DONE, FAILED = "approved", "done", "failed"
SCORES = ("drift_score", "rise", "outcomes", "new_labels", "quality")
_NAMESPACE = uuid.UUID("5d0f6f6e-6b3c-4a5e-9a0e-2f3a8f1f7f10")

# The tags by which a run is found again, and that a person sees on its page.
DECISION_TAG, TENANT_TAG, MODEL_TAG = "ml_pipeline/decision", "ml_pipeline/tenant", "ml_pipeline/model"
UNIQUE_TAG = "ml_pipeline/tenant_model"


@dataclass(frozen=True)
class Approved:
    """A retraining that was decided, recorded, and waits for its run."""

    decision_id: uuid.UUID
    tenant: str
    model: str
    action: str
    trigger: str
    severity: str | None
    reason: str
    scores: Mapping[str, float | int | None]
    approved_at: dt.datetime
    lease: str = ""  # of the command that approved it to run it itself; empty where the sensor asks for its run

    @property
    def tags(self) -> dict[str, str]:
        """What the run carries: whose it is, why it runs, and the scores behind that."""
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
    """What one look at some tenants came to."""

    looked_at: int = 0
    approved: list[Approved] = field(default_factory=list)
    blocked: list[tuple[State, RetrainingDecision]] = field(default_factory=list)

    def merge(self, other: SweepResult) -> None:
        self.looked_at += other.looked_at
        self.approved += other.approved
        self.blocked += other.blocked


def policy_of(settings: Settings) -> tuple[Policy, tuple[int, ...] | None]:
    """The installation's policy, from the file that the settings name or the product's own, and its off-peak hours.

    The hours are apart from it, because those that are set for a tenant go before them.
    """
    policy = load_policy(settings.policy) if settings.policy is not None else Policy()
    return policy.model_copy(update={"off_peak": None}), policy.off_peak


def decide_for(
    warehouse: Warehouse,
    settings: Settings,
    specs: Mapping[str, ModelSpec],
    tenants: Collection[str],
    now: dt.datetime,
    *,
    active: Mapping[Key, int] | None = None,
    under_way: int = 0,
    request: Request | None = None,
    lease: str = "",
) -> SweepResult:
    """Decides for every tenant and model given, most severe first, and records what has a trigger.

    The same look again records nothing twice: a decision's identity follows from what was decided about whom on which
    day. ``under_way`` trainings of the fleet count against the policy's budget, and each approval does for the next.
    ``lease`` is held by the process that is to run what is approved, so that an approval does not outlive it.
    """
    policy, off_peak = policy_of(settings)
    collected = [
        replace(state, request=request)
        for state in fleet_states(warehouse, settings, specs, tenants, now, active or {}, under_way)
    ]
    triggered = [state for state in collected if calls_for_decision(state, policy)]
    decided = _decide(completed(warehouse, triggered, off_peak), policy, under_way)
    _record(warehouse, decided, lease)
    recorded = {item.decision_id for item in waiting(warehouse)}  # at most one per tenant and model is
    approved = [
        _approved(identity(state, decision), state, decision, lease)
        for state, decision in decided
        if decision.verdict == "retrain" and identity(state, decision) in recorded
    ]
    blocked = [(state, decision) for state, decision in decided if decision.verdict != "retrain"]
    return SweepResult(len(collected), approved, blocked)


def _decide(states: Sequence[State], policy: Policy, under_way: int) -> list[tuple[State, RetrainingDecision]]:
    """A decision for each state, most severe first; each approval counts against the fleet's budget of the next."""

    def urgency(state: State) -> tuple[int, str, str]:
        return -RANK[decide(state, policy).severity], state.tenant, state.model

    decided: list[tuple[State, RetrainingDecision]] = []
    for state in sorted(states, key=urgency):
        decision = decide(replace(state, fleet_trainings=under_way), policy)
        under_way += decision.verdict == "retrain"
        decided.append((state, decision))
    return decided


def identity(state: State, decision: RetrainingDecision) -> uuid.UUID:
    """Of a decision: the same for the same verdict on the same day, so that a tick that is played again adds nothing.

    A further approval on one day is one after a further attempt.
    """
    attempt = state.last_attempt if decision.verdict == "retrain" else None
    what = (decision.verdict, decision.trigger, decision.severity, *decision.blocked_by, attempt)
    parts = [state.tenant, state.model, RETRAIN, state.now.date(), *what]
    return uuid.uuid5(_NAMESPACE, "/".join(map(str, parts)))


def _approved(decision_id: uuid.UUID, state: State, decision: RetrainingDecision, lease: str) -> Approved:
    numbers = decision.numbers
    scores = {name: numbers[name] for name in SCORES}
    return Approved(
        decision_id,
        state.tenant,
        state.model,
        str(decision.action),
        str(decision.trigger),
        decision.severity,
        decision.reason,
        scores,
        state.now,
        lease,
    )


def _record(warehouse: Warehouse, decided: Sequence[tuple[State, RetrainingDecision]], lease: str) -> None:
    """Writes the decisions that are not there, a transaction a tenant."""
    rows: dict[str, list[dict]] = {}
    ids = {identity(state, decision) for state, decision in decided}
    table = tables.decisions
    with warehouse.operator() as connection:
        there = set(connection.scalars(sa.select(table.c.decision_id).where(table.c.decision_id.in_(ids))))
    for state, decision in decided:
        decision_id = identity(state, decision)
        if decision_id not in there:
            row = decision_row(
                state.tenant,
                state.model,
                kind=RETRAIN,
                verdict=decision.verdict,
                reason=decision.reason,
                as_of=state.now,
                numbers=decision.numbers
                | {"trigger": decision.trigger, "severity": decision.severity, "action": decision.action}
                | {"since": _since(state)}
                | ({"lease": lease} if lease else {}),
                version=state.champion.number if state.champion else None,
                decision_id=decision_id,
                state=APPROVED if decision.verdict == "retrain" else None,
            )
            rows.setdefault(state.tenant, []).append(row)
    for tenant, of_tenant in rows.items():
        with warehouse.tenant(tenant) as connection:
            warehouse.insert_missing(connection, tables.decisions, of_tenant)


def _since(state: State) -> dt.date | None:
    """Since when outcomes are others, where a degradation says so: a training then begins there."""
    found = state.degradation
    return found.since if found is not None and found.status == "degraded" else None


def waiting(warehouse: Warehouse) -> list[Approved]:
    """Every approved retraining whose run has not ended, oldest first: also those whose sensor died before asking."""
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
    """What became of an approved retraining: DONE or FAILED; the first word counts."""
    table = tables.decisions
    with warehouse.tenant(tenant) as connection:
        connection.execute(
            sa.update(table)
            .where(table.c.tenant_id == tenant, table.c.decision_id == decision_id, table.c.state == APPROVED)
            .values(state=outcome, settled_at=sa.func.now())
        )
