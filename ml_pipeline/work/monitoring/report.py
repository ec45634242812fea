"""The daily report of one tenant: drift, degradation and its cause, anomalies, health, and the alerts they raise."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import pandas as pd
import sqlalchemy as sa

from ml_pipeline.monitoring.anomalies.days import daily_summary, unusual_days, volume_p_value
from ml_pipeline.monitoring.anomalies.rows import Anomalies, unusual_inputs, unusual_outcomes, unusual_predictions
from ml_pipeline.monitoring.degradation.report import Degradation, degradation
from ml_pipeline.monitoring.degradation.root_cause import root_cause_of
from ml_pipeline.monitoring.drift.report import compare, severity, too_few_rows, windows
from ml_pipeline.monitoring.drift.results import DriftReport
from ml_pipeline.monitoring.health import Health, health_score
from ml_pipeline.monitoring.performance import window_metrics
from ml_pipeline.monitoring.profiles.profile import Profile, profile
from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import NoSuchVersion, TamperedArtifact
from ml_pipeline.severity import Severity, rank
from ml_pipeline.specs import ModelSpec
from ml_pipeline.timeutil import DAY
from ml_pipeline.work.alerts.raising import raise_alert
from ml_pipeline.work.monitoring.report_store import json_safe
from ml_pipeline.work.monitoring.tenant_days import USUAL_DAYS, TenantDays, midnight
from ml_pipeline.work.scoring import alert_tampered
from ml_pipeline.work.training.version_files import IMPORTANCE, PROFILE

DRIFT_ALERT_SUPPRESSION_DAYS = 28  # an alert names a column again after so many days
DEGRADATION_REMINDER_DAYS = 7  # an alert repeats a loss that stays as high after so many days


@dataclass(frozen=True)
class Reference:
    """What the last days are compared with, and the feature importance of the version that it is of."""

    rows: int
    name: str
    profile: Callable[[], Profile]  # that of a window is made when there are rows to compare with it
    importance: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DayReport:
    """Everything that was found of one day."""

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


def write_reports(tenant: TenantDays) -> dict[dt.date, dict[str, Any]]:
    """Stores one report per day, with its anomalies, and raises what a person should know."""
    references: dict[int, Reference | None] = {}
    found = [report_of(tenant, day, references) for day in tenant.days]
    warehouse = tenant.clients.warehouse
    with warehouse.tenant(tenant.tenant) as connection:
        warehouse.upsert(connection, tables.drift_reports, [_row(tenant, report) for report in found])
        _store_anomalies(connection, tenant, found)
        for report in found:
            _alert_degradation(connection, tenant, report)
            _alert_drift(connection, tenant, report)
    return {report.day: _metadata(report) for report in found}


def report_of(tenant: TenantDays, day: dt.date, references: dict[int, Reference | None]) -> DayReport:
    """Everything of one day; ``references`` keeps what was read of versions from one day to the next."""
    spec, serving = tenant.spec, tenant.serving(day)
    baseline, current = windows(tenant.frame, day, spec.monitoring)
    reference = _reference(tenant, day, serving, baseline, references)
    start, end = midnight(day - (spec.monitoring.current - 1) * DAY), midnight(day + DAY)
    made = _made(tenant, day, serving)
    drift = too_few_rows(spec.monitoring, reference.rows, len(current)) or compare(
        spec,
        _with_predictions(spec, reference.profile(), made[made["predicted_at"] < start]),
        current,
        predictions=made[made["predicted_at"] >= start],
        outcomes=_within(tenant.outcomes, "label_time", start, end),
        importance=reference.importance,
    )
    since = None if serving is None else serving["as_of"].date()
    performance = degradation(spec, tenant.scored_by(day), day, serving_since=since)
    anomalies, volume = _anomalies(tenant, day, serving)
    return DayReport(
        day=day,
        drift=drift,
        performance=performance,
        cause=root_cause_of(performance, _input_drift(drift)).reason,
        severity=_severity(performance, drift, serving is not None),
        health=_health(tenant, day, serving, drift, performance, volume),
        anomalies=anomalies,
        reference=reference.name,
        version=None if serving is None else int(serving["version"]),
    )


def _reference(
    tenant: TenantDays,
    day: dt.date,
    serving: pd.Series | None,
    baseline: pd.DataFrame,
    references: dict[int, Reference | None],
) -> Reference:
    """The profile of the version that serves; before one does, or where it has none, that of the baseline window."""
    if serving is not None:
        number = int(serving["version"])
        if number not in references:
            references[number] = _of_version(tenant, number)
        found = references[number]
        if found is not None:
            return found
    monitoring = tenant.spec.monitoring
    first, last = midnight(day - monitoring.baseline_from * DAY), midnight(day - monitoring.baseline_to * DAY)
    name = f"the days from {first.date()} to {(last - DAY).date()}"

    def made() -> Profile:
        return profile(tenant.spec, baseline, None, _within(tenant.outcomes, "label_time", first, last))

    return Reference(len(baseline), name, made)


def _with_predictions(spec: ModelSpec, reference: Profile, earlier: pd.DataFrame) -> Profile:
    """The profile with the serving version's own earlier live predictions as those to compare with.

    What it predicted for its test part was predicted by a fit without that part. Another fit gives other values, few
    and each a little moved, which a test of distributions takes for a change.
    """
    no_rows = pd.DataFrame({"event_time": earlier["predicted_at"].iloc[:0]})
    return replace(reference, prediction=profile(spec, no_rows, earlier).prediction)


def _made(tenant: TenantDays, day: dt.date, serving: pd.Series | None) -> pd.DataFrame:
    """Live predictions of the serving version from the weeks up to the end of the day; none where none serves."""
    made = _within(tenant.live_predictions, "predicted_at", midnight(day - USUAL_DAYS * DAY), midnight(day + DAY))
    return made[made["version"] == (0 if serving is None else serving["version"])]


def _input_drift(drift: DriftReport) -> Literal["stable", "drift", "insufficient_data"]:
    """The report's status as far as the inputs go: predictions and labels that moved are no cause of a loss."""
    return "stable" if drift.status == "drift" and not drift.drifted else drift.status


