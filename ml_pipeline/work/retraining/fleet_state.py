"""The state of many tenants' models on which retraining is decided; a few queries for any number of tenants."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import distinct_on

from ml_pipeline.lifecycle.retraining import (
    Champion,
    CollectedState,
    DegradationFinding,
    DriftFinding,
    Flags,
    LastFit,
    State,
)
from ml_pipeline.lifecycle.schedule import quiet_hours
from ml_pipeline.monitoring.drift.report import severity
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.specs import ModelSpec
from ml_pipeline.timeutil import DAY
from ml_pipeline.training.update import MOST_UPDATES
from ml_pipeline.work.context import Clients
from ml_pipeline.work.deployment.deployer import OPEN, ROLLBACK
from ml_pipeline.work.tenant_settings import AUTO_RETRAIN, HOURS, OFF_PEAK, TenantSettings, read_settings

TRAFFIC_DAYS = 28
TRAFFIC_ENOUGH = 50  # entities of four weeks below which the hours are not meaningful

AHEAD = DAY  # later times were set by a wrong clock; nothing is counted from them

Key = tuple[str, str]  # tenant, model


@dataclass(frozen=True)
class Running:
    """Training runs that have not ended: by tenant and model, and of the whole fleet."""

    by_model: Mapping[Key, int] = field(default_factory=dict)
    fleet: int = 0


@dataclass
class _Facts:
    """What the queries return for one tenant and model."""

    report: sa.RowMapping | None = None
    deployment: sa.RowMapping | None = None
    rolled_back_at: dt.datetime | None = None
    snapshot: sa.RowMapping | None = None
    judgements: list[sa.RowMapping] = field(default_factory=list)  # of finished fits, newest first
    last_attempt: dt.datetime | None = None
    approved: int = 0
    labels: tuple[int, int, int] = (0, 0, 0)  # since the newest fit, the newest training, the newest snapshot

    @property
    def fits(self) -> list[LastFit]:
        return [LastFit(row["as_of"], row["action"] or "train", row["verdict"] != "reject") for row in self.judgements]


def fleet_states(
    clients: Clients, specs: Mapping[str, ModelSpec], tenants: Collection[str], now: dt.datetime, running: Running
) -> list[CollectedState]:
    """The state of every tenant and model given, ordered by tenant and model."""
    chosen = list(tenants)
    with clients.warehouse.operator() as connection:
        switches = read_settings(connection)
        facts = _facts(connection, chosen, now)
        _count_labels(connection, facts, now)
    return [
        _state(
            spec,
            tenant,
            facts[tenant, name],
            now,
            flags=Flags(
                master=clients.settings.auto_retrain != "off",
                model=not clients.settings.auto_retrain_models or name in clients.settings.auto_retrain_models,
                tenant=bool(switches.get(tenant, name, AUTO_RETRAIN, clients.settings.auto_retrain == "all")),
            ),
            running=running,
        )
        for tenant in sorted(chosen)
        for name, spec in specs.items()
    ]


def completed(
    warehouse: Warehouse, states: Sequence[CollectedState], off_peak: tuple[int, ...] | None = None
) -> list[State]:
    """The states, completed with facts that cost a query per tenant; called only for states with a trigger.

    These facts are the number of post-change labels, and the hours in which a training may start: those set for the
    tenant, else the installation's ``off_peak``, else the hours in which the tenant creates the fewest entities.
    """
    if not states:
        return []
    tenants = sorted({state.tenant for state in states})
    with warehouse.operator() as connection:
        switches, traffic = read_settings(connection), _traffic(connection, tenants, states[0].now)
        changed = _labels_since_change(connection, states)
    return [
        State(
            **vars(state),
            quiet_hours=_quiet_hours(switches, state, traffic[state.tenant], off_peak),
            labels_since_change=changed.get((state.tenant, state.model)),
        )
        for state in states
    ]


def _traffic(connection: sa.Connection, tenants: Sequence[str], now: dt.datetime) -> defaultdict[str, Counter[int]]:
    """Each tenant's entities of the last four weeks by hour of the day (UTC)."""
    table = tables.predictions
    hour = sa.extract("hour", table.c.event_time)
    query = (
        sa.select(table.c.tenant_id, hour.label("hour"), sa.func.count().label("items"))
        .where(table.c.tenant_id.in_(tenants), table.c.origin == "live", table.c.event_time <= now)
        .where(table.c.predicted_at > now - 2 * TRAFFIC_DAYS * DAY)
        .where(table.c.event_time > now - TRAFFIC_DAYS * DAY)
        .group_by(table.c.tenant_id, hour)
    )
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for row in connection.execute(query):
        counts[row.tenant_id][int(row.hour)] += row.items
    return counts


