"""The status of all tenants' models, for operators; read-only."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import CHAMPION, Registry
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.specs import ModelSpec
from ml_pipeline.work.deployment.deployer import ALIAS_BY_HAND, PROMOTE, PROMOTE_BY_HAND, ROLLBACK
from ml_pipeline.work.retraining.decisions import RETRAIN, TRAIN, WATCH

DAY = dt.timedelta(days=1)


def days_to_monitor(warehouse: Warehouse, tenants: int, window: dt.date, yesterday: dt.date) -> dt.date | None:
    """The first day that the nightly run has to monitor, not before ``window``; None if no day is left.

    A day is done when at least half of the ``tenants`` have a report of it. Thus a tenant that fails every night does
    not make the run repeat itself, and a single backfilled tenant does not hide a missed night. Days before the first
    day that is done are not monitored.
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


# From the worst to the best.
FleetState = Literal["failing", "degraded", "drifting", "poor", "not_serving", "untrained", "well"]
STATES: tuple[FleetState, ...] = ("failing", "degraded", "drifting", "poor", "not_serving", "untrained", "well")
POOR_HEALTH = 50.0  # a model below is ``poor``, even if no single check raised an alarm


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
    business: dict[str, dict[str, float | None]]  # by metric: its value, and the baseline's
    state: FleetState
    state_reason: str


NEVER_TRAINED = "never trained. Run `ml-pipeline run`, or materialize its features and model"

KINDS = (RETRAIN, TRAIN, WATCH, PROMOTE, PROMOTE_BY_HAND, ROLLBACK, ALIAS_BY_HAND)

# One index look-up for each tenant, model and kind, however many decisions are stored.
DECISIONS = """
    SELECT tenant_id, model, verdict, reason, state, created_at, numbers -> 'matured' AS matured
    FROM unnest(CAST(:tenants AS text[])) AS tenant_id CROSS JOIN unnest(CAST(:models AS text[])) AS model
    CROSS JOIN LATERAL (
        SELECT newest.decision_id FROM unnest(CAST(:kinds AS text[])) AS wanted CROSS JOIN LATERAL (
            SELECT decision_id, sequence FROM ml.decisions AS one
            WHERE one.tenant_id = tenant_id.tenant_id AND one.model = model.model AND one.kind = wanted
            ORDER BY sequence DESC LIMIT 1
        ) AS newest ORDER BY newest.sequence DESC LIMIT 1
    ) AS last JOIN ml.decisions USING (tenant_id, model, decision_id)
"""
REPORTS = """
    SELECT tenant_id, model, last.*
    FROM unnest(CAST(:tenants AS text[])) AS tenant_id CROSS JOIN unnest(CAST(:models AS text[])) AS model
    CROSS JOIN LATERAL (
        SELECT status, severity, health, reason, computed_at,
               performance ->> 'status' AS performance, performance ->> 'reason' AS performance_reason
        FROM ml.drift_reports AS one
        WHERE one.tenant_id = tenant_id.tenant_id AND one.model = model.model ORDER BY day DESC LIMIT 1
    ) AS last
"""
# The judgement of the shown version; its numbers are shown as long as it serves.
PROMOTIONS = """
    SELECT shown.tenant_id, shown.model, last.as_of, (
        SELECT jsonb_object_agg(key, value) FROM jsonb_each(last.numbers)
        WHERE key IN ('rows', 'value', 'baseline_value', 'skill') OR starts_with(key, 'business_')
    ) AS numbers
    FROM unnest(CAST(:tenants AS text[]), CAST(:models AS text[]), CAST(:versions AS int[]))
        AS shown (tenant_id, model, version) CROSS JOIN LATERAL (
        SELECT as_of, numbers FROM ml.decisions AS one
        WHERE one.tenant_id = shown.tenant_id AND one.model = shown.model AND one.kind = :kind
            AND one.version = shown.version ORDER BY sequence DESC LIMIT 1
    ) AS last
"""
FAILURES = """
    SELECT DISTINCT ON (tenant_id, model) tenant_id, model, as_of, message FROM ml.alerts
    WHERE kind = 'run_failed' AND acknowledged_at IS NULL ORDER BY tenant_id, model, as_of DESC
"""

Key = tuple[str, str]
Rows = Mapping[Key, sa.RowMapping]


