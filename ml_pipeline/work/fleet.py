"""What an operator asks about all tenants at once; read-only."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import CHAMPION, Registry
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.specs import ModelSpec

DAY = dt.timedelta(days=1)


def days_to_monitor(warehouse: Warehouse, tenants: int, window: dt.date, yesterday: dt.date) -> dt.date | None:
    """First day that the nightly run has to do, None if all is done; never before ``window``.

    A day counts as done when at least half of the ``tenants`` have a report of it: one tenant that fails every night
    does not make the nightly run repeat itself, and one that was backfilled by hand does not hide a missed night. The
    days before the first done one were never asked for.
    """
    table = tables.drift_reports
    reported = sa.func.count(sa.distinct(table.c.tenant_id))
    query = (
        sa.select(table.c.day)
        .where(table.c.day.between(window, yesterday))
        .group_by(table.c.day)
        .having(reported * 2 >= tenants)
    )
    with warehouse.operator() as connection:
        done = set(connection.scalars(query))
    day = min(done, default=yesterday)
    while day in done:
        day += DAY
    return day if day <= yesterday else None


@dataclass(frozen=True)
class Status:
    """One tenant and model, as ``ml-pipeline status`` shows it."""

    tenant: str
    model: str
    version: int | None
    alias: str | None
    trained_at: str | None
    rows: int | None
    metric: str
    value: float | None
    baseline_value: float | None
    skill: float | None
    decision: str | None
    reason: str
    health: float | None
    drift: str | None
    business: dict[str, dict[str, float | None]]  # by metric: value, and baseline_value of the constant


NEVER_TRAINED = "never trained: `ml-pipeline run`, or materialize its features and model"


def fleet_status(
    warehouse: Warehouse,
    registry: Registry,
    specs: Mapping[str, ModelSpec],
    tenants: Iterable[str] | None = None,
) -> list[Status]:
    """Status of every tenant and model, by tenant and model name; a few queries, however many there are."""
    chosen = sorted(warehouse.tenants()) if tenants is None else sorted(tenants)
    with warehouse.operator() as connection:
        decisions = _newest(connection, tables.decisions, tables.decisions.c.sequence)
        promoted = _promotions(connection)
        reports = _newest(connection, tables.drift_reports, tables.drift_reports.c.day)
    aliases = registry.aliases()
    return [
        _status(
            tenant,
            spec,
            aliases.get((tenant, spec.name), {}),
            decisions.get((tenant, spec.name)),
            promoted,
            reports.get((tenant, spec.name)),
        )
        for tenant in chosen
        for spec in specs.values()
    ]


def _newest(connection: sa.Connection, table: sa.Table, by: sa.Column) -> dict[tuple[str, str], sa.RowMapping]:
    key = (table.c.tenant_id, table.c.model)
    query = sa.select(table).distinct(*key).order_by(*key, by.desc())
    return {(row["tenant_id"], row["model"]): row for row in connection.execute(query).mappings()}


def _promotions(connection: sa.Connection) -> dict[tuple[str, str, int], sa.RowMapping]:
    """The judgement of each version: its numbers are those shown while it serves."""
    table = tables.decisions
    key = (table.c.tenant_id, table.c.model, table.c.version)
    query = sa.select(table).distinct(*key).where(table.c.kind == "promote").order_by(*key, table.c.sequence.desc())
    return {(row["tenant_id"], row["model"], row["version"]): row for row in connection.execute(query).mappings()}


def _status(
    tenant: str,
    spec: ModelSpec,
    aliases: Mapping[str, int],
    decision: sa.RowMapping | None,
    promoted: Mapping[tuple[str, str, int], sa.RowMapping],
    report: sa.RowMapping | None,
) -> Status:
    champion = aliases.get(CHAMPION)
    shown = champion if champion is not None else next(iter(sorted(aliases.values(), reverse=True)), None)
    alias = next((name for name, number in sorted(aliases.items()) if number == shown), None)
    judged = promoted.get((tenant, spec.name, shown)) if shown is not None else None
    numbers: Mapping[str, Any] = judged["numbers"] if judged else {}
    matured = decision["numbers"].get("matured") if decision else None
    return Status(
        tenant=tenant,
        model=spec.name,
        version=shown,
        alias=alias,
        trained_at=judged["as_of"].isoformat() if judged else None,
        rows=numbers.get("rows", matured),
        metric=spec.headline_metric,
        value=numbers.get("value"),
        baseline_value=numbers.get("baseline_value"),
        skill=numbers.get("skill"),
        decision=decision["verdict"] if decision else None,
        reason=decision["reason"] if decision else NEVER_TRAINED,
        health=report["health"] if report else None,
        drift=_drift(report),
        business={
            metric.name: {
                "value": numbers.get(f"business_{metric.name}"),
                "baseline_value": numbers.get(f"business_{metric.name}_baseline"),
            }
            for metric in spec.business_metrics
        },
    )


def _drift(report: sa.RowMapping | None) -> str | None:
    if report is None:
        return None
    return f"{report['status']} {report['severity']}" if report["severity"] else str(report["status"])
