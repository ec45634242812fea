"""Alerts as rows: raised with their deliveries in one transaction, and escalated."""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from ml_pipeline.monitoring import alert_rules
from ml_pipeline.resources import tables
from ml_pipeline.resources.notifier import thresholds
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings, load_settings
from ml_pipeline.severity import LEVELS, rank
from ml_pipeline.timeutil import DAY
from ml_pipeline.work.monitoring.report_store import json_safe

MESSAGES = 500  # messages per channel that one round sends, and alerts that one round escalates
AHEAD = DAY  # longer than anything waits: what is due later was queued before the clock went back

logger = logging.getLogger("ml_pipeline.alerts")


@dataclass(frozen=True)
class NewAlert:
    """A finding about a tenant's model that a person should know.

    Parameters
    ----------
    kind : str
        Kind of the finding, such as ``drift``; alerts of one kind within the suppression period count as one.
    level : str
        LOW, MEDIUM, HIGH or CRITICAL.
    message : str
        What is wrong, where, and what to do.
    as_of : datetime
        As-of time of the finding; that of a backfill may be far in the past.
    detail : mapping
        Numbers behind the message, stored as JSON.
    """

    tenant: str
    model: str
    kind: str
    level: str
    message: str
    as_of: dt.datetime
    detail: Mapping[str, Any]


def raise_alert(
    connection: sa.Connection, alert: NewAlert, *, settings: Settings | None = None, now: dt.datetime | None = None
) -> bool:
    """Stores an alert and queues its deliveries in the same transaction; returns whether it is new or became worse.

    Within ``alert_silence_hours`` of ``as_of``, an alert of the same tenant, model and kind only counts up (once for
    each ``as_of``, so that repeated work changes nothing), or raises the level of the stored one. An alert about a time
    longer ago than ``alert_news_hours`` is stored and not delivered. Other processes deliver; this one only logs.

    Raises
    ------
    ValueError
        If the level is unknown.
    """
    settings = load_settings() if settings is None else settings
    now = dt.datetime.now(dt.UTC) if now is None else now
    one_at_a_time(connection, alert.tenant, alert.model)
    earlier = _recent(connection, alert, dt.timedelta(hours=settings.alert_silence_hours))
    verdict, belongs_to = alert_rules.assess(earlier, alert.level)
    if verdict == alert_rules.AGAIN and belongs_to is not None:
        _count_up(connection, alert, uuid.UUID(belongs_to.alert_id))
        return False
    report = {"level": alert.level, "message": alert.message, "detail": json_safe(alert.detail)}
    if verdict == alert_rules.RAISED and belongs_to is not None:
        alert_id = uuid.UUID(belongs_to.alert_id)
        _count_up(connection, alert, alert_id, **report, raised_at=now, escalated_at=None, escalated_level=None)
    else:
        alert_id = uuid.uuid4()
        key = {"tenant_id": alert.tenant, "alert_id": alert_id, "model": alert.model, "kind": alert.kind}
        values = key | report | {"as_of": alert.as_of, "last_seen_at": alert.as_of, "raised_at": now}
        connection.execute(sa.insert(tables.alerts).values(values))
    if alert_rules.is_news(alert.as_of, now, dt.timedelta(hours=settings.alert_news_hours)):
        pending = PendingAlert(alert.tenant, alert.model, alert_id, "raised", alert.level)
        queue_deliveries(connection, pending, settings, now)
    logger.warning("%s: tenant %s, model %s: %s", alert.level, alert.tenant, alert.model, alert.message)
    return True


def one_at_a_time(connection: sa.Connection, tenant: str, model: str) -> None:
    """Makes other transactions that raise or escalate alerts of this tenant and model wait until this one ends."""
    lock = sa.func.pg_advisory_xact_lock(sa.func.hashtext("ml_pipeline.alerts"), sa.func.hashtext(f"{tenant} {model}"))
    connection.execute(sa.select(lock))


def _recent(connection: sa.Connection, alert: NewAlert, silence: dt.timedelta) -> list[alert_rules.OpenAlert]:
    """Stored alerts of the same tenant, model and kind, less than ``silence`` before or after this one."""
    table = tables.alerts
    query = (
        sa.select(table.c.alert_id, table.c.level, table.c.acknowledged_at)
        .where(table.c.tenant_id == alert.tenant, table.c.model == alert.model, table.c.kind == alert.kind)
        .where(table.c.as_of > alert.as_of - silence, table.c.as_of < alert.as_of + silence)
        .order_by(table.c.sequence)
    )
    return [
        alert_rules.OpenAlert(str(row.alert_id), row.level, row.acknowledged_at is not None)
        for row in connection.execute(query)
    ]


