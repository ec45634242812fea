"""A simulated tenant whose points follow from the type of an issue, with a day on which that may change."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.features.point_in_time import build
from ml_pipeline.replay.history import History
from ml_pipeline.replay.learner import Learner
from ml_pipeline.specs import ModelSpec, load_specs

START = dt.date(2025, 1, 1)
POINTS = {"Story": 8.0, "Task": 3.0, "Bug": 1.0}
CHANGED = {"Story": 1.0, "Task": 8.0, "Bug": 13.0}
PER_DAY = 10
LONGEST = 200  # days; a shorter past is the beginning of a longer one


def day(number: int) -> dt.date:
    return START + dt.timedelta(days=number)


def issues(days: int, change: int | None = None) -> pd.DataFrame:
    """Ten issues a day, each estimated two days after it was created; from the day ``change`` on in another way."""
    count = LONGEST * PER_DAY
    rng = np.random.default_rng(11)
    kinds = rng.choice(list(POINTS), count)
    created = pd.Timestamp(START, tz="UTC") + pd.to_timedelta(np.arange(count) * 24 / PER_DAY, unit="h")
    before = np.arange(count) < (count if change is None else change * PER_DAY)
    noise = rng.choice([0.0, 1.0, 2.0], count)
    points = np.array([(POINTS if old else CHANGED)[kind] for kind, old in zip(kinds, before, strict=True)]) + noise
    rows = pd.DataFrame(
        {
            "issue_key": [f"A-{number:05d}" for number in range(count)],
            "issue_type": kinds,
            "team": rng.choice(["red", "blue"], count),
            "reporter": None,
            "created_at": created,
            "estimated_at": created + pd.Timedelta(days=2),
            "resolved_at": pd.NaT,
            "story_points": points,
            "summary": "an issue",
            "description": None,
        }
    )
    return rows.head(days * PER_DAY)


def known_at(rows: pd.DataFrame, moment: pd.Timestamp) -> pd.DataFrame:
    """What a tracker held at the moment: issues that existed, estimates that had been made."""
    then = rows[rows["created_at"] <= moment].copy()
    then.loc[then["estimated_at"] > moment, ["estimated_at", "story_points"]] = None
    return then


def learner_of(spec: ModelSpec, rows: pd.DataFrame, first: dt.date, last: dt.date) -> Learner:
    moment = pd.Timestamp(last, tz="UTC") + pd.Timedelta(days=1)
    return Learner(History(spec, build(spec, known_at(rows, moment), moment), first, last))


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    """The shipped story points without text and with few trees, so that a fit takes milliseconds."""
    shipped = load_specs()["story_points"]
    quick = {"params": {"n_estimators": 20, "max_depth": 3, "learning_rate": 0.3}, "window_days": 90}
    quick |= {"ensemble": "voting", "candidates": {"linear": {}}, "min_improvement_se": 2.0}
    updates = {
        "training": shipped.training.model_copy(update=quick),
        "features": shipped.features.model_copy(update={"text": []}),
    }
    return shipped.model_copy(update=updates)


@pytest.fixture(scope="session")
def make_learner(spec: ModelSpec) -> Callable[..., Learner]:
    """A learner over a simulated past of some days, replayed from the day ``first`` on."""

    def make(days: int = 150, change: int | None = None, first: int = 40) -> Learner:
        return learner_of(spec, issues(days, change), day(first), day(days - 1))

    return make


@pytest.fixture(scope="session")
def make_issues() -> Callable[..., pd.DataFrame]:
    return issues


@pytest.fixture(scope="session")
def make_day() -> Callable[[int], dt.date]:
    return day
