"""Timeline of the demo's tenants, with one line per event."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import sqlalchemy as sa

from ml_pipeline.cli.common import Rows, output, shortened
from ml_pipeline.demo.simulation import ROUTINE
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse


def simulated_until(warehouse: Warehouse, tenant: str, model: str) -> dt.date | None:
    """The newest day with a report."""
    table = tables.drift_reports
    with warehouse.tenant(tenant) as connection:
        query = sa.select(sa.func.max(table.c.day)).where(table.c.tenant_id == tenant, table.c.model == model)
        last: dt.date | None = connection.scalar(query)
    return last


def print_timeline(warehouse: Warehouse, tenants: Sequence[str], model: str) -> None:
    """Print a line for each alert and each decision of note; routine is counted."""
    table = Rows("tenant", "day", "what", "why")
    for column in table.columns[:3]:
        column.no_wrap = True
    for tenant in tenants:
        events, routine = _events(warehouse, tenant, model)
        for day, what, why in events:
            table.add_row(tenant, day, what, shortened(why))
        quiet = "" if any(what.startswith("alert") for _, what, _ in events) else "no alerts; "
        table.add_row(tenant, "", "", f"{quiet}{routine} routine retrainings")
    output.print(table)


def _events(warehouse: Warehouse, tenant: str, model: str) -> tuple[list[tuple[str, str, str]], int]:
    """Day, event and reason of everything of note, and the number of retrainings by schedule or volume."""
    alerts, decisions = tables.alerts, tables.decisions
    with warehouse.tenant(tenant) as connection:
        query = sa.select(alerts).where(alerts.c.tenant_id == tenant, alerts.c.model == model)
        raised = connection.execute(query).mappings().all()
        query = sa.select(decisions).where(decisions.c.tenant_id == tenant, decisions.c.model == model)
        decided = connection.execute(query.order_by(decisions.c.as_of, decisions.c.created_at)).mappings().all()
    found = [(row["as_of"], f"alert {row['level']}: {row['kind']}", row["message"]) for row in raised]
    found += [(row["as_of"], f"{row['kind']}: {row['verdict']}", row["reason"]) for row in decided if _is_of_note(row)]
    harmless = next((row for row in decided if "performance_impact" in row["numbers"].get("blocked_by", ())), None)
    if harmless is not None:  # only the first of possibly many days
        found.append((harmless["as_of"], "retrain: blocked", harmless["reason"]))
    events = [(f"{at:%Y-%m-%d}", what, why) for at, what, why in sorted(found, key=lambda event: event[0])]
    return events, sum(row["verdict"] == "retrain" and _is_routine(row) for row in decided)


def _is_of_note(decision: sa.RowMapping) -> bool:
    """Whether the decision changed the serving version, or requested a training that is not routine."""
    if decision["kind"] == "retrain":
        return decision["verdict"] == "retrain" and not _is_routine(decision)
    return decision["kind"] == "rollback" or decision["verdict"] in ("promote", "fall_back")


def _is_routine(decision: sa.RowMapping) -> bool:
    return decision["numbers"].get("trigger") in ROUTINE