def _count_up(connection: sa.Connection, alert: NewAlert, alert_id: uuid.UUID, **values: Any) -> None:
    """Counts an occurrence of a stored alert, and sets its ``values``."""
    table = tables.alerts
    seen = sa.func.coalesce(table.c.last_seen_at, table.c.as_of)
    later = sa.case((seen < alert.as_of, 1), else_=0)
    counted = {"occurrences": table.c.occurrences + later, "last_seen_at": sa.func.greatest(seen, alert.as_of)}
    this = (table.c.tenant_id == alert.tenant) & (table.c.alert_id == alert_id)
    connection.execute(sa.update(table).where(this).values(counted | values))


@dataclass(frozen=True)
class PendingAlert:
    """A stored alert to send, and the occasion: ``raised`` or ``escalated``."""

    tenant: str
    model: str
    alert_id: uuid.UUID
    occasion: str
    level: str


def queue_deliveries(connection: sa.Connection, alert: PendingAlert, settings: Settings, now: dt.datetime) -> None:
    """Stores one delivery for each channel that gets alerts of this level; it is due when the cool-down ends."""
    level = alert.level
    names = [name for name, lowest in thresholds(settings).items() if rank(level) >= rank(lowest)]
    if not names:
        return
    due = _due_at(connection, alert, dt.timedelta(minutes=settings.alert_cool_down_minutes), now)
    fixed = {"tenant_id": alert.tenant, "alert_id": alert.alert_id, "model": alert.model}
    fixed |= {"occasion": alert.occasion, "level": level}
    fixed |= {"state": "pending", "due_at": due, "next_attempt_at": due}
    rows = [fixed | {"channel": name} for name in names]
    connection.execute(insert(tables.alert_deliveries).on_conflict_do_nothing(), rows)


def _due_at(connection: sa.Connection, alert: PendingAlert, cool_down: dt.timedelta, now: dt.datetime) -> dt.datetime:
    """When a notification is due. If that is now, the model's waiting notifications become due with it."""
    table = tables.alert_deliveries
    of_model = (table.c.tenant_id == alert.tenant) & (table.c.model == alert.model)
    recent = of_model & (table.c.due_at > now - cool_down) & (table.c.state != "cancelled")
    others = connection.execute(sa.select(table.c.level, table.c.due_at).where(recent).distinct()).all()
    earlier = [alert_rules.Notification(*other) for other in others]
    due = alert_rules.due_at(now, alert.level, earlier, cool_down)
    if due == now:
        key = list(table.primary_key)
        # A row that another process has locked is being sent right now.
        waiting = sa.select(*key).where(of_model, table.c.due_at > now, table.c.state == "pending")
        taken = sa.tuple_(*key).in_(waiting.with_for_update(skip_locked=True))
        connection.execute(sa.update(table).where(taken).values(due_at=now, next_attempt_at=now))
    return due


def escalate(warehouse: Warehouse, settings: Settings, *, now: dt.datetime) -> int:
    """Notifies people once more of HIGH and CRITICAL alerts that nobody acknowledged in time; returns how many."""
    if not settings.alert_escalation_hours:
        return 0
    table, deliveries = tables.alerts, tables.alert_deliveries
    levels = [level for level in LEVELS if alert_rules.escalation(level)]
    notified = sa.exists().where(deliveries.c.tenant_id == table.c.tenant_id, deliveries.c.alert_id == table.c.alert_id)
    overdue = (
        table.c.acknowledged_at.is_(None)
        & table.c.escalated_at.is_(None)
        & table.c.level.in_(levels)
        & (
            (table.c.raised_at <= now - dt.timedelta(hours=settings.alert_escalation_hours))
            | (table.c.raised_at > now + AHEAD)
        )
        & notified
    )
    query = sa.select(table.c.tenant_id, table.c.model, table.c.alert_id).where(overdue)
    with warehouse.operator() as connection:
        found = connection.execute(query.order_by(table.c.raised_at).limit(MESSAGES)).all()
    return sum(_escalate(warehouse, settings, overdue, now, *alert) for alert in found)


def _escalate(
    warehouse: Warehouse,
    settings: Settings,
    overdue: sa.ColumnElement[bool],
    now: dt.datetime,
    tenant: str,
    model: str,
    alert_id: uuid.UUID,
) -> bool:
    table = tables.alerts
    this = (table.c.tenant_id == tenant) & (table.c.alert_id == alert_id)
    with warehouse.tenant(tenant) as connection:
        one_at_a_time(connection, tenant, model)
        level = connection.scalar(sa.select(table.c.level).where(this, overdue))
        worse = None if level is None else alert_rules.escalation(level)
        if worse is None:  # acknowledged, or escalated by another process, since it was found
            return False
        connection.execute(sa.update(table).where(this).values(escalated_at=now, escalated_level=worse))
        pending = PendingAlert(tenant, model, alert_id, "escalated", worse)
        queue_deliveries(connection, pending, settings, now)
    return True
