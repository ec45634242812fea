"""The feature snapshots of one tenant's model: how one is stored, and how a training reads the newest."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import sqlalchemy as sa

from ml_pipeline.errors import UserError
from ml_pipeline.features.feedback import VERDICT, with_feedback
from ml_pipeline.features.point_in_time import repeated_rows
from ml_pipeline.features.quality.gates import failed_gates
from ml_pipeline.features.quality.measures import assess
from ml_pipeline.resources import tables
from ml_pipeline.specs import ModelSpec
from ml_pipeline.work.context import Clients
from ml_pipeline.work.feedback import read_feedback
from ml_pipeline.work.monitoring.report_store import json_safe
from ml_pipeline.work.training.sharing import typical


class SnapshotUnknown(UserError):
    """The tenant has no feature snapshot of the model that is to be trained; the message says how to make one."""


@dataclass(frozen=True)
class TenantModel:
    """One tenant's model: its specification with the tenant's settings applied, and the clients."""

    clients: Clients
    spec: ModelSpec
    tenant: str


@dataclass(frozen=True)
class Snapshot:
    """A stored feature frame with its quality report."""

    hash: str
    as_of: dt.datetime
    quality: Mapping[str, Any]
    frame: pd.DataFrame


def write_snapshot(of: TenantModel, rows: pd.DataFrame, frame: pd.DataFrame, as_of: dt.datetime) -> dict[str, Any]:
    """Stores the feature frame that was built from the source rows, with its quality; returns metadata for people."""
    clients, spec, tenant = of.clients, of.spec, of.tenant
    repeated = repeated_rows(spec, rows, as_of)
    quality = assess(spec, rows, frame, as_of)
    kept = frame
    if spec.label.feedback:
        kept = with_feedback(spec, frame, read_feedback(clients.warehouse, spec, tenant, as_of), as_of)
    stored_quality = quality.to_dict()
    digest, url = clients.snapshots.write(tenant, spec.name, kept)
    matured = int((frame["state"] == "matured").sum())
    row = {
        "tenant_id": tenant,
        "model": spec.name,
        "snapshot_hash": digest,
        "as_of": as_of,
        "rows": len(frame),
        "matured": matured,
        "path": url,
        "quality_score": quality.score,
        "quality": json_safe(stored_quality),
        "typical": typical(spec, kept),
        "created_at": dt.datetime.now(dt.UTC),
    }
    with clients.warehouse.tenant(tenant) as connection:
        clients.warehouse.upsert(connection, tables.feature_sets, [row])
    worst = min(quality.measures, key=lambda measure: measure.score)
    return {
        "rows": len(frame),
        "matured": matured,
        "open": int((frame["state"] == "open").sum()),
        "rows left out, repeating an entity": repeated or None,
        "labels from feedback": int(kept[VERDICT].notna().sum()) if VERDICT in kept else None,
        "quality": round(quality.score, 1),
        "weakest measure": f"{worst.name} ({worst.score:.0f} of 100). {worst.recommendation or ''}".strip(),
        "failed gates": "; ".join(gate.sentence() for gate in failed_gates(spec.gate, stored_quality)),
        "patterns": quality.patterns.sentence(),
        "as of": as_of.isoformat(),
        "snapshot": digest[:24],
    }


def newest_snapshot(of: TenantModel) -> Snapshot:
    """The newest snapshot and its frame, read once, so that a later one of another run does not affect this training.

    Raises
    ------
    SnapshotUnknown
        If the tenant has no snapshot for the model.
    """
    table = tables.feature_sets
    query = (
        sa.select(table)
        .where(table.c.tenant_id == of.tenant, table.c.model == of.spec.name)
        .order_by(table.c.sequence.desc())
        .limit(1)
    )
    with of.clients.warehouse.tenant(of.tenant) as connection:
        row = connection.execute(query).mappings().first()
    if row is None:
        raise SnapshotUnknown(
            f"tenant {of.tenant}, model {of.spec.name}: there is no feature snapshot. "
            f"Materialize {of.spec.name}/features for it first"
        )
    frame = of.clients.snapshots.read(row["path"], row["snapshot_hash"], tenant=of.tenant)
    return Snapshot(row["snapshot_hash"], row["as_of"], row["quality"], frame)
