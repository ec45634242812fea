"""A small tenant of its own for each test: source rows, training and monitoring in this process, rows of the tables."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from ml_pipeline.importers import import_tables
from ml_pipeline.resources.registry import Registry, Version
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.work.monitoring.task import MonitoringReport, MonitoringTask, run_monitoring
from ml_pipeline.work.training.task import STEPS, TaskReport, TrainingTask, run_training

START = pd.Timestamp("2026-01-01", tz="UTC")
POINTS = {"Story": 8.0, "Task": 3.0, "Bug": 1.0}


def moment(day: float) -> pd.Timestamp:
    """The time ``day`` days after the tenants' first issue."""
    return START + pd.Timedelta(days=day)


def issues(days: int, *, learnable: bool = True, per_day: int = 6) -> pd.DataFrame:
    """Issues at regular times from ``START`` on, each estimated two days after it was created.

    The points follow from the type, give or take one; where they are not ``learnable``, from nothing.
    """
    count = days * per_day
    rng = np.random.default_rng(7)
    kinds = np.array(list(POINTS))[rng.integers(0, len(POINTS), count)]
    points = np.array([POINTS[kind] for kind in kinds]) + rng.choice([0.0, 1.0], count)
    created = START + pd.to_timedelta(np.arange(count) * 24 / per_day, unit="h")
    return pd.DataFrame(
        {
            "issue_key": [f"A-{number:04d}" for number in range(count)],
            "issue_type": kinds,
            "team": rng.choice(["red", "blue"], count),
            "created_at": created,
            "estimated_at": created + pd.Timedelta(days=2),
            "story_points": points if learnable else rng.permutation(points),
            "summary": "an issue",
        }
    )


def known_at(frame: pd.DataFrame, day: float) -> pd.DataFrame:
    """What a tracker's export held at the time: issues that existed, estimates that had been made."""
    then = frame[frame["created_at"] <= moment(day)].copy()
    then.loc[then["estimated_at"] > moment(day), ["estimated_at", "story_points"]] = None
    return then


@dataclass(frozen=True)
class Tenant:
    """One tenant of an installation, with a specification that trains in milliseconds."""

    settings: Settings
    spec: ModelSpec
    name: str = "acme"

    @property
    def registry(self) -> Registry:
        return Registry(self.settings)

    def named(self, name: str) -> Tenant:
        return replace(self, name=name)

    def changed(self, part: str, **values: Any) -> Tenant:
        """The same tenant with other values in one part of its specification."""
        changed = getattr(self.spec, part).model_copy(update=values)
        return replace(self, spec=self.spec.model_copy(update={part: changed}))

    def holds(self, frame: pd.DataFrame) -> Tenant:
        import_tables(Warehouse(self.settings), self.name, frame, None)
        return self

    def task(self, day: float, steps: tuple[str, ...] = STEPS) -> TrainingTask:
        return TrainingTask(self.settings, self.spec, self.name, moment(day).isoformat(), steps)

    def train(self, day: float, steps: tuple[str, ...] = STEPS) -> TaskReport:
        return run_training(self.task(day, steps))

    def monitor(self, *days: int) -> MonitoringReport:
        dates = tuple(date_of(day) for day in days)
        return run_monitoring(MonitoringTask(self.settings, self.spec, self.name, dates))

    def rows(self, table: sa.Table, **where: Any) -> list[dict[str, Any]]:
        """The tenant's rows of a table, in the order of its key, or as they were written where that is kept."""
        order = [table.c.sequence] if "sequence" in table.c else list(table.primary_key)
        query = sa.select(table).order_by(*order).filter_by(**where)
        with Warehouse(self.settings).tenant(self.name) as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def versions(self) -> list[Version]:
        """Registered versions, oldest first."""
        return self.registry.versions(self.name, self.spec.name)[::-1]

    def aliases(self) -> dict[str, int]:
        return self.registry.aliases().get((self.name, self.spec.name), {})


def date_of(day: int) -> dt.date:
    return moment(day).date()


@pytest.fixture
def tenant(settings: Settings) -> Tenant:
    shipped = load_specs()["story_points"]
    quick = {"params": {"n_estimators": 20, "max_depth": 3, "learning_rate": 0.3}}
    quick |= {"ensemble": "voting", "candidates": {"linear": {}}, "min_improvement_se": 2.0}
    windows = {"baseline_from": 21, "baseline_to": 7, "current": 7, "backtest_days": 7}
    updates = {
        "training": shipped.training.model_copy(update=quick),
        "features": shipped.features.model_copy(update={"text": []}),
        "monitoring": shipped.monitoring.model_copy(update=windows),
    }
    return Tenant(settings, shipped.model_copy(update=updates))


@pytest.fixture
def mixed(tenant: Tenant) -> Tenant:
    """The same tenant with a mixture, as story points are shipped."""
    return tenant.changed("training", ensemble="online", candidates={})


@pytest.fixture(scope="session")
def make_issues() -> Callable[..., pd.DataFrame]:
    return issues


@pytest.fixture(scope="session")
def as_known() -> Callable[[pd.DataFrame, float], pd.DataFrame]:
    return known_at