def _of_version(tenant: TenantDays, number: int) -> Reference | None:
    """The reference that a version keeps; None where it has none, is gone, or is not what was registered (alerted)."""
    registry = tenant.clients.registry
    try:
        version = registry.version(tenant.tenant, tenant.spec.name, number)
        kept = registry.file(version, PROFILE)
        if kept is None:
            return None
        importance = json.loads(registry.file(version, IMPORTANCE) or "{}")
    except NoSuchVersion:
        return None
    except TamperedArtifact as error:
        alert_tampered(tenant.clients, tenant.tenant, tenant.spec.name, number, error)
        return None
    read = Profile.from_bytes(kept)
    return Reference(read.rows, f"what version {number} was trained on", lambda: read, importance)


def _within(frame: pd.DataFrame, time: str, start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    return frame[(frame[time] >= start) & (frame[time] < end)]


def _severity(performance: Degradation, drift: DriftReport, served: bool) -> Severity | None:
    """From the measured loss where outcomes say something of a version; drift that costs nothing has no severity."""
    if performance.status == "insufficient_data" or not served:
        return severity(None, drift.score)
    return performance.severity


def _anomalies(
    tenant: TenantDays, day: dt.date, serving: pd.Series | None
) -> tuple[dict[str, Anomalies], float | None]:
    """Unusual outcomes, predictions, inputs and measures of the day, and the p-value of its volume."""
    spec, start, end = tenant.spec, midnight(day), midnight(day + DAY)
    frame = tenant.frame
    first, last = frame["event_time"].searchsorted([start, end])
    made = _made(tenant, day, serving)
    summary = daily_summary(spec, frame.iloc[:last], day - USUAL_DAYS * DAY, day, made)
    found = {
        "outcomes": unusual_outcomes(spec, tenant.scored_by(day), start.to_pydatetime()),
        "predictions": unusual_predictions(spec, made, start.to_pydatetime()),
        "inputs": unusual_inputs(spec, frame.iloc[:first], frame.iloc[first:last]),
        "days": unusual_days(summary, [day]),
    }
    return found, volume_p_value(summary, day)


def _health(
    tenant: TenantDays,
    day: dt.date,
    serving: pd.Series | None,
    drift: DriftReport,
    performance: Degradation,
    volume: float | None,
) -> Health:
    first = day - (tenant.spec.monitoring.health_days - 1) * DAY
    recent = window_metrics(tenant.spec, tenant.outcomes, tenant.predictions, first, day)
    targets = [found["met"] for found in performance.targets.values() if found["met"] is not None]
    age = None if serving is None else (midnight(day + DAY) - serving["as_of"]) / pd.Timedelta(days=1)
    return health_score(
        skill=recent.skill,
        performance_loss=None if serving is None else _loss(performance),
        targets_met=sum(map(bool, targets)) / len(targets) if targets else None,
        drift_score=drift.score,
        calibration=_gap(performance),
        completeness=recent.completeness,
        error_share=_failed_share(tenant, day),
        version_age_days=age,
        volume=volume,
    )


def _loss(performance: Degradation) -> float | None:
    """The significant rise of the loss: 0 where the outcomes show no rise, None where they are too few."""
    if performance.status == "insufficient_data":
        return None
    return performance.rise if performance.status == "degraded" else 0.0


def _gap(performance: Degradation) -> float | None:
    """Distance of what was observed from what the predictions say: coverage, or the share of ones."""
    calibration = performance.calibration
    return calibration["observed"] - calibration["expected"] if calibration else None


def _failed_share(tenant: TenantDays, day: dt.date) -> float | None:
    """Share of the health window's retrainings that failed; None without one."""
    table = tables.decisions
    since = midnight(day - (tenant.spec.monitoring.health_days - 1) * DAY)
    query = sa.select(table.c.state).where(
        tenant.is_own(table),
        table.c.state.in_(["done", "failed"]),
        table.c.as_of >= since,
        table.c.as_of < midnight(day + DAY),
    )
    with tenant.clients.warehouse.tenant(tenant.tenant) as connection:
        states = list(connection.scalars(query))
    return states.count("failed") / len(states) if states else None


def _row(tenant: TenantDays, report: DayReport) -> dict[str, Any]:
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


def _store_anomalies(connection: sa.Connection, tenant: TenantDays, reports: Sequence[DayReport]) -> None:
    """The anomalies of the days; those that an earlier look at them had found are replaced."""
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


def _alert_degradation(connection: sa.Connection, tenant: TenantDays, report: DayReport) -> None:
    """Tells of a loss that rose, unless a week's alerts have said as much of this version."""
    performance, as_of = report.performance, midnight(report.day + DAY).to_pydatetime()
    if performance.severity is None or report.version is None:
        return
    table = tables.alerts
    told = sa.select(table.c.level).where(
        tenant.is_own(table),
        table.c.kind == "degradation",
        table.c.detail["version"].as_integer() == report.version,
        table.c.as_of < as_of,
        table.c.as_of > as_of - DEGRADATION_REMINDER_DAYS * DAY,
    )
    if any(rank(level) >= rank(performance.severity) for level in connection.scalars(told)):
        return
    raise_alert(
        connection,
        tenant.tenant,
        tenant.spec.name,
        kind="degradation",
        level=performance.severity,
        message=f"{report.day}: {performance.reason.rstrip('.')}: {report.cause}",
        as_of=as_of,
        detail={"day": report.day, "version": report.version, "health": report.health.score, **asdict(performance)},
    )


def _alert_drift(connection: sa.Connection, tenant: TenantDays, report: DayReport) -> None:
    """Alerts of drift that a report finds at the alert budget, unless recent alerts named all of it."""
    drift, as_of = report.drift, midnight(report.day + DAY).to_pydatetime()
    moved = {*drift.drifted, *_moved_together(drift)}
    if not drift.alert or moved <= _reported_columns(connection, tenant, as_of):
        return
    raise_alert(
        connection,
        tenant.tenant,
        tenant.spec.name,
        kind="drift",
        level=severity(None, drift.score) or "LOW",
        message=f"{report.day}: {drift.reason} {drift.recommendation}".rstrip(),
        as_of=as_of,
        detail={
            "day": report.day,
            "score": drift.score,
            "drifted": sorted(moved),
            "causes": [asdict(cause) for cause in drift.causes],
            "reference": report.reference,
            "health": report.health.score,
        },
    )


def _moved_together(drift: DriftReport) -> list[str]:
    """Predictions, labels and correlations, where they have drifted."""
    parts = {"prediction": drift.prediction, "label": drift.label, "correlations": drift.joint}
    return [name for name, part in parts.items() if part is not None and part.drifted]


def _reported_columns(connection: sa.Connection, tenant: TenantDays, as_of: dt.datetime) -> set[str]:
    """What drift alerts have named in the weeks before."""
    table = tables.alerts
    query = sa.select(table.c.detail["drifted"]).where(
        tenant.is_own(table),
        table.c.kind == "drift",
        table.c.as_of < as_of,
        table.c.as_of >= as_of - DRIFT_ALERT_SUPPRESSION_DAYS * DAY,
    )
    return {name for drifted in connection.scalars(query) for name in drifted}


def _metadata(report: DayReport) -> dict[str, Any]:
    return {
        "status": report.drift.status,
        "severity": report.severity,
        "score": report.drift.score,
        "drift alert": report.drift.alert,
        "drifted": tuple(report.drift.drifted),
        "health": report.health.score,
        "reason": report.reason,
        "performance": report.performance.reason,
        "recommendation": report.drift.recommendation,
        "compared with": report.reference,
        "anomalies": sum(found.count for found in report.anomalies.values()),
    }