def fleet_status(
    warehouse: Warehouse,
    registry: Registry,
    specs: Mapping[str, ModelSpec],
    tenants: Iterable[str] | None = None,
) -> list[Status]:
    """Status of every tenant and model, ordered by both; a few queries for any number of tenants."""
    chosen = sorted(warehouse.tenants()) if tenants is None else sorted(tenants)
    aliases = registry.aliases()
    shown = {key: _shown(aliases.get(key, {})) for key in ((tenant, model) for tenant in chosen for model in specs)}
    trained = [(*key, version) for key, (version, _) in shown.items() if version is not None]
    pairs = {"tenants": chosen, "models": list(specs)}
    versions = dict(zip(("tenants", "models", "versions"), zip(*trained, strict=True), strict=True)) if trained else {}
    with warehouse.operator() as connection:
        decisions = _by_key(connection, DECISIONS, pairs | {"kinds": list(KINDS)})
        reports = _by_key(connection, REPORTS, pairs)
        failures = _by_key(connection, FAILURES, {})
        lists = {name: list(values) for name, values in versions.items()}
        promoted = _by_key(connection, PROMOTIONS, lists | {"kind": PROMOTE}) if trained else {}
    return [
        _status((tenant, spec), shown[key], decisions.get(key), promoted.get(key), reports.get(key), failures.get(key))
        for tenant in chosen
        for spec in specs.values()
        for key in [(tenant, spec.name)]
    ]


def _by_key(connection: sa.Connection, query: str, values: Mapping[str, Any]) -> Rows:
    rows = connection.execute(sa.text(query), values).mappings()
    return {(row["tenant_id"], row["model"]): row for row in rows}


def _shown(aliases: Mapping[str, int]) -> tuple[int | None, str | None]:
    """The shown version and its alias: the champion, or without one the newest version that has an alias."""
    champion = aliases.get(CHAMPION)
    shown = champion if champion is not None else max(aliases.values(), default=None)
    return shown, next((name for name, number in sorted(aliases.items()) if number == shown), None)


def _status(
    of: tuple[str, ModelSpec],
    shown: tuple[int | None, str | None],
    decision: sa.RowMapping | None,
    judged: sa.RowMapping | None,
    report: sa.RowMapping | None,
    failure: sa.RowMapping | None,
) -> Status:
    (tenant, spec), (version, alias) = of, shown
    numbers: Mapping[str, Any] = (judged["numbers"] or {}) if judged else {}
    reason = decision["reason"] if decision else NEVER_TRAINED
    state, state_reason = _state(version, alias, decision, report, failure)
    return Status(
        tenant=tenant,
        model=spec.name,
        version=version,
        alias=alias,
        trained_at=judged["as_of"].isoformat() if judged else None,
        rows=numbers.get("rows", decision["matured"] if decision else None),
        metric=spec.headline_metric,
        value=numbers.get("value"),
        baseline_value=numbers.get("baseline_value"),
        skill=numbers.get("skill"),
        decision=decision["verdict"] if decision else None,
        reason=reason,
        health=report["health"] if report else None,
        drift=" ".join(filter(None, (report["status"], report["severity"]))) if report else None,
        business={
            metric.name: {
                "value": numbers.get(f"business_{metric.name}"),
                "baseline_value": numbers.get(f"business_{metric.name}_baseline"),
            }
            for metric in spec.business_metrics
        },
        state=state,
        state_reason=state_reason or reason,
    )


def _state(
    version: int | None,
    alias: str | None,
    decision: sa.RowMapping | None,
    report: sa.RowMapping | None,
    failure: sa.RowMapping | None,
) -> tuple[FleetState, str]:
    """The worst state that applies to a model, and its reason; an empty reason if that is the last decision's.

    A failed run counts until a newer decision or report exists, or somebody acknowledges its alert.
    """
    newer = [row[column] for row, column in ((decision, "created_at"), (report, "computed_at")) if row is not None]
    if failure is not None and all(time < failure["as_of"] for time in newer):
        return "failing", failure["message"]
    if decision is not None and decision["state"] == "failed":
        return "failing", f"the run of the last decision failed: {decision['reason']}"
    if version is None:
        return "untrained", ""
    if alias != CHAMPION:
        return "not_serving", ""
    if report is None:
        return "well", ""
    if report["performance"] == "degraded":
        return "degraded", report["performance_reason"] or report["reason"]
    if report["status"] == "drift":
        return "drifting", report["reason"]
    if report["health"] is not None and report["health"] < POOR_HEALTH:
        return "poor", f"health {report['health']:.0f} of 100"
    return "well", ""


ORDERS = ("state", "health", "skill", "rows", "tenant", "model")


def in_order(rows: Iterable[Status], order: str) -> list[Status]:
    """The rows in an order of ``ml-pipeline status --sort``: worst first, equal ones by tenant and model."""

    def lowest_first(value: float | None) -> tuple[bool, float]:
        return value is None, value or 0.0

    keys: dict[str, Any] = {
        "state": lambda row: (STATES.index(row.state), lowest_first(row.health)),
        "health": lambda row: lowest_first(row.health),
        "skill": lambda row: lowest_first(row.skill),
        "rows": lambda row: row.rows or 0,
        "tenant": lambda row: row.tenant,
        "model": lambda row: row.model,
    }
    return sorted(rows, key=lambda row: (keys[order](row), row.tenant, row.model))


def counted(rows: Sequence[Status]) -> dict[FleetState, int]:
    """Number of models in each state that occurs, worst state first."""
    found = [row.state for row in rows]
    return {state: found.count(state) for state in STATES if state in found}
