"""The report of one day as it is stored: a row, its anomalies, and the alerts that it raises."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from ml_pipeline.monitoring.anomalies.rows import Anomalies
from ml_pipeline.monitoring.degradation.report import Degradation
from ml_pipeline.monitoring.drift.report import severity
from ml_pipeline.monitoring.drift.results import DriftReport
from ml_pipeline.monitoring.health import Health
from ml_pipeline.resources import tables
from ml_pipeline.severity import Severity, rank
from ml_pipeline.timeutil import DAY
from ml_pipeline.work.alerts.raising import NewAlert, raise_alert
from ml_pipeline.work.monitoring.report_store import json_safe
from ml_pipeline.work.monitoring.tenant_days import TenantDays, midnight

DRIFT_ALERT_SUPPRESSION_DAYS = 28  # days before an alert names the same drifted column again
DEGRADATION_REMINDER_DAYS = 7  # days before an alert repeats a degradation of the same severity


@dataclass(frozen=True)
class DayReport:
    """Everything that was found about one day of a tenant's model."""

    day: dt.date
    drift: DriftReport
    performance: Degradation
    cause: str
    severity: Severity | None
    health: Health
    anomalies: dict[str, Anomalies]
    reference: str
    version: int | None

    @property
    def reason(self) -> str:
        if self.performance.status != "degraded":
            return self.drift.reason
        return f"{self.performance.reason.rstrip('.')}: {self.cause}. {self.drift.reason}"


def report_row(tenant: TenantDays, report: DayReport) -> dict[str, Any]:
    """The report as a row of ``ml.drift_reports``."""
    drift = report.drift
    stored = drift.to_json()
    details = {name: stored[name] for name in ("prediction", "label", "joint", "calibration")}
    details["anomalies"] = {
        name: {"count": found.count, "tested": found.tested, "rate": found.rate, "note": found.note}
        for name, found in report.anomalies.items()
    }
    return {
        **tenant.own,
        "day": report.day,
        "status": drift.status,
        "severity": report.severity,
        "score": drift.score,
        "baseline_rows": drift.baseline_rows,
        "current_rows": drift.current_rows,
        "drifted": json_safe(drift.drifted),
        "columns": json_safe(stored["columns"]),
        "health": report.health.score,
        "version": report.version,
        "reason": report.reason,
        "reference": report.reference,
        "alert": drift.alert,
        "recommendation": drift.recommendation,
        "causes": json_safe(stored["causes"]),
        "details": json_safe(details),
        "performance": json_safe(asdict(report.performance)),
        "health_parts": json_safe(report.health.parts),
    }


def store_anomalies(connection: sa.Connection, tenant: TenantDays, reports: Sequence[DayReport]) -> None:
    """Stores the anomalies of the days in place of those that an earlier run found."""
    table = tables.anomalies
    days = [report.day for report in reports]
    connection.execute(sa.delete(table).where(tenant.is_own(table), table.c.day.in_(days)))
    rows = [
        {
            **tenant.own,
            "day": report.day,
            "kind": anomaly.kind,
            "subject": anomaly.entity_id or anomaly.day or "",
            "score": anomaly.score,
            "reason": anomaly.reason,
            "detail": {"columns": anomaly.columns},
        }
        for report in reports
        for group in report.anomalies.values()
        for anomaly in group.found
    ]
    tenant.clients.warehouse.upsert(connection, table, rows)


def raise_alerts(connection: sa.Connection, tenant: TenantDays, report: DayReport) -> None:
    """Raises the alerts of a report: its degradation, and its drift."""
    _alert_degradation(connection, tenant, report)
    _alert_drift(connection, tenant, report)


def _alert_degradation(connection: sa.Connection, tenant: TenantDays, report: DayReport) -> None:
    """Raises an alert if the loss rose, unless one of the last week says the same about this version."""
    performance, as_of = report.performance, midnight(report.day + DAY).to_pydatetime()
    if performance.severity is None or report.version is None:
        return
    table = tables.alerts
    earlier = sa.select(table.c.level).where(
        tenant.is_own(table),
        table.c.kind == "degradation",
        table.c.detail["version"].as_integer() == report.version,
        table.c.as_of < as_of,
        table.c.as_of > as_of - DEGRADATION_REMINDER_DAYS * DAY,
    )
    if any(rank(level) >= rank(performance.severity) for level in connection.scalars(earlier)):
        return
    alert = NewAlert(
        tenant.tenant,
        tenant.spec.name,
        kind="degradation",
        level=performance.severity,
        message=f"{report.day}: {performance.reason.rstrip('.')}: {report.cause}",
        as_of=as_of,
        detail={"day": report.day, "version": report.version, "health": report.health.score, **asdict(performance)},
    )
    raise_alert(connection, alert)


def _alert_drift(connection: sa.Connection, tenant: TenantDays, report: DayReport) -> None:
    """Raises an alert if the drift exceeds the alert budget, unless recent alerts have named all of it."""
    drift, as_of = report.drift, midnight(report.day + DAY).to_pydatetime()
    parts = {"prediction": drift.prediction, "label": drift.label, "correlations": drift.joint}
    drifted = {*drift.drifted, *(name for name, part in parts.items() if part is not None and part.drifted)}
    if not drift.alert or drifted <= _reported_columns(connection, tenant, as_of):
        return
    alert = NewAlert(
        tenant.tenant,
        tenant.spec.name,
        kind="drift",
        level=severity(None, drift.score) or "LOW",
        message=f"{report.day}: {drift.reason} {drift.recommendation}".rstrip(),
        as_of=as_of,
        detail={
            "day": report.day,
            "score": drift.score,
            "drifted": sorted(drifted),
            "causes": [asdict(cause) for cause in drift.causes],
            "reference": report.reference,
            "health": report.health.score,
        },
    )
    raise_alert(connection, alert)


def _reported_columns(connection: sa.Connection, tenant: TenantDays, as_of: dt.datetime) -> set[str]:
    """Names in the drift alerts of the last weeks."""
    table = tables.alerts
    query = sa.select(table.c.detail["drifted"]).where(
        tenant.is_own(table),
        table.c.kind == "drift",
        table.c.as_of < as_of,
        table.c.as_of >= as_of - DRIFT_ALERT_SUPPRESSION_DAYS * DAY,
    )
    return {name for drifted in connection.scalars(query) for name in drifted}
