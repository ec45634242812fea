"""Alerts as rows: raised with their deliveries in one transaction, escalated, acknowledged and listed."""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from ml_pipeline.errors import UserError
from ml_pipeline.monitoring import alert_rules
from ml_pipeline.resources import tables
from ml_pipeline.resources.notifier import thresholds
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings, load_settings
from ml_pipeline.severity import LEVELS, rank
from ml_pipeline.timeutil import DAY
from ml_pipeline.work.monitoring.report_store import json_safe

MESSAGES = 500  # that one round sends by a channel, and alerts that one round escalates
AHEAD = DAY  # longer than anything waits: what is put off further was so before the clock went back

logger = logging.getLogger("ml_pipeline.alerts")


def raise_alert(
    connection: sa.Connection,
    tenant: str,
    model: str,
    *,
    kind: str,
    level: str,
    message: str,
    as_of: dt.datetime,
    detail: Mapping[str, Any],
    settings: Settings | None = None,
    now: dt.datetime | None = None,
) -> bool:
    """Stores an alert, and in the same transaction that it is to be delivered; returns whether it is new or got worse.

    Within ``alert_silence_hours`` of ``as_of`` the same kind of the same tenant and model only counts up (once for
    each ``as_of``, so that work done again changes nothing), or raises the level of the one that stands. What is about
    a moment longer ago than ``alert_news_hours`` is stored and not delivered. Nothing is sent here; it is written into
    this process's own log.

    Raises
    ------
    ValueError
        If the level is none.
    """
    settings = load_settings() if settings is None else settings
    now = dt.datetime.now(dt.UTC) if now is None else now
    one_at_a_time(connection, tenant, model)
    standing = _standing(connection, tenant, model, kind, as_of, dt.timedelta(hours=settings.alert_silence_hours))
    verdict, belongs_to = alert_rules.assess(standing, level)
    if verdict == alert_rules.AGAIN and belongs_to is not None:
        _count_up(connection, tenant, uuid.UUID(belongs_to.alert_id), as_of)
        return False
    report = {"level": level, "message": message, "detail": json_safe(detail)}
    if verdict == alert_rules.RAISED and belongs_to is not None:
        alert_id = uuid.UUID(belongs_to.alert_id)
        _count_up(connection, tenant, alert_id, as_of, **report, raised_at=now, escalated_at=None, escalated_level=None)
    else:
        alert_id = uuid.uuid4()
        key = {"tenant_id": tenant, "alert_id": alert_id, "model": model, "kind": kind}
        values = key | report | {"as_of": as_of, "last_seen_at": as_of, "raised_at": now}
        connection.execute(sa.insert(tables.alerts).values(values))
    if alert_rules.is_news(as_of, now, dt.timedelta(hours=settings.alert_news_hours)):
        queue_deliveries(connection, tenant, model, alert_id, "raised", level, settings, now)
    logger.warning("%s: tenant %s, model %s: %s", level, tenant, model, message)
    return True


def one_at_a_time(connection: sa.Connection, tenant: str, model: str) -> None:
    """Until the transaction ends, no other one raises or escalates alerts of this tenant and model."""
    lock = sa.func.pg_advisory_xact_lock(sa.func.hashtext("ml_pipeline.alerts"), sa.func.hashtext(f"{tenant} {model}"))
    connection.execute(sa.select(lock))


def _standing(
    connection: sa.Connection, tenant: str, model: str, kind: str, as_of: dt.datetime, silence: dt.timedelta
) -> list[alert_rules.OpenAlert]:
    table = tables.alerts
    query = (
        sa.select(table.c.alert_id, table.c.level, table.c.acknowledged_at)
        .where(table.c.tenant_id == tenant, table.c.model == model, table.c.kind == kind)
        .where(table.c.as_of > as_of - silence, table.c.as_of < as_of + silence)
        .order_by(table.c.sequence)
    )
    return [
        alert_rules.OpenAlert(str(row.alert_id), row.level, row.acknowledged_at is not None)
        for row in connection.execute(query)
    ]


