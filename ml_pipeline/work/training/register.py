"""Registers a fitted model as a version, with tags that say where it came from."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import Any

import pandas as pd
import sqlalchemy as sa

from ml_pipeline.lifecycle.versions import SpecFingerprint, next_semantic
from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import Registration, Version
from ml_pipeline.resources.scratch import scratch_folder
from ml_pipeline.training.reporting.card import Origin, summary
from ml_pipeline.training.trained import Trained
from ml_pipeline.work.training.search import search_params, search_tags
from ml_pipeline.work.training.snapshot import Snapshot, TenantModel
from ml_pipeline.work.training.version_files import fingerprint_of, logged_metrics, write_files

TRAIN, UPDATE = "train", "update"
CHANGED_AT = "changed_at"  # tag of a version that was trained on post-change rows only


@dataclass(frozen=True)
class RetrainingRequest:
    """The stored decision that requested a training."""

    decision: str
    reason: str
    numbers: dict[str, Any]

    @property
    def tags(self) -> dict[str, str]:
        """Why the version was trained, as tags in MLflow."""
        return {
            "trigger": self.numbers["trigger"],
            "severity": self.numbers["severity"] or "none",
            "why": self.reason,
            "asked_by": self.decision,
        }


@dataclass(frozen=True)
class Training:
    """The inputs of one training of a tenant's model.

    Parameters
    ----------
    of : TenantModel
        Tenant, specification and clients.
    snapshot : Snapshot
        The feature rows.
    request : RetrainingRequest or None
        The decision that requested the training, if one did.
    changed_at : datetime or None
        When the outcomes changed, according to the request or the champion: rows from before are left out.
    serves_from : datetime
        From when the version serves if it is promoted.
    plots : bool
        Whether plots of the version are registered with it.
    """

    of: TenantModel
    snapshot: Snapshot
    request: RetrainingRequest | None
    changed_at: dt.datetime | None
    serves_from: dt.datetime
    plots: bool


def read_request(of: TenantModel, decision: str) -> RetrainingRequest | None:
    """The decision that requested a training; None if the run was started without one."""
    if not decision:
        return None
    table = tables.decisions
    query = sa.select(table.c.reason, table.c.numbers).where(
        table.c.tenant_id == of.tenant, table.c.decision_id == uuid.UUID(decision)
    )
    with of.clients.warehouse.tenant(of.tenant) as connection:
        row = connection.execute(query).first()
    return None if row is None else RetrainingRequest(decision, row.reason, row.numbers)


def change_of_outcomes(of: TenantModel, request: RetrainingRequest | None) -> dt.datetime | None:
    """When the outcomes changed: according to the request, else as recorded with the champion; None if they did not."""
    if request is not None and request.numbers.get("since"):
        return dt.datetime.fromisoformat(request.numbers["since"]).replace(tzinfo=dt.UTC)
    champion = of.clients.registry.aliased(of.tenant, of.spec.name)
    kept = champion.tags.get(CHANGED_AT) if champion is not None else None
    return dt.datetime.fromisoformat(kept) if kept else None


def register(training: Training, trained: Trained, rows: pd.DataFrame, key: str, base: Version | None) -> Version:
    """Registers a model that was fitted on ``rows`` as the next version; ``base`` is the version that it updates.

    ``key`` identifies the work, so that the same work is found again and not registered twice.
    """
    of, snapshot = training.of, training.snapshot
    parent = base or next(iter(of.clients.registry.versions(of.tenant, of.spec.name)), None)
    fingerprint = fingerprint_of(of.spec)
    parent_fingerprint = SpecFingerprint(parent.tags["question_hash"], parent.tags["spec_hash"]) if parent else None
    trigger = training.request.tags if training.request is not None else {}
    origin = Origin(
        tenant=of.tenant,
        semantic=next_semantic(parent.semantic if parent else None, parent_fingerprint, fingerprint),
        as_of=snapshot.as_of.isoformat(),
        snapshot_hash=snapshot.hash,
        action=UPDATE if base else TRAIN,
        parent=base.number if base else None,
        quality=snapshot.quality,
        why=trigger.get("why", ""),
    )
    with scratch_folder() as folder:
        path = folder / "model"
        write_files(path, of.spec, trained, rows, origin, plots=training.plots)
        return of.clients.registry.register(
            of.tenant,
            of.spec.name,
            path,
            Registration(
                key=key,
                semantic=origin.semantic,
                as_of=origin.as_of,
                description=summary(of.spec, trained),
                metrics=logged_metrics(trained),
                params={
                    "candidate": trained.candidate,
                    **search_params(of.spec, trained),
                    "loss": of.spec.training.loss,
                },
                tags={
                    "candidate": trained.candidate,
                    "snapshot_hash": snapshot.hash,
                    "spec_hash": fingerprint.specification,
                    "question_hash": fingerprint.question,
                    "parent_version": str(parent.number) if parent else "",
                    "rows": str(trained.rows["all"]),
                    "action": origin.action,
                    **search_tags(trained),
                    **_post_change_tag(training.changed_at, rows),
                    **trigger,
                },
            ),
        )


def _post_change_tag(changed_at: dt.datetime | None, rows: pd.DataFrame) -> dict[str, str]:
    """The tag of a version that was trained on post-change rows only; the next versions then are too."""
    if changed_at is None or rows["event_time"].min() < pd.Timestamp(changed_at):
        return {}
    return {CHANGED_AT: changed_at.isoformat()}
