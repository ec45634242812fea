"""Daily metrics and drift reports of one tenant, for any number of days at once."""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from ml_pipeline.monitoring.performance import DailyMetrics, daily_metrics, lacks_predictions
from ml_pipeline.resources import tables
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec
from ml_pipeline.timeutil import DAY
from ml_pipeline.work.alerts.raising import NewAlert, raise_alert
from ml_pipeline.work.failures import log_failure
from ml_pipeline.work.feature_frames import FeatureFrames
from ml_pipeline.work.monitoring.report import write_reports
from ml_pipeline.work.monitoring.report_store import json_safe
from ml_pipeline.work.monitoring.tenant_days import TenantDays, midnight, records

DAILY_METRICS, DRIFT_REPORT = "daily_metrics", "drift_report"
STEPS = (DAILY_METRICS, DRIFT_REPORT)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MonitoringTask:
    """One tenant's share of a monitoring run: which steps for which days, oldest first."""

    settings: Settings
    spec: ModelSpec
    tenant: str
    days: tuple[dt.date, ...]
    steps: tuple[str, ...] = STEPS


@dataclass
class MonitoringReport:
    """Metadata of each finished (step, day), and the error that ended the task."""

    done: dict[tuple[str, dt.date], dict[str, Any]]
    error: str | None = None
    traceback: str = ""  # of an unexpected error, shortened


def run_monitoring(task: MonitoringTask, frames: FeatureFrames | None = None) -> MonitoringReport:
    """Runs the steps of one tenant, each over all its days; steps that finished before an error stay stored.

    ``frames`` are those of a caller that runs several tasks on the same source rows; by default the task has its own.
    """
    report = MonitoringReport({})
    tenant = TenantDays(task.settings, task.spec, task.tenant, task.days, frames)
    for step, write in ((DAILY_METRICS, write_metrics), (DRIFT_REPORT, write_reports)):
        if step not in task.steps:
            continue
        try:
            report.done |= {(step, day): metadata for day, metadata in write(tenant).items()}
        except Exception as error:  # noqa: BLE001 - reported as the tenant's failure, which fails the run at its end
            report.traceback = log_failure(logger, f"tenant {task.tenant}, model {task.spec.name}: step {step}", error)
            report.error = f"{step}: {type(error).__name__}: {error}"
            break
    return report


def write_metrics(tenant: TenantDays) -> dict[dt.date, dict[str, Any]]:
    """Stores one metrics row per day, and the outcomes of the days."""
    found = {day: daily_metrics(tenant.spec, tenant.outcomes, tenant.predictions, day) for day in tenant.days}
    warehouse = tenant.clients.warehouse
    with warehouse.tenant(tenant.tenant) as connection:
        warehouse.upsert(connection, tables.outcomes, _outcome_rows(tenant, connection))
        rows = [_metrics_row(tenant, day, metrics) for day, metrics in found.items()]
        warehouse.upsert(connection, tables.daily_metrics, rows)
        needed = tenant.spec.monitoring.min_completeness
        incomplete = [
            day
            for day, metrics in found.items()
            if tenant.serving(day - DAY) is not None and lacks_predictions(metrics, needed)
        ]
        for day in incomplete:
            _alert_incomplete(connection, tenant, day, found[day])
    return {day: _metadata(tenant.spec, metrics, day in incomplete) for day, metrics in found.items()}


def _outcome_rows(tenant: TenantDays, connection: sa.Connection) -> list[dict[str, Any]]:
    """The outcomes of the days, and late ones of earlier days, as from a tracker that is imported once a week."""
    columns = {"entity_id": "entity_id", "label_time": "label_time", "label": "value"}
    outcomes = tenant.outcomes
    earlier = (outcomes["label_time"] < midnight(tenant.days[0])).to_numpy()
    # The entities whose outcome from before the days is not stored yet; on most nights there are none.
    entities = list(outcomes["entity_id"].to_numpy(object)[earlier])
    table = tables.outcomes
    asked = sa.func.unnest(sa.cast(entities, sa.ARRAY(sa.Text))).column_valued("asked")
    of_asked = (tenant.is_own(table), table.c.entity_id == asked, table.c.label_time < midnight(tenant.days[0]))
    late = list(connection.scalars(sa.select(asked).where(~sa.exists().where(*of_asked))))
    wanted = ~earlier | outcomes["entity_id"].isin(late).to_numpy() if late else ~earlier
    found = outcomes.loc[wanted, list(columns)].rename(columns=columns)
    return [{**tenant.own, **record} for record in records(found)]


def _metrics_row(tenant: TenantDays, day: dt.date, metrics: DailyMetrics) -> dict[str, Any]:
    serving = tenant.serving(day)
    version = metrics.version or (None if serving is None else int(serving["version"]))
    row = asdict(metrics) | {"version": version, "metrics": json_safe(metrics.metrics)}
    return {**tenant.own, "day": day, **row}


def _alert_incomplete(connection: sa.Connection, tenant: TenantDays, day: dt.date, metrics: DailyMetrics) -> None:
    """Significantly fewer outcomes than required had a prediction, although a version served the day before."""
    spec = tenant.spec
    needed = spec.monitoring.min_completeness
    alert = NewAlert(
        tenant.tenant,
        spec.name,
        kind="outcomes_without_prediction",
        level="MEDIUM",
        message=f"On {day}, {metrics.evaluated} of {metrics.outcomes} outcomes had a prediction made before them "
        f"({metrics.completeness:.0%}, needed {needed:.0%}). Check that {spec.name}/predictions runs",
        as_of=midnight(day + DAY).to_pydatetime(),
        detail={"outcomes": metrics.outcomes, "evaluated": metrics.evaluated},
    )
    raise_alert(connection, alert)


def _metadata(spec: ModelSpec, metrics: DailyMetrics, incomplete: bool) -> dict[str, Any]:
    business: dict[str, float | None] = {}
    for asked in spec.business_metrics:
        business[asked.title] = metrics.metrics[asked.name]
        business[f"{asked.title}, of the baseline"] = metrics.metrics[f"baseline_{asked.name}"]
    return {
        "outcomes": metrics.outcomes,
        "evaluated": metrics.evaluated,
        "predictions missing": incomplete,
        "origin": metrics.origin,
        metrics.metric: metrics.value,
        f"{metrics.metric} of the baseline": metrics.baseline_value,
        "skill": metrics.skill,
        **business,
    }
