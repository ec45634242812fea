"""Rows that explain what was done: decisions and alerts."""

from __future__ import annotations

import datetime as dt
import logging
import math
import uuid
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from ml_pipeline.resources import tables

ALERT_SILENCE = dt.timedelta(hours=24)

logger = logging.getLogger("ml_pipeline.alerts")


def record_decision(
    connection: sa.Connection,
    tenant: str,
    model: str,
    *,
    kind: str,
    verdict: str,
    reason: str,
    as_of: dt.datetime,
    numbers: Mapping[str, Any],
    version: int | None = None,
) -> None:
    """Stores a decision with every number behind it."""
    connection.execute(
        sa.insert(tables.decisions).values(
            tenant_id=tenant,
            decision_id=uuid.uuid4(),
            model=model,
            kind=kind,
            verdict=verdict,
            reason=reason,
            numbers=json_safe(numbers),
            version=version,
            as_of=as_of,
        )
    )


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
) -> bool:
    """Stores and logs an alert, unless its kind was raised for this tenant and model within 24 hours of ``as_of``."""
    table = tables.alerts
    recent = (
        sa.select(table.c.alert_id)
        .where(table.c.tenant_id == tenant, table.c.model == model, table.c.kind == kind)
        .where(table.c.as_of > as_of - ALERT_SILENCE, table.c.as_of < as_of + ALERT_SILENCE)
    )
    if connection.scalar(recent.limit(1)) is not None:
        return False
    values = {"kind": kind, "level": level, "message": message, "detail": json_safe(detail), "as_of": as_of}
    connection.execute(sa.insert(table).values(tenant_id=tenant, alert_id=uuid.uuid4(), model=model, **values))
    logger.warning("%s: tenant %s, model %s: %s", level, tenant, model, message)
    return True


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
