"""Timeline of the demo's tenants, with one line per event."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa

from ml_pipeline.cli.common import Rows, output
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse

LONGEST = 170


def simulated_until(warehouse: Warehouse, tenant: str, model: str) -> dt.date | None:
    """The newest day with a report."""
    table = tables.drift_reports
    with warehouse.tenant(tenant) as connection:
        query = sa.select(sa.func.max(table.c.day)).where(table.c.tenant_id == tenant, table.c.model == model)
        return connection.scalar(query)


def print_timeline(warehouse: Warehouse, tenants: Sequence[str], model: str) -> None:
    """Print the events of each tenant: alerts, decisions, promotions and rollbacks."""
    table = Rows("tenant", "day", "what", "why")
    for column in table.columns[:3]:
        column.no_wrap = True
    for tenant in tenants:
        events = _events(warehouse, tenant, model)
        for event in events:
            table.add_row(tenant, *event)
        if not any(what.startswith("alert") for _, what, _ in events):
            table.add_row(tenant, "", "no alerts", "")
    output.print(table)


def _events(warehouse: Warehouse, tenant: str, model: str) -> list[tuple[str, str, str]]:
    alerts, decisions = tables.alerts, tables.decisions
    with warehouse.tenant(tenant) as connection:
        query = sa.select(alerts).where(alerts.c.tenant_id == tenant, alerts.c.model == model)
        raised = connection.execute(query).mappings().all()
        query = sa.select(decisions).where(decisions.c.tenant_id == tenant, decisions.c.model == model)
        decided = connection.execute(query.order_by(decisions.c.as_of, decisions.c.created_at)).mappings().all()
    found = [(row["as_of"], f"alert {row['level']}: {row['kind']}", row["message"]) for row in raised]
    found += [(row["as_of"], f"{row['kind']}: {row['verdict']}", row["reason"]) for row in decided if _has_effect(row)]
    harmless = next((row for row in decided if "performance_impact" in row["numbers"].get("blocked_by", ())), None)
    if harmless is not None:  # only the first of possibly many days
        found.append((harmless["as_of"], "retrain: blocked", harmless["reason"]))
    return [(f"{at:%Y-%m-%d}", what, _short(why)) for at, what, why in sorted(found, key=lambda event: event[0])]


def _has_effect(decision: sa.RowMapping) -> bool:
    """Whether the decision had an effect: not a blocked retraining and not a continued watch."""
    return decision["verdict"] not in ("blocked", "watching")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}\u2026"
