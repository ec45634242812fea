"""Decisions: always stored, with every reason and number behind them."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from ml_pipeline.resources import tables
from ml_pipeline.work.monitoring.report_store import json_safe

RETRAIN, TRAIN, WATCH = "retrain", "train", "watch"


def decision_row(
    tenant: str,
    model: str,
    *,
    kind: str,
    verdict: str,
    reason: str,
    as_of: dt.datetime,
    numbers: Mapping[str, Any],
    version: int | None = None,
    decision_id: uuid.UUID | None = None,
    state: str | None = None,
) -> dict[str, Any]:
    """A row of ``ml.decisions``. An identifier that follows from what was decided makes recording it idempotent."""
    return {
        "tenant_id": tenant,
        "decision_id": decision_id or uuid.uuid4(),
        "model": model,
        "kind": kind,
        "verdict": verdict,
        "reason": reason,
        "numbers": json_safe(numbers),
        "version": version,
        "as_of": as_of,
        "state": state,
    }


def record_decision(connection: sa.Connection, tenant: str, model: str, **decision: Any) -> bool:
    """Stores a decision (the arguments of :func:`decision_row`); False where its identifier is there already."""
    row = decision_row(tenant, model, **decision)
    return connection.execute(insert(tables.decisions).values(row).on_conflict_do_nothing()).rowcount == 1
