"""The data of one tenant and model for some days: features, outcomes, predictions, deployments.

Features are point in time. They are built once, as of the end of the last day, and each day is a slice of them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import pandas as pd
import sqlalchemy as sa

from ml_pipeline.monitoring.performance import scored_outcomes
from ml_pipeline.resources import tables
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec
from ml_pipeline.timeutil import DAY
from ml_pipeline.training.backtest import origin, rolling_origin
from ml_pipeline.work.context import Clients
from ml_pipeline.work.feature_frames import FeatureFrames
from ml_pipeline.work.tenant_settings import spec_for

USUAL_DAYS = 56  # days before a day with which its volume, missing values and predictions are compared


class TenantDays:
    """One tenant and model over some days, oldest first; each part is read or built at its first use."""

    def __init__(
        self,
        settings: Settings,
        spec: ModelSpec,
        tenant: str,
        days: Sequence[dt.date],
        frames: FeatureFrames | None = None,
    ) -> None:
        self.tenant = tenant
        self.days = sorted(days)
        self.clients = Clients(settings)
        self._frames = frames or FeatureFrames(self.clients.warehouse)
        self._written = spec

    @cached_property
    def spec(self) -> ModelSpec:
        return spec_for(self.clients.warehouse, self._written, self.tenant)

    @property
    def own(self) -> dict[str, str]:
        """The first columns of every row of this tenant and model."""
        return {"tenant_id": self.tenant, "model": self.spec.name}

    def is_own(self, table: sa.Table) -> sa.ColumnElement[bool]:
        return (table.c.tenant_id == self.tenant) & (table.c.model == self.spec.name)

    @cached_property
    def frame(self) -> pd.DataFrame:
        return self._frames.frame(self.spec, self.tenant, midnight(self.days[-1] + DAY))

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        """Outcomes that became known on these days, or before them within the window of the degradation test."""
        matured = self.frame[self.frame["state"] == "matured"]
        since = midnight(self.days[0] - (self.spec.monitoring.degradation_days - 1) * DAY)
        until = midnight(self.days[-1] + DAY)
        known = matured[(matured["label_time"] >= since) & (matured["label_time"] < until)]
        return known[["entity_id", "event_time", "label_time", "label"]].reset_index(drop=True)

    @cached_property
    def deployments(self) -> pd.DataFrame:
        """Finished deployments in order: version (0 if a person removed the alias) and as_of."""
        table = tables.deployments
        query = (
            sa.select(table.c.version, table.c.as_of)
            .where(self.is_own(table), table.c.state == "done")
            .order_by(table.c.sequence)
        )
        with self.clients.warehouse.tenant(self.tenant) as connection:
            found = pd.DataFrame(connection.execute(query).all(), columns=["version", "as_of"])
        return found.assign(as_of=pd.to_datetime(found["as_of"], utc=True))

    def serving(self, day: dt.date) -> pd.Series | None:
        """The deployment that served at the end of the day; None if no version did."""
        before = self.deployments[self.deployments["as_of"] < midnight(day + DAY)]
        return None if before.empty or not before.iloc[-1]["version"] else before.iloc[-1]

    def backtested_from(self, day: dt.date) -> pd.Timestamp:
        """Label time from which outcomes without a live prediction are backtested for a day.

        The span before the day is fixed, so that a report does not depend on which days were requested with it.
        """
        monitoring = self.spec.monitoring
        return midnight(day - (max(monitoring.health_days, monitoring.baseline_from) - 1) * DAY)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Predictions for the outcomes: stored ones, and a backtest for outcomes from before the first deployment."""
        eligible, stored = self._backtestable(), self._stored_predictions()
        stored = stored[(stored["origin"] != "backtest") | stored["entity_id"].isin(eligible["entity_id"])]
        missing = eligible[~eligible["entity_id"].isin(stored.loc[stored["origin"] == "backtest", "entity_id"])]
        if missing.empty:
            return stored
        every = self.spec.monitoring.backtest_days
        origins = sorted({origin(created, every) for created in missing["event_time"]})
        parts = [rolling_origin(self.spec, self.frame, start, start + pd.Timedelta(days=1)) for start in origins]
        made = _typed_predictions(pd.concat(parts, ignore_index=True).assign(version=0, origin="backtest"))
        # Entities whose outcome is still unknown are stored too: otherwise each night would fit the same origin again.
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
        with self.clients.warehouse.tenant(self.tenant) as connection:
            rows = [{**self.own, **record} for record in records(made[columns])]
            self.clients.warehouse.upsert(connection, tables.predictions, rows)
        made = made[made["entity_id"].isin(missing["entity_id"])]
        return pd.concat([stored, made[stored.columns]], ignore_index=True) if len(made) else stored

    @cached_property
    def scored(self) -> pd.DataFrame:
        """Each outcome with the prediction that is evaluated, and its loss."""
        return scored_outcomes(self.spec.task, self.outcomes, self.predictions)

    def scored_by(self, day: dt.date) -> pd.DataFrame:
        """The part of ``scored`` that was known at the end of the day."""
        scored = self.scored
        known = scored["label_time"] < midnight(day + DAY)
        return scored[known & ((scored["origin"] != "backtest") | (scored["label_time"] >= self.backtested_from(day)))]

    @cached_property
    def live_predictions(self) -> pd.DataFrame:
        """The serving versions' predictions in the order in which they were made, with or without an outcome."""
        table = tables.predictions
        names = ["entity_id", "predicted_at", "value", "version"]
        query = sa.select(*(table.c[name] for name in names)).where(
            self.is_own(table),
            table.c.origin == "live",
            table.c.predicted_at >= midnight(self.days[0] - USUAL_DAYS * DAY),
            table.c.predicted_at < midnight(self.days[-1] + DAY),
        )
        with self.clients.warehouse.tenant(self.tenant) as connection:
            found = pd.DataFrame(connection.execute(query).all(), columns=names)
        found = found.astype({"value": "float64", "version": "int64"})
        found["predicted_at"] = pd.to_datetime(found["predicted_at"], utc=True).astype("datetime64[us, UTC]")
        return found.sort_values(["predicted_at", "entity_id"], ignore_index=True)

    def _stored_predictions(self) -> pd.DataFrame:
        table = tables.predictions
        names = ["entity_id", "predicted_at", "value", "lower", "upper", "baseline", "version", "origin"]
        entities = sa.func.unnest(sa.cast(list(self.outcomes["entity_id"]), sa.ARRAY(sa.Text)))
        query = sa.select(*(table.c[name] for name in names)).where(
            self.is_own(table), table.c.entity_id.in_(sa.select(entities))
        )
        with self.clients.warehouse.tenant(self.tenant) as connection:
            stored = pd.DataFrame(connection.execute(query).all(), columns=names)
        return _typed_predictions(stored)

    def _backtestable(self) -> pd.DataFrame:
        """Outcomes from before the first deployment, of entities that matured within ``backtest_reach_days``."""
        first = None if self.deployments.empty else self.deployments["as_of"].min()
        outcomes = self.outcomes
        reach = pd.Timedelta(days=self.spec.monitoring.backtest_reach_days)
        wanted = outcomes["label_time"] - outcomes["event_time"] <= reach
        wanted &= outcomes["label_time"] >= self.backtested_from(self.days[0])
        if first is not None:
            wanted &= outcomes["label_time"] < first
        return outcomes[wanted]


def midnight(day: dt.date) -> pd.Timestamp:
    """The time at which a day begins, in UTC."""
    return pd.Timestamp(day, tz="UTC")


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as the database takes them: missing numbers as None."""
    columns = {str(name): frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in frame}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _typed_predictions(frame: pd.DataFrame) -> pd.DataFrame:
    """Predictions with the column types that the metrics expect, even if there are no rows."""
    numbers = dict.fromkeys(("value", "lower", "upper", "baseline"), "float64")
    typed = frame.astype(numbers | {"version": "int64"})
    return typed.assign(predicted_at=pd.to_datetime(typed["predicted_at"], utc=True).astype("datetime64[us, UTC]"))
