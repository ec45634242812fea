"""Decisions: each is stored with its reasons and the numbers behind it."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from ml_pipeline.resources import tables
from ml_pipeline.work.monitoring.report_store import json_safe

RETRAIN, TRAIN, WATCH = "retrain", "train", "watch"


@dataclass(frozen=True)
class DecisionRecord:
    """One row of ``ml.decisions``.

    A ``decision_id`` that is computed from what was decided makes recording idempotent: the same decision is stored
    once. ``state`` says what became of an approved retraining.
    """

    tenant: str
    model: str
    kind: str
    verdict: str
    reason: str
    as_of: dt.datetime
    numbers: Mapping[str, Any]
    version: int | None = None
    decision_id: uuid.UUID = field(default_factory=uuid.uuid4)
    state: str | None = None

    def row(self) -> dict[str, Any]:
        """The columns and values that the table takes."""
        return {
            "tenant_id": self.tenant,
            "decision_id": self.decision_id,
            "model": self.model,
            "kind": self.kind,
            "verdict": self.verdict,
            "reason": self.reason,
            "numbers": json_safe(self.numbers),
            "version": self.version,
            "as_of": self.as_of,
            "state": self.state,
        }


def record_decision(connection: sa.Connection, record: DecisionRecord) -> bool:
    """Stores a decision; returns False if its identifier is stored already."""
    statement = insert(tables.decisions).values(record.row()).on_conflict_do_nothing()
    return connection.execute(statement).rowcount == 1
