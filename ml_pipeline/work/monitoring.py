"""Daily metrics and drift reports of one tenant, for any number of days at once.

Features are point in time, so they are built once, at the end of the last day, and each day is a slice of them.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import sqlalchemy as sa

from ml_pipeline.features.point_in_time import build
from ml_pipeline.monitoring.drift import compare, severity, windows
from ml_pipeline.monitoring.health import health_score
from ml_pipeline.monitoring.performance import (
    DailyMetrics,
    daily_metrics,
    lacks_predictions,
    performance_loss,
    window_metrics,
)
from ml_pipeline.resources import tables
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.backtest import origin, rolling_origin
from ml_pipeline.work.context import Doors
from ml_pipeline.work.records import json_safe, raise_alert

DAILY_METRICS, DRIFT_REPORT = "daily_metrics", "drift_report"
STEPS = (DAILY_METRICS, DRIFT_REPORT)
DAY = dt.timedelta(days=1)


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


def run_monitoring(task: MonitoringTask) -> MonitoringReport:
    """Runs the steps of one tenant, each over all its days; what was done before an error stays done."""
    report = MonitoringReport({})
    tenant = _TenantDays(task)
    for step, method in ((DAILY_METRICS, tenant.daily_metrics), (DRIFT_REPORT, tenant.drift_reports)):
        if step not in task.steps:
            continue
        try:
            report.done |= {(step, day): metadata for day, metadata in method().items()}
        except Exception as error:  # noqa: BLE001 - reported as the tenant's failure, which fails the run at its end
            report.error = f"{step}: {type(error).__name__}: {error}"
            break
    return report


class _TenantDays:
    """One tenant and model over some days."""

    def __init__(self, task: MonitoringTask) -> None:
        self.task = task
        self.spec = task.spec
        self.tenant = task.tenant
        self.days = sorted(task.days)
        self.doors = Doors(task.settings)

    @cached_property
    def frame(self) -> pd.DataFrame:
        end = _midnight(self.days[-1] + DAY)
        return build(self.spec, self.doors.warehouse.read_source(self.spec, self.tenant), end)

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        """Outcomes that became known in the days asked for, or in the health window before them."""
        matured = self.frame[self.frame["state"] == "matured"]
        since = _midnight(self.days[0] - (self.spec.monitoring.health_days - 1) * DAY)
        until = _midnight(self.days[-1] + DAY)
        known = matured[(matured["label_time"] >= since) & (matured["label_time"] < until)]
        return known[["entity_id", "event_time", "label_time", "label"]].reset_index(drop=True)

    @cached_property
    def deployments(self) -> pd.DataFrame:
        """Finished deployments, oldest first: version, as_of and the skill that the version was promoted with."""
        table, decided = tables.deployments, tables.decisions
        skill = sa.cast(decided.c.numbers["skill"].astext, sa.Double).label("skill")
        query = (
            sa.select(table.c.version, table.c.as_of, skill)
            .select_from(
                table.outerjoin(
                    decided,
                    (decided.c.tenant_id == table.c.tenant_id)
                    & (decided.c.model == table.c.model)
                    & (decided.c.version == table.c.version)
                    & (decided.c.kind == "promote"),
                )
            )
            .where(table.c.tenant_id == self.tenant, table.c.model == self.spec.name, table.c.state == "done")
            .order_by(table.c.as_of, table.c.created_at)
        )
        with self.doors.warehouse.tenant(self.tenant) as connection:
            return pd.DataFrame(connection.execute(query).all(), columns=["version", "as_of", "skill"])

    def _serving(self, day: dt.date) -> pd.Series | None:
        """The deployment that served at the end of the day."""
        if self.deployments.empty:
            return None
        before = self.deployments[pd.to_datetime(self.deployments["as_of"], utc=True) < _midnight(day + DAY)]
        return None if before.empty else before.iloc[-1]

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Predictions for the outcomes: those that were made, and a backtest for what matured before any was."""
        eligible, stored = self._backtestable(), self._stored_predictions()
        stored = stored[(stored["origin"] != "backtest") | stored["entity_id"].isin(eligible["entity_id"])]
        missing = eligible[~eligible["entity_id"].isin(stored.loc[stored["origin"] == "backtest", "entity_id"])]
        if missing.empty:
            return stored
        made = self._backtest(missing["event_time"])
        # Also of entities whose outcome is still to come: otherwise each night would fit the same origin again.
        self._store_backtest(made)
        made = made[made["entity_id"].isin(missing["entity_id"])]
        return pd.concat([stored, made[stored.columns]], ignore_index=True) if len(made) else stored

    def _stored_predictions(self) -> pd.DataFrame:
        table = tables.predictions
        names = ["entity_id", "predicted_at", "value", "lower", "upper", "baseline", "version", "origin"]
        entities = sa.func.unnest(sa.cast(list(self.outcomes["entity_id"]), sa.ARRAY(sa.Text)))
        query = sa.select(*(table.c[name] for name in names)).where(
            table.c.tenant_id == self.tenant,
            table.c.model == self.spec.name,
            table.c.entity_id.in_(sa.select(entities)),
        )
        with self.doors.warehouse.tenant(self.tenant) as connection:
            stored = pd.DataFrame(connection.execute(query).all(), columns=names)
        return _typed_predictions(stored)

    def _backtestable(self) -> pd.DataFrame:
        """Outcomes from before the first deployment, of entities that did not take too long."""
        first = None if self.deployments.empty else pd.Timestamp(self.deployments["as_of"].iloc[0])
        outcomes = self.outcomes
        reach = pd.Timedelta(days=self.spec.monitoring.backtest_reach_days)
        wanted = outcomes["label_time"] - outcomes["event_time"] <= reach
        if first is not None:
            wanted &= outcomes["label_time"] < first
        return outcomes[wanted]

    def _backtest(self, event_times: pd.Series) -> pd.DataFrame:
        every = self.spec.monitoring.backtest_days
        origins = sorted({origin(moment, every) for moment in event_times})
        parts = [rolling_origin(self.spec, self.frame, start, start + pd.Timedelta(days=1)) for start in origins]
        return _typed_predictions(pd.concat(parts, ignore_index=True).assign(version=0, origin="backtest"))

    def _store_backtest(self, made: pd.DataFrame) -> None:
        columns = [
            "entity_id",
            "event_time",
            "predicted_at",
            "value",
            "lower",
            "upper",
            "baseline",
            "version",
            "origin",
        ]
        records = _records(made[columns])
        rows = [{"tenant_id": self.tenant, "model": self.spec.name, **record} for record in records]
        with self.doors.warehouse.tenant(self.tenant) as connection:
            self.doors.warehouse.upsert(connection, tables.predictions, rows)

    def daily_metrics(self) -> dict[dt.date, dict[str, Any]]:
        """One metrics row per day, and the outcomes of the days."""
        found = {day: daily_metrics(self.spec, self.outcomes, self.predictions, day) for day in self.days}
        with self.doors.warehouse.tenant(self.tenant) as connection:
            self._store_outcomes(connection)
            rows = [self._metrics_row(day, metrics) for day, metrics in found.items()]
            self.doors.warehouse.upsert(connection, tables.daily_metrics, rows)
            for day, metrics in found.items():
                self._alert_incomplete(connection, day, metrics)
        return {day: self._metrics_metadata(metrics) for day, metrics in found.items()}

    def _store_outcomes(self, connection: sa.Connection) -> None:
        columns = {"entity_id": "entity_id", "label_time": "label_time", "label": "value"}
        of_days = self.outcomes["label_time"] >= _midnight(self.days[0])
        records = _records(self.outcomes.loc[of_days, list(columns)].rename(columns=columns))
        rows = [{"tenant_id": self.tenant, "model": self.spec.name, **record} for record in records]
        self.doors.warehouse.upsert(connection, tables.outcomes, rows)

    def _metrics_row(self, day: dt.date, metrics: DailyMetrics) -> dict[str, Any]:
        serving = self._serving(day)
        version = metrics.version or (None if serving is None else int(serving["version"]))
        row = asdict(metrics) | {"version": version, "metrics": json_safe(metrics.metrics)}
        return {"tenant_id": self.tenant, "model": self.spec.name, "day": day, **row}

    def _alert_incomplete(self, connection: sa.Connection, day: dt.date, metrics: DailyMetrics) -> None:
        needed = self.spec.monitoring.min_completeness
        if self._serving(day - DAY) is None or not lacks_predictions(metrics, needed):
            return
        raise_alert(
            connection,
            self.tenant,
            self.spec.name,
            kind="outcomes_without_prediction",
            level="MEDIUM",
            message=f"On {day}, {metrics.evaluated} of {metrics.outcomes} outcomes had a prediction made before them "
            f"({metrics.completeness:.0%}, needed {needed:.0%}). Check that {self.spec.name}/predictions runs",
            as_of=_midnight(day + DAY).to_pydatetime(),
            detail={"outcomes": metrics.outcomes, "evaluated": metrics.evaluated},
        )

    def _metrics_metadata(self, metrics: DailyMetrics) -> dict[str, Any]:
        return {
            "outcomes": metrics.outcomes,
            "evaluated": metrics.evaluated,
            "origin": metrics.origin,
            metrics.metric: metrics.value,
            f"{metrics.metric} of the constant": metrics.baseline_value,
            "skill": metrics.skill,
        }

    def drift_reports(self) -> dict[dt.date, dict[str, Any]]:
        """One drift report per day, with severity and health."""
        rows, metadata = [], {}
        for day in self.days:
            row = self._drift_row(day)
            rows.append(row)
            metadata[day] = {name: row[name] for name in ("status", "severity", "score", "health", "reason")}
        with self.doors.warehouse.tenant(self.tenant) as connection:
            self.doors.warehouse.upsert(connection, tables.drift_reports, rows)
            for row in rows:
                self._alert_drift(connection, row)
        return metadata

    def _drift_row(self, day: dt.date) -> dict[str, Any]:
        baseline, current = windows(self.frame, day, self.spec.monitoring)
        report = compare(self.spec, baseline, current)
        serving = self._serving(day)
        recent = self._recent_performance(day)
        loss, measured = (None, "") if serving is None else self._performance_loss(day, serving)
        age = (
            None if serving is None else (_midnight(day + DAY) - pd.Timestamp(serving["as_of"])) / pd.Timedelta(days=1)
        )
        health = health_score(
            skill=recent.skill,
            performance_loss=loss,
            drift_score=report.score,
            completeness=recent.completeness,
            version_age_days=age,
        )
        return {
            "tenant_id": self.tenant,
            "model": self.spec.name,
            "day": day,
            "status": report.status,
            "severity": severity(loss, report.score),
            "score": report.score,
            "baseline_rows": report.baseline_rows,
            "current_rows": report.current_rows,
            "drifted": json_safe(report.drifted),
            "columns": json_safe(report.columns),
            "health": health.score,
            "version": None if serving is None else int(serving["version"]),
            "reason": measured + report.reason,
        }

    def _recent_performance(self, day: dt.date) -> DailyMetrics:
        """Performance over the outcomes of the health window that ends with the day."""
        first = day - (self.spec.monitoring.health_days - 1) * DAY
        return window_metrics(self.spec, self.outcomes, self.predictions, first, day)

    def _performance_loss(self, day: dt.date, serving: pd.Series) -> tuple[float | None, str]:
        """Rise of the serving version's loss over what its promotion promised, and the sentence where it rose.

        Promised is its skill: so much of the constant's loss on these same outcomes. The loss itself would not compare,
        for a test part holds only what matured by then, the quick half of the lead times. Only what this very version
        predicted live counts: a backtest, or another version, was not expected to be as good.
        """
        first = day - (self.spec.monitoring.health_days - 1) * DAY
        made = self.predictions
        own = made[(made["origin"] == "live") & (made["version"] == serving["version"])]
        recent = window_metrics(self.spec, self.outcomes, own, first, day)
        constant = recent.baseline_value
        expected = None if constant is None or pd.isna(serving["skill"]) else constant * (1 - float(serving["skill"]))
        loss = performance_loss(recent, expected, self.spec.monitoring.min_rows)
        if severity(loss, None) is None:
            return loss, ""
        return loss, (
            f"The {recent.metric} of version {serving['version']} is {recent.value:.3g} on the {recent.evaluated} "
            f"outcomes of the last {self.spec.monitoring.health_days} days, {loss:.0%} above the {expected:.3g} that "
            "its promotion promised. "
        )

    def _alert_drift(self, connection: sa.Connection, row: dict[str, Any]) -> None:
        if row["severity"] not in ("HIGH", "CRITICAL"):
            return
        raise_alert(
            connection,
            self.tenant,
            self.spec.name,
            kind="drift",
            level=row["severity"],
            message=f"{row['day']}: {row['reason']}",
            as_of=_midnight(row["day"] + DAY).to_pydatetime(),
            detail={"day": row["day"], "score": row["score"], "drifted": row["drifted"], "health": row["health"]},
        )


def _midnight(day: dt.date) -> pd.Timestamp:
    return pd.Timestamp(day, tz="UTC")


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as the database takes them: missing numbers as None."""
    columns = {str(name): frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in frame}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _typed_predictions(frame: pd.DataFrame) -> pd.DataFrame:
    """The types that the metrics take, also where a query found no rows."""
    numbers = dict.fromkeys(("value", "lower", "upper", "baseline"), "float64")
    typed = frame.astype(numbers | {"version": "int64"})
    return typed.assign(predicted_at=pd.to_datetime(typed["predicted_at"], utc=True).astype("datetime64[us, UTC]"))
