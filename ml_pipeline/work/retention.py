"""Retention: deletes old rows, tenant by tenant, in batches of one transaction each.

A pruning may be interrupted at any time; the next one deletes the rest.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.timeutil import SECONDS_PER_DAY
from ml_pipeline.work.alerts.run_failures import NO_TENANT
from ml_pipeline.work.context import Clients
from ml_pipeline.work.failures import log_failure

BATCH = 5000
BEGUN_SECONDS = float(SECONDS_PER_DAY)  # age from which a half-written file is abandoned

# Kinds of decision that are never deleted: a serving version is shown and judged with them.
KEPT_DECISIONS = ("promote", "promote_by_hand", "rollback", "alias_by_hand")

logger = logging.getLogger(__name__)

Condition = sa.ColumnElement[bool]


@dataclass
class Pruned:
    """Number of deleted rows by rule (in a dry run: of rows to delete), and the error of each tenant that failed."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in self.counts.items() if count) or "nothing"


@dataclass(frozen=True)
class Rule:
    """Rows of a table that are too old. They are deleted, or only their ``emptied`` columns are cleared."""

    name: str
    table: sa.Table
    too_old: Condition
    emptied: tuple[str, ...] = ()


def rules(settings: Settings, now: dt.datetime) -> list[Rule]:
    """The rules at ``now``, for every table except that of the feature snapshots."""

    def days_ago(days: int) -> dt.datetime:
        return now - dt.timedelta(days=days)

    predictions, alerts, deliveries = tables.predictions, tables.alerts, tables.alert_deliveries
    full, scored = days_ago(settings.feature_retention_days), days_ago(settings.prediction_retention_days)
    between = (predictions.c.predicted_at >= scored) & (predictions.c.predicted_at < full)
    orphans = deliveries.c.alert_id.not_in(
        sa.select(alerts.c.alert_id).where(alerts.c.tenant_id == deliveries.c.tenant_id)
    )
    # The age of an alert that a backfill stored counts from the backfill.
    seen = sa.func.greatest(sa.func.coalesce(alerts.c.last_seen_at, alerts.c.as_of), alerts.c.created_at)
    acknowledged = alerts.c.acknowledged_at.is_not(None) & (seen < days_ago(settings.alert_retention_days))
    found = [
        Rule("predictions", predictions, predictions.c.predicted_at < scored),
        Rule("features of predictions", predictions, predictions.c.features.is_not(None) & between, ("features",)),
        Rule("anomalies", tables.anomalies, tables.anomalies.c.day < scored.date()),
        Rule("alerts", alerts, acknowledged | (seen < days_ago(settings.open_alert_retention_days))),
        Rule("alert deliveries", deliveries, orphans),
    ]
    if settings.history_retention_days is None:
        return found
    end = days_ago(settings.history_retention_days)
    decisions = tables.decisions
    settled = decisions.c.state.is_distinct_from("approved") & decisions.c.kind.not_in(KEPT_DECISIONS)
    return [
        *found,
        Rule("daily metrics", tables.daily_metrics, tables.daily_metrics.c.day < end.date()),
        Rule("drift reports", tables.drift_reports, tables.drift_reports.c.day < end.date()),
        Rule("decisions", decisions, settled & (decisions.c.as_of < end) & (decisions.c.created_at < end)),
    ]


def prune(
    settings: Settings,
    *,
    now: dt.datetime,
    tenants: Sequence[str] | None = None,
    dry_run: bool = False,
    announce: Callable[[str], None] = lambda _: None,
) -> Pruned:
    """Deletes what is too old, for every tenant or for those named; calls ``announce`` after each tenant.

    A tenant that fails does not stop the others.
    """
    clients = Clients(settings)
    pruned = Pruned()
    for tenant in everyone(clients.warehouse) if tenants is None else tenants:
        try:
            for name, count in _prune_tenant(clients, tenant, now, dry_run):
                pruned.counts[name] += count
        except Exception as error:  # noqa: BLE001 - reported as the tenant's failure, which fails the run at its end
            log_failure(logger, f"tenant {tenant}: pruning", error)
            pruned.failures[tenant] = f"{type(error).__name__}: {error}"
        announce(tenant)
    return pruned


def everyone(warehouse: Warehouse) -> list[str]:
    """Every tenant, and the key under which alerts about no tenant are stored."""
    return [*warehouse.tenants(), NO_TENANT]


def _prune_tenant(clients: Clients, tenant: str, now: dt.datetime, dry_run: bool) -> Iterator[tuple[str, int]]:
    for rule in rules(clients.settings, now):
        if dry_run:
            table = rule.table
            size = sa.select(sa.func.count()).select_from(table).where(table.c.tenant_id == tenant, rule.too_old)
            with clients.warehouse.tenant(tenant) as connection:
                yield rule.name, connection.scalar(size) or 0
        else:
            for count in _apply(clients.warehouse, tenant, rule):
                yield rule.name, count
    for row in _old_snapshots(clients, tenant, now):
        if not dry_run:
            clients.snapshots.remove(tenant, row["path"])  # before the row, which still names it after an interruption
            sets = tables.feature_sets
            this = (sets.c.model == row["model"]) & (sets.c.snapshot_hash == row["snapshot_hash"])
            with clients.warehouse.tenant(tenant) as connection:
                connection.execute(sa.delete(sets).where(sets.c.tenant_id == tenant, this))
        yield "feature snapshots", 1
    if not dry_run:
        yield "half-written files", clients.snapshots.remove_begun(tenant, BEGUN_SECONDS)


def _apply(warehouse: Warehouse, tenant: str, rule: Rule) -> Iterator[int]:
    """Applies a rule in batches; yields the size of each, the last of which is not full."""
    place: sa.ColumnClause[Any] = sa.literal_column("ctid")
    batch = sa.select(place).select_from(rule.table).where(rule.table.c.tenant_id == tenant, rule.too_old).limit(BATCH)
    chosen = place == sa.func.any(sa.func.array(batch.scalar_subquery()))
    emptied = dict.fromkeys(rule.emptied, sa.null())  # None would be the JSON value null
    statement = sa.update(rule.table).where(chosen).values(emptied) if emptied else sa.delete(rule.table).where(chosen)
    size = BATCH
    while size == BATCH:
        with warehouse.tenant(tenant) as connection:
            size = connection.execute(statement).rowcount
        yield size


def _old_snapshots(clients: Clients, tenant: str, now: dt.datetime) -> list[sa.RowMapping]:
    """Old snapshots, without the newest of each model and those that a registered version was trained on.

    Snapshots in another artifact store than the current one are left out.
    """
    table = tables.feature_sets
    newest = sa.select(table.c.model, sa.func.max(table.c.sequence).label("last")).group_by(table.c.model)
    latest = newest.where(table.c.tenant_id == tenant).subquery()
    query = (
        sa.select(table.c.model, table.c.snapshot_hash, table.c.path)
        .join(latest, (latest.c.model == table.c.model) & (table.c.sequence < latest.c.last))
        .where(table.c.tenant_id == tenant)
        .where(table.c.created_at < now - dt.timedelta(days=clients.settings.snapshot_retention_days))
    )
    with clients.warehouse.tenant(tenant) as connection:
        rows = connection.execute(query).mappings().all()
    used = {
        model: {version.tags.get("snapshot_hash") for version in clients.registry.versions(tenant, model)}
        for model in {row["model"] for row in rows}
    }
    unused = [row for row in rows if row["snapshot_hash"] not in used[row["model"]]]
    return [row for row in unused if clients.snapshots.owns(tenant, row["path"])]
