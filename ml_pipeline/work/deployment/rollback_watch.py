"""The rollback watch: a promoted version is compared daily with the one that it replaced, and rolled back if worse."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass

import pandas as pd
import sqlalchemy as sa

from ml_pipeline.display import command
from ml_pipeline.lifecycle.promotion import Decision
from ml_pipeline.lifecycle.rollback import Activation, Pairs, paired, watch
from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import NoSuchVersion, TamperedArtifact
from ml_pipeline.specs import ModelSpec
from ml_pipeline.timeutil import DAY
from ml_pipeline.work.alerts.raising import NewAlert, raise_alert
from ml_pipeline.work.context import Clients
from ml_pipeline.work.deployment.deployer import KEPT, OPEN, ROLLBACK
from ml_pipeline.work.retraining.decisions import WATCH, DecisionRecord, record_decision
from ml_pipeline.work.scoring import alert_tampered, is_compatible
from ml_pipeline.work.tenant_settings import AUTO_RETRAIN, AUTO_ROLLBACK, read_settings, spec_for, write_setting

ROLLBACKS_TOO_MANY = 2  # within ROLLBACK_DAYS: automatic retraining is switched off
ROLLBACK_DAYS = 30
WATCHED_DAYS = 28
BY_WATCH = "rollback watch"


@dataclass(frozen=True)
class Watched:
    """A deployment whose version is compared with the one that it replaced."""

    deployment_id: uuid.UUID
    tenant: str
    model: str
    version: int
    replaced: int
    activated_at: dt.datetime


def due_watches(clients: Clients, now: dt.datetime) -> list[Watched]:
    """Open watches that were not evaluated for a day, the longest waiting first."""
    table = tables.deployments
    looked = sa.func.coalesce(table.c.watched_at, table.c.as_of)
    query = sa.select(table).where(table.c.watch == OPEN, looked <= now - DAY).order_by(looked, table.c.tenant_id)
    with clients.warehouse.operator() as connection:
        rows = connection.execute(query).mappings().all()
    return [
        Watched(row["deployment_id"], row["tenant_id"], row["model"], row["version"], row["replaced"], row["as_of"])
        for row in rows
    ]


def date_watches(clients: Clients, now: dt.datetime) -> list[Watched]:
    """Restarts, as of ``now``, open watches that are dated more than a day ahead; the clock has been set back since.

    Without this, such a watch would not be due, and would count no outcomes, until its date. ``now`` must be the time
    of the clock, not a simulated one.
    """
    table = tables.deployments
    ahead = (table.c.watch == OPEN) & ((table.c.as_of > now + DAY) | (table.c.watched_at > now + DAY))
    with clients.warehouse.operator() as connection:
        rows = connection.execute(sa.select(table).where(ahead)).mappings().all()
    for row in rows:
        with clients.warehouse.tenant(row["tenant_id"]) as connection:
            connection.execute(
                sa.update(table)
                .where(table.c.tenant_id == row["tenant_id"], table.c.deployment_id == row["deployment_id"], ahead)
                .values(as_of=sa.func.least(table.c.as_of, now), watched_at=sa.func.least(table.c.watched_at, now))
            )
    return [
        Watched(row["deployment_id"], row["tenant_id"], row["model"], row["version"], row["replaced"], now)
        for row in rows
    ]


def look_at(clients: Clients, spec: ModelSpec, watched: Watched, now: dt.datetime) -> Decision:
    """Evaluates one watch: compares the versions, records the decision, and rolls back if automatic rollback is on.

    If the process is killed between two steps, the next evaluation continues: the decision has one identity per day,
    and the watch stays open until the version is kept or gone.
    """
    comparable = _comparable(clients, spec, watched)
    decision = watch(
        _pairs(clients, spec, watched, now),
        Activation(watched.version, watched.replaced if comparable else None, watched.activated_at, spec.task),
        now=now,
        max_days=WATCHED_DAYS,
    )
    with clients.warehouse.tenant(watched.tenant) as connection:
        switches = read_settings(connection)
    automatic = bool(switches.get(watched.tenant, watched.model, AUTO_ROLLBACK, clients.settings.auto_rollback))
    _record(clients, watched, decision, automatic, now)
    if decision.verdict == "roll_back" and automatic and _rolled_back(clients, watched, decision, now):
        _disable_after_repeated_rollbacks(clients, watched, now)
    _close(clients, watched, decision, now)
    return decision


def _rolled_back(clients: Clients, watched: Watched, decision: Decision, now: dt.datetime) -> bool:
    """Rolls back; returns False, after an alert, if the files of the previous version differ from the registered ones.

    The watch then stays open, and the next evaluation tries again.
    """
    try:
        clients.deployer.roll_back(
            watched.tenant,
            watched.model,
            to=watched.replaced,
            reason=f"{BY_WATCH}: {decision.reason}",
            as_of=now,
            expected=watched.version,
        )
    except TamperedArtifact as error:
        alert_tampered(clients, watched.tenant, watched.model, watched.replaced, error)
        return False
    return True


def _comparable(clients: Clients, spec: ModelSpec, watched: Watched) -> bool:
    """Whether the previous version still exists and fits the specification, so that it could serve again."""
    try:
        own = spec_for(clients.warehouse, spec, watched.tenant)
        return is_compatible(own, clients.registry.version(watched.tenant, watched.model, watched.replaced))
    except (NoSuchVersion, TamperedArtifact):
        return False


def _pairs(clients: Clients, spec: ModelSpec, watched: Watched, now: dt.datetime) -> Pairs:
    made, known = tables.predictions, tables.outcomes
    outcomes = sa.select(known.c.entity_id, known.c.label_time, known.c.value.label("label")).where(
        known.c.tenant_id == watched.tenant,
        known.c.model == watched.model,
        known.c.label_time > watched.activated_at,
        known.c.label_time <= now,
    )
    names = ("entity_id", "predicted_at", "value", "version", "origin")
    predictions = sa.select(*(made.c[name] for name in names)).where(
        made.c.tenant_id == watched.tenant,
        made.c.model == watched.model,
        made.c.version.in_([watched.version, watched.replaced]),
        made.c.entity_id.in_(outcomes.with_only_columns(known.c.entity_id)),
    )
    with clients.warehouse.tenant(watched.tenant) as connection:
        matured = pd.DataFrame(connection.execute(outcomes).all(), columns=["entity_id", "label_time", "label"])
        predicted = pd.DataFrame(connection.execute(predictions).all(), columns=list(names))
    matured["label_time"] = pd.to_datetime(matured["label_time"], utc=True)
    predicted["predicted_at"] = pd.to_datetime(predicted["predicted_at"], utc=True)
    return paired(spec.task, matured, predicted, watched.version, watched.replaced)


def _record(clients: Clients, watched: Watched, decision: Decision, automatic: bool, now: dt.datetime) -> None:
    """Stores the decision of the day, and raises an alert the first time that the version is worse."""
    table = tables.decisions
    earlier = sa.select(table.c.decision_id).where(
        table.c.tenant_id == watched.tenant,
        table.c.model == watched.model,
        table.c.kind == WATCH,
        table.c.version == watched.version,
        table.c.verdict == "roll_back",
        table.c.as_of < now - dt.timedelta(hours=1),
        table.c.as_of >= watched.activated_at,
    )
    with clients.warehouse.tenant(watched.tenant) as connection:
        is_known = connection.scalar(earlier.limit(1)) is not None
        record = DecisionRecord(
            watched.tenant,
            watched.model,
            kind=WATCH,
            verdict=decision.verdict,
            reason=decision.reason,
            as_of=now,
            numbers=decision.numbers,
            version=watched.version,
            decision_id=uuid.uuid5(watched.deployment_id, f"{decision.verdict} {now.date()}"),
        )
        record_decision(connection, record)
        if decision.verdict != "roll_back" or is_known:
            return
        done = (
            f"version {watched.replaced} will serve again"
            if automatic
            else "automatic rollback is off. To return to the previous version: "
            + command("ml-pipeline", "rollback", "--tenant", watched.tenant, "--model", watched.model)
        )
        alert = NewAlert(
            watched.tenant,
            watched.model,
            kind="rollback",
            level="HIGH" if automatic else "CRITICAL",
            message=f"{decision.reason}; {done}",
            as_of=now,
            detail={"version": watched.version, "replaced": watched.replaced, **decision.numbers},
        )
        raise_alert(connection, alert)


def _close(clients: Clients, watched: Watched, decision: Decision, now: dt.datetime) -> None:
    """Marks the watch as evaluated, and ends it if the version is kept; a rollback ends it by its own steps."""
    table = tables.deployments
    over = now - watched.activated_at >= WATCHED_DAYS * DAY  # the version is worse, and a person left it in place
    values = {"watched_at": now} | ({"watch": KEPT} if decision.verdict == "keep" or over else {})
    with clients.warehouse.tenant(watched.tenant) as connection:
        connection.execute(
            sa.update(table)
            .where(table.c.tenant_id == watched.tenant, table.c.deployment_id == watched.deployment_id)
            .where(table.c.watch == OPEN)
            .values(values)
        )


def _disable_after_repeated_rollbacks(clients: Clients, watched: Watched, now: dt.datetime) -> None:
    """After two rollbacks within 30 days, switches automatic retraining of the model off until a person reviews it."""
    table = tables.deployments
    query = sa.select(sa.func.count()).where(
        table.c.tenant_id == watched.tenant,
        table.c.model == watched.model,
        table.c.action == ROLLBACK,
        table.c.state == "done",
        table.c.as_of > now - ROLLBACK_DAYS * DAY,
        table.c.as_of <= now,
    )
    with clients.warehouse.tenant(watched.tenant) as connection:
        count = connection.scalar(query) or 0
    if count < ROLLBACKS_TOO_MANY:
        return
    write_setting(clients.warehouse, watched.tenant, watched.model, AUTO_RETRAIN, False, BY_WATCH)
    switch_on = command(
        *("ml-pipeline", "set", "auto_retrain", "on", "--tenant", watched.tenant, "--model", watched.model)
    )
    alert = NewAlert(
        watched.tenant,
        watched.model,
        kind="retraining_switched_off",
        level="CRITICAL",
        message=f"{count} versions were rolled back within {ROLLBACK_DAYS} days, so automatic retraining is off "
        f"for this model. Look at its data, then: {switch_on}",
        as_of=now,
        detail={"rollbacks": count},
    )
    with clients.warehouse.tenant(watched.tenant) as connection:
        raise_alert(connection, alert)
