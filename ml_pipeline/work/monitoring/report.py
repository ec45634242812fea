"""The daily report of one tenant: drift, degradation and its cause, anomalies and health."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

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
from ml_pipeline.specs import ModelSpec
from ml_pipeline.timeutil import DAY
from ml_pipeline.work.monitoring.day_report import DayReport, raise_alerts, report_row, store_anomalies
from ml_pipeline.work.monitoring.tenant_days import USUAL_DAYS, TenantDays, midnight
from ml_pipeline.work.scoring import alert_tampered
from ml_pipeline.work.training.version_files import IMPORTANCE, PROFILE


@dataclass(frozen=True)
class Reference:
    """The rows that the last days are compared with, and the feature importance of their version."""

    rows: int
    name: str
    profile: Callable[[], Profile]  # computed only if there are rows to compare with it
    importance: dict[str, float] = field(default_factory=dict)


def write_reports(tenant: TenantDays) -> dict[dt.date, dict[str, Any]]:
    """Stores one report per day with its anomalies, and raises alerts; returns metadata by day."""
    references: dict[int, Reference | None] = {}
    found = [report_of(tenant, day, references) for day in tenant.days]
    warehouse = tenant.clients.warehouse
    with warehouse.tenant(tenant.tenant) as connection:
        warehouse.upsert(connection, tables.drift_reports, [report_row(tenant, report) for report in found])
        store_anomalies(connection, tenant, found)
        for report in found:
            raise_alerts(connection, tenant, report)
    return {report.day: _metadata(report) for report in found}


def report_of(tenant: TenantDays, day: dt.date, references: dict[int, Reference | None]) -> DayReport:
    """The report of one day; ``references`` caches the references of versions from one day to the next."""
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
    # Drift of predictions and labels explains no rise of the loss; drift of the inputs may.
    inputs = "stable" if drift.status == "drift" and not drift.drifted else drift.status
    anomalies, volume = _anomalies(tenant, day, serving)
    is_measured = serving is not None and performance.status != "insufficient_data"
    return DayReport(
        day=day,
        drift=drift,
        performance=performance,
        cause=root_cause_of(performance, inputs).reason,
        severity=performance.severity if is_measured else severity(None, drift.score),
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
    """The profile of the serving version; without a version, or if that has no profile, the baseline window's."""
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
    """The profile, with the serving version's own earlier live predictions as the distribution of predictions.

    The predictions for its test part come from another fit, made without that part. That fit gives slightly different
    values, which a test of distributions would report as drift.
    """
    no_rows = pd.DataFrame({"event_time": earlier["predicted_at"].iloc[:0]})
    return replace(reference, prediction=profile(spec, no_rows, earlier).prediction)


def _made(tenant: TenantDays, day: dt.date, serving: pd.Series | None) -> pd.DataFrame:
    """The serving version's live predictions of the weeks up to the end of the day; empty if none serves."""
    made = _within(tenant.live_predictions, "predicted_at", midnight(day - USUAL_DAYS * DAY), midnight(day + DAY))
    return made[made["version"] == (0 if serving is None else serving["version"])]


def _of_version(tenant: TenantDays, number: int) -> Reference | None:
    """A version's stored reference; None if it has none, was deleted, or was tampered with (which raises an alert)."""
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
    rise: float | None = None
    if serving is not None and performance.status != "insufficient_data":
        rise = performance.rise if performance.status == "degraded" else 0.0
    calibration = performance.calibration
    age = None if serving is None else (midnight(day + DAY) - serving["as_of"]) / pd.Timedelta(days=1)
    return health_score(
        skill=recent.skill,
        performance_loss=rise,
        targets_met=sum(map(bool, targets)) / len(targets) if targets else None,
        drift_score=drift.score,
        calibration=calibration["observed"] - calibration["expected"] if calibration else None,
        completeness=recent.completeness,
        error_share=_failed_share(tenant, day),
        version_age_days=age,
        volume=volume,
    )


def _failed_share(tenant: TenantDays, day: dt.date) -> float | None:
    """Share of the health window's retrainings that failed; None if there was none."""
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
