"""Alerts as rows, and values as JSON takes them."""

from __future__ import annotations

import datetime as dt
import logging
import math
import uuid
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from ml_pipeline.monitoring import alert_rules
from ml_pipeline.resources import tables
from ml_pipeline.resources.notifier import thresholds
from ml_pipeline.settings import Settings, load_settings

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
    names = [
        name for name, lowest in thresholds(settings).items() if alert_rules.rank(level) >= alert_rules.rank(lowest)
    ]
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


def json_safe(value: Any) -> Any:
    """The value with what JSON cannot say (NaN, infinity, NumPy scalars, times) replaced by what it can."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (dt.datetime, dt.date)):
        return value.isoformat()
    return value