def _count_up(connection: sa.Connection, tenant: str, alert_id: uuid.UUID, as_of: dt.datetime, **values: Any) -> None:
    table = tables.alerts
    seen = sa.func.coalesce(table.c.last_seen_at, table.c.as_of)
    later = sa.case((seen < as_of, 1), else_=0)
    counted = {"occurrences": table.c.occurrences + later, "last_seen_at": sa.func.greatest(seen, as_of)}
    this = (table.c.tenant_id == tenant) & (table.c.alert_id == alert_id)
    connection.execute(sa.update(table).where(this).values(counted | values))


def queue_deliveries(
    connection: sa.Connection,
    tenant: str,
    model: str,
    alert_id: uuid.UUID,
    occasion: str,
    level: str,
    settings: Settings,
    now: dt.datetime,
) -> None:
    """One row for each channel that gets alerts of this level, due when the cool-down lets it."""
    names = [name for name, lowest in thresholds(settings).items() if rank(level) >= rank(lowest)]
    if not names:
        return
    due = _due_at(connection, tenant, model, level, settings, now)
    fixed = {"tenant_id": tenant, "alert_id": alert_id, "occasion": occasion, "level": level, "model": model}
    fixed |= {"state": "pending", "due_at": due, "next_attempt_at": due}
    rows = [fixed | {"channel": name} for name in names]
    connection.execute(insert(tables.alert_deliveries).on_conflict_do_nothing(), rows)


def _due_at(
    connection: sa.Connection, tenant: str, model: str, level: str, settings: Settings, now: dt.datetime
) -> dt.datetime:
    """When a notification of this level is due. One that is due at once takes along what waits."""
    table = tables.alert_deliveries
    cool_down = dt.timedelta(minutes=settings.alert_cool_down_minutes)
    of_model = (table.c.tenant_id == tenant) & (table.c.model == model)
    recent = of_model & (table.c.due_at > now - cool_down) & (table.c.state != "cancelled")
    others = connection.execute(sa.select(table.c.level, table.c.due_at).where(recent).distinct()).all()
    due = alert_rules.due_at(now, level, [alert_rules.Notification(*other) for other in others], cool_down)
    if due == now:
        key = list(table.primary_key)
        # Rows that somebody holds are being sent at this moment.
        waiting = sa.select(*key).where(of_model, table.c.due_at > now, table.c.state == "pending")
        taken = sa.tuple_(*key).in_(waiting.with_for_update(skip_locked=True))
        connection.execute(sa.update(table).where(taken).values(due_at=now, next_attempt_at=now))
    return due


