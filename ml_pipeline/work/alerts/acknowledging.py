"""Alerts as people see them: listed with their deliveries, and acknowledged."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ml_pipeline.errors import UserError
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse


class NoSuchAlert(UserError):
    """The alert to acknowledge does not exist; the message lists the open alerts."""


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
    """Marks one alert (by its id, or the beginning of its id) or all open alerts of a model as seen by a person.

    An acknowledged alert does not escalate, and its pending deliveries are cancelled. An alert that was acknowledged
    before stays as it is. Returns the ids of those that this call acknowledged.

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
    found: list[uuid.UUID] = list(connection.scalars(begins.limit(2)))
    if len(found) == 1:
        return found[0]
    if found:
        raise NoSuchAlert(f"tenant {tenant}: the ids of several alerts begin with {given!r}. Write more of the id")
    still_open = sa.select(text).where(table.c.tenant_id == tenant, table.c.acknowledged_at.is_(None))
    known = ", ".join(connection.scalars(still_open.order_by(table.c.as_of.desc()).limit(5))) or "none"
    raise NoSuchAlert(f"tenant {tenant}: there is no alert {given!r}; the open alerts are: {known}")


def list_alerts(
    warehouse: Warehouse,
    *,
    tenants: Sequence[str] = (),
    models: Sequence[str] = (),
    only_open: bool = False,
    limit: int = 200,
) -> list[dict[str, Any]]:
    """Alerts of all tenants, or of those named, newest first, each with its deliveries."""
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