def _labels_since_change(connection: sa.Connection, states: Sequence[CollectedState]) -> dict[Key, int]:
    """Number of matured labels of entities created since a change, for states whose degradation dates the change."""
    made, known = tables.predictions, tables.outcomes
    counts: dict[Key, int] = {}
    for state in states:
        since = state.degradation.since if state.degradation is not None else None
        if since is None:
            continue
        came = sa.select(made.c.entity_id).where(
            made.c.tenant_id == state.tenant,
            made.c.model == state.model,
            made.c.event_time >= dt.datetime.combine(since, dt.time(), dt.UTC),
        )
        query = sa.select(sa.func.count()).where(
            known.c.tenant_id == state.tenant,
            known.c.model == state.model,
            known.c.label_time <= state.now,
            known.c.entity_id.in_(came),
        )
        counts[state.tenant, state.model] = connection.scalar(query) or 0
    return counts


def _quiet_hours(
    switches: TenantSettings, state: CollectedState, traffic: Counter[int], off_peak: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    written = switches.get(state.tenant, state.model, OFF_PEAK)
    if isinstance(written, str) and HOURS.fullmatch(written):
        first, last = (int(part) for part in written.split("-"))
        return tuple((first + step) % 24 for step in range((last - first) % 24 or 24))
    if off_peak is not None:
        return off_peak
    if traffic.total() < TRAFFIC_ENOUGH:
        return None
    return quiet_hours([traffic[hour] for hour in range(24)])


def _facts(connection: sa.Connection, tenants: Sequence[str], now: dt.datetime) -> defaultdict[Key, _Facts]:
    facts: defaultdict[Key, _Facts] = defaultdict(_Facts)
    reports = tables.drift_reports
    wanted = (
        "tenant_id",
        "model",
        "day",
        "status",
        "score",
        "alert",
        "reason",
        "current_rows",
        "performance",
        "version",
    )
    query = sa.select(*(reports.c[name] for name in wanted)).where(reports.c.day < now.date())
    for row in _newest(connection, query, reports, tenants, reports.c.day):
        facts[_key(row)].report = row
    deployed = tables.deployments
    standing = sa.select(deployed).where(deployed.c.state != "undone")
    for row in _newest(connection, standing, deployed, tenants, deployed.c.sequence):
        facts[_key(row)].deployment = row
    rollbacks = standing.where(deployed.c.action == ROLLBACK, deployed.c.as_of <= now + AHEAD)
    for row in _newest(connection, rollbacks, deployed, tenants, deployed.c.sequence):
        facts[_key(row)].rolled_back_at = row["as_of"]
    snapshots = tables.feature_sets
    known = ("tenant_id", "model", "as_of", "matured", "quality_score")
    query = sa.select(*(snapshots.c[name] for name in known)).where(snapshots.c.as_of <= now + AHEAD)
    for row in _newest(connection, query, snapshots, tenants, snapshots.c.sequence):
        facts[_key(row)].snapshot = row
    _read_decisions(connection, facts, tenants, now)
    return facts


def _newest(
    connection: sa.Connection, query: sa.Select[Any], table: sa.Table, tenants: Sequence[str], by: sa.Column[Any]
) -> Iterable[sa.RowMapping]:
    """The newest row of each tenant and model."""
    key = (table.c.tenant_id, table.c.model)
    chosen = query.ext(distinct_on(*key)).where(table.c.tenant_id.in_(tenants)).order_by(*key, by.desc())
    return connection.execute(chosen).mappings()


def _read_decisions(
    connection: sa.Connection, facts: Mapping[Key, _Facts], tenants: Sequence[str], now: dt.datetime
) -> None:
    table = tables.decisions
    wanted = ("tenant_id", "model", "kind", "verdict", "as_of", "state", "version")
    ahead = table.c.as_of > now + AHEAD
    query = (
        sa.select(*(table.c[name] for name in wanted), table.c.numbers["action"].astext.label("action"))
        .where(table.c.tenant_id.in_(tenants), sa.or_(~ahead, table.c.state == "approved"))
        .where(sa.or_(table.c.kind.in_(["promote", "train"]), table.c.verdict == "retrain"))
        .order_by(table.c.sequence.desc())
    )
    for row in connection.execute(query).mappings():
        found = facts[_key(row)]
        if row["as_of"] > now + AHEAD:  # it still counts as running until it is settled
            found.approved += 1
        elif row["kind"] == "promote":
            found.judgements.append(row)
        else:  # approved, or refused before a model was fitted
            found.last_attempt = max(found.last_attempt or row["as_of"], row["as_of"])
            found.approved += row["state"] == "approved"


def _count_labels(connection: sa.Connection, facts: Mapping[Key, _Facts], now: dt.datetime) -> None:
    """Outcomes that became known since the newest fit, since the newest training, and since the newest snapshot."""
    never = dt.datetime.fromtimestamp(0, dt.UTC)
    since = []
    for (tenant, model), found in facts.items():
        fits = found.fits
        trained = next((fit.at for fit in fits if fit.action == "train"), never)
        snapshot = found.snapshot["as_of"] if found.snapshot else never
        since.append((tenant, model, fits[0].at if fits else never, trained, snapshot))
    if not since:
        return
    columns: list[sa.ColumnClause[Any]] = [sa.column(name, sa.Text()) for name in ("tenant_id", "model")]
    columns += [sa.column(name, tables.Time) for name in ("fit", "training", "snapshot")]
    arrays = [
        sa.cast(list(values), sa.ARRAY(column.type))
        for values, column in zip(zip(*since, strict=True), columns, strict=True)
    ]
    marks = sa.func.unnest(*arrays).table_valued(*columns).render_derived(name="marks")
    table = tables.outcomes
    counts = [
        sa.func.count().filter(table.c.label_time > marks.c[name]).label(name)
        for name in ("fit", "training", "snapshot")
    ]
    query = (
        sa.select(table.c.tenant_id, table.c.model, *counts)
        .join(marks, (table.c.tenant_id == marks.c.tenant_id) & (table.c.model == marks.c.model))
        .where(table.c.label_time <= now)
        .where(table.c.label_time > sa.func.least(marks.c.fit, marks.c.training, marks.c.snapshot))
        .group_by(table.c.tenant_id, table.c.model)
    )
    for row in connection.execute(query).mappings():
        facts[_key(row)].labels = (row["fit"], row["training"], row["snapshot"])


def _key(row: sa.RowMapping) -> Key:
    return row["tenant_id"], row["model"]


def _state(
    spec: ModelSpec, tenant: str, found: _Facts, now: dt.datetime, *, flags: Flags, running: Running
) -> CollectedState:
    fits = found.fits
    new, since_training, since_snapshot = found.labels
    # The newest trainings in a row whose version was not promoted count as rejections.
    trainings = [fit.promoted for fit in fits if fit.action == "train"]
    # Each update of the champion adds trees, so after some it needs a full training again.
    actions = [fit.action for fit in fits if fit.promoted]
    updates = actions.index("train") if "train" in actions else len(actions)
    return CollectedState(
        tenant=tenant,
        model=spec.name,
        now=now,
        matured=(found.snapshot["matured"] if found.snapshot else 0) + since_snapshot,
        new_labels=new,
        new_labels_since_training=since_training,
        weekly_items=found.report["current_rows"] * 7 / spec.monitoring.current if found.report else 0.0,
        flags=flags,
        drift=_drift(found.report),
        degradation=_degradation(found.report),
        champion=_champion(found),
        last_fit=fits[0] if fits else None,
        last_training=next((fit for fit in fits if fit.action == "train"), None),
        consecutive_rejections=trainings.index(True) if True in trainings else len(trainings),
        last_attempt=found.last_attempt,
        active_runs=max(running.by_model.get((tenant, spec.name), 0), found.approved),
        fleet_trainings=running.fleet,
        quality=found.snapshot["quality_score"] if found.snapshot else None,
        watching=found.deployment is not None and found.deployment["watch"] == OPEN,
        rolled_back_at=found.rolled_back_at,
        updates_left=0 if spec.training.is_mixture else max(MOST_UPDATES - updates, 0),
        is_online=spec.training.is_mixture,
    )


def _drift(report: sa.RowMapping | None) -> DriftFinding | None:
    if report is None:
        return None
    level = severity(None, report["score"]) if report["status"] == "drift" else None
    return DriftFinding(report["day"], report["status"], level, report["score"], report["alert"], report["reason"])


def _degradation(report: sa.RowMapping | None) -> DegradationFinding | None:
    found = report["performance"] if report is not None and report["version"] is not None else None
    if report is None or found is None:
        return None
    since = dt.date.fromisoformat(found["since"]) if found["since"] else None
    return DegradationFinding(
        report["day"], found["status"], found["severity"], found["rise"], since, found["outcomes"]
    )


def _champion(found: _Facts) -> Champion | None:
    row = found.deployment
    if row is None or not row["version"]:
        return None
    trained = (judged["as_of"] for judged in found.judgements if judged["version"] == row["version"])
    return Champion(row["version"], next(trained, row["as_of"]), row["as_of"])