def escalate(warehouse: Warehouse, settings: Settings, *, now: dt.datetime) -> int:
    """Tells people again, once, of HIGH and CRITICAL alerts that nobody acknowledged in time; returns how many."""
    if not settings.alert_escalation_hours:
        return 0
    table, deliveries = tables.alerts, tables.alert_deliveries
    levels = [level for level in LEVELS if alert_rules.escalation(level)]
    told = sa.exists().where(deliveries.c.tenant_id == table.c.tenant_id, deliveries.c.alert_id == table.c.alert_id)
    overdue = (
        table.c.acknowledged_at.is_(None)
        & table.c.escalated_at.is_(None)
        & table.c.level.in_(levels)
        & (
            (table.c.raised_at <= now - dt.timedelta(hours=settings.alert_escalation_hours))
            | (table.c.raised_at > now + AHEAD)
        )
        & told
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
        if worse is None:  # acknowledged, or escalated by another, since it was found
            return False
        connection.execute(sa.update(table).where(this).values(escalated_at=now, escalated_level=worse))
        queue_deliveries(connection, tenant, model, alert_id, "escalated", worse, settings, now)
    return True


class NoSuchAlert(UserError):
    """The alert to be acknowledged does not exist; the message lists those that are open."""


def acknowledge(
    warehouse: Warehouse,
    tenant: str,
    *,
    by: str,
    now: dt.datetime,
    alert: str | None = None,
    model: str | None = None,
    note: str | None = None,
) -> list[str]:
    """Marks one alert (by its id, or the id's beginning) or all open ones of a model as seen by a person.

    They do not escalate any more, and what was still to be sent of them is not. Returns the ids; the first who
    acknowledged an alert stays the one.

    Raises
    ------
    NoSuchAlert
        If no alert, or more than one, has the id.
    """
    table, deliveries = tables.alerts, tables.alert_deliveries
    of_tenant = table.c.tenant_id == tenant
    with warehouse.tenant(tenant) as connection:
        if alert is not None:
            chosen = table.c.alert_id == _alert_id(connection, tenant, alert)
        else:
            chosen = sa.true() if model is None else table.c.model == model
        values = {"acknowledged_at": now, "acknowledged_by": by, "acknowledged_note": note}
        update = sa.update(table).where(of_tenant, chosen, table.c.acknowledged_at.is_(None)).values(values)
        done = list(connection.scalars(update.returning(table.c.alert_id)))
        waiting = (deliveries.c.tenant_id == tenant) & (deliveries.c.state == "pending")
        connection.execute(
            sa.update(deliveries).where(waiting, deliveries.c.alert_id.in_(done)).values(state="cancelled")
        )
    return [str(alert_id) for alert_id in done]


def _alert_id(connection: sa.Connection, tenant: str, given: str) -> uuid.UUID:
    table = tables.alerts
    text = sa.cast(table.c.alert_id, sa.Text)
    begins = sa.select(table.c.alert_id).where(
        table.c.tenant_id == tenant, text.startswith(given.lower(), autoescape=True)
    )
    found = list(connection.scalars(begins.limit(2)))
    if len(found) == 1:
        return found[0]
    if found:
        raise NoSuchAlert(f"tenant {tenant}: several alerts begin with {given!r}. Give more of the id")
    still = sa.select(text).where(table.c.tenant_id == tenant, table.c.acknowledged_at.is_(None))
    known = ", ".join(connection.scalars(still.order_by(table.c.as_of.desc()).limit(5))) or "none"
    raise NoSuchAlert(f"tenant {tenant}: there is no alert {given!r}; open ones are: {known}")


def list_alerts(
    warehouse: Warehouse,
    *,
    tenants: Sequence[str] = (),
    models: Sequence[str] = (),
    only_open: bool = False,
    limit: int = 200,
) -> list[dict[str, Any]]:
    """Alerts of all tenants, or of those named, newest first, each with its deliveries by channel."""
    table, deliveries = tables.alerts, tables.alert_deliveries
    query = sa.select(table).order_by(table.c.as_of.desc(), table.c.sequence.desc()).limit(limit)
    if tenants:
        query = query.where(table.c.tenant_id.in_(tenants))
    if models:
        query = query.where(table.c.model.in_(models))
    if only_open:
        query = query.where(table.c.acknowledged_at.is_(None))
    with warehouse.operator() as connection:
        alerts = [dict(row) for row in connection.execute(query).mappings()]
        ids = [alert["alert_id"] for alert in alerts]
        of_alerts = deliveries.c.tenant_id.in_({alert["tenant_id"] for alert in alerts}), deliveries.c.alert_id.in_(ids)
        sent = sa.select(deliveries).where(*of_alerts).order_by(deliveries.c.created_at, deliveries.c.channel)
        rows = connection.execute(sent).mappings().all()
    by_alert: dict[tuple[str, uuid.UUID], list[dict[str, Any]]] = {}
    names = ("channel", "occasion", "level", "state", "attempts", "due_at", "sent_at", "last_error")
    for row in rows:
        by_alert.setdefault((row["tenant_id"], row["alert_id"]), []).append({name: row[name] for name in names})
    return [alert | {"deliveries": by_alert.get((alert["tenant_id"], alert["alert_id"]), [])} for alert in alerts]
