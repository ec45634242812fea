"""A drift report, a retraining decision and a promotion decision from fixed seeds, as they were stored.

A change of structure leaves these files as they are. Numbers have nine significant digits: the last ones differ between
processors.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.json import JSONSnapshotExtension

from ml_pipeline.lifecycle.promotion import BusinessValue, Evidence, judge
from ml_pipeline.lifecycle.retraining import (
    Champion,
    DegradationFinding,
    DriftFinding,
    Flags,
    LastFit,
    Policy,
    Request,
    State,
    decide,
)
from ml_pipeline.monitoring.drift.report import compare
from ml_pipeline.monitoring.profiles.profile import profile
from ml_pipeline.specs import load_specs

SPEC = load_specs()["rework_risk"]
NOW = dt.datetime(2026, 3, 2, 5, tzinfo=dt.UTC)


@pytest.fixture
def stored(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    return snapshot.use_extension(JSONSnapshotExtension)


def rounded(value: Any) -> Any:
    """As it goes into JSON, numbers to nine significant digits."""
    return json.loads(json.dumps(value, default=str), parse_float=lambda text: float(f"{float(text):.9g}"))


def feature_rows(rng: np.random.Generator, rows: int, start: str, days: int) -> pd.DataFrame:
    seconds = np.sort(rng.uniform(0, days * 86_400, rows)).astype("int64")
    times = (pd.Timestamp(start, tz="UTC") + pd.to_timedelta(seconds, unit="s")).as_unit("us")
    columns = {"event_time": times} | {name: rng.lognormal(size=rows) for name in SPEC.feature_columns.numeric}
    for name in SPEC.feature_columns.categorical:
        columns[name] = pd.Series([f"level-{k}" for k in rng.integers(5, size=rows)], dtype=object)
    return pd.DataFrame(columns)


def predicted(rng: np.random.Generator, rows: pd.DataFrame, shift: float = 0.0) -> pd.DataFrame:
    return pd.DataFrame({"predicted_at": rows["event_time"], "value": rng.normal(size=len(rows)) + shift})


def known(rng: np.random.Generator, rows: pd.DataFrame, share: float) -> pd.DataFrame:
    labels = (rng.random(len(rows)) < share).astype(float)
    return pd.DataFrame({"label_time": rows["event_time"], "label": labels})


def with_gaps_and_a_new_author(rows: pd.DataFrame) -> pd.DataFrame:
    rows.loc[rows.index % 4 == 0, "additions"] = np.nan
    rows.loc[:40, "author"] = "kim"
    rows["deletions"] = 60 * rows["additions"]
    return rows


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda rows: rows, id="nothing"),
        pytest.param(with_gaps_and_a_new_author, id="gaps-and-a-new-author"),
        pytest.param(lambda rows: rows.assign(additions=1.25).drop(columns="author"), id="stuck-and-gone"),
    ],
)
def test_a_drift_report_says_what_it_said(stored: SnapshotAssertion, changed: Callable[[pd.DataFrame], pd.DataFrame]):
    rng = np.random.default_rng(0)
    earlier = feature_rows(rng, 1000, "2025-01-01", 28)
    kept = profile(SPEC, earlier, predicted(rng, earlier), known(rng, earlier, 0.3))
    recent = changed(feature_rows(rng, 300, "2025-03-01", 7))
    report = compare(
        SPEC,
        kept,
        recent,
        predictions=predicted(rng, recent, 0.5),
        outcomes=known(rng, recent, 0.3),
        importance={"additions": 0.4, "deletions": 0.2, "author": 0.1},
    )
    assert rounded(report.to_json()) == stored


def days_ago(days: float) -> dt.datetime:
    return NOW - dt.timedelta(days=days)


DEGRADED = DegradationFinding(dt.date(2026, 3, 1), "degraded", "CRITICAL", 0.31, dt.date(2026, 2, 20), 120)
DRIFTED = DriftFinding(dt.date(2026, 3, 1), "drift", "HIGH", 0.31, True, "2 of 20 columns moved")


@pytest.mark.parametrize(
    "known",
    [
        pytest.param({}, id="nothing-to-do"),
        pytest.param({"degradation": DEGRADED, "labels_since_change": 150}, id="degraded"),
        pytest.param({"drift": DRIFTED, "new_labels": 3, "quiet_hours": (1, 2), "active_runs": 1}, id="blocked"),
        pytest.param({"request": Request("eva", "a new tracker"), "watching": True}, id="requested"),
    ],
)
def test_a_retraining_decision_says_what_it_said(stored: SnapshotAssertion, known: dict[str, Any]):
    fit = LastFit(days_ago(5))
    counts = {"matured": 400, "new_labels": 60, "new_labels_since_training": 60, "weekly_items": 60.0}
    champion = Champion(1, days_ago(9), days_ago(9))
    past = {"champion": champion, "last_fit": fit, "last_training": fit}
    state = State("acme", "story_points", NOW, flags=Flags(True, True, True), **{**counts, **past, **known})
    assert rounded(asdict(decide(state, Policy()))) == stored


@pytest.mark.parametrize("gain", [0.3, 0.02, -0.3])
def test_a_promotion_decision_says_what_it_said(stored: SnapshotAssertion, gain: float):
    rng = np.random.default_rng(0)
    losses = np.abs(rng.normal(1, 0.5, 60))
    evidence = Evidence(
        "mae",
        1.5,
        2.0,
        0.0,
        False,
        losses,
        losses + gain + rng.normal(0, 0.3, 60),
        champion=3,
        label_times=np.datetime64("2025-03-01T12:00", "us") + np.arange(60) * np.timedelta64(12, "h"),
        changed_at=np.datetime64("2025-03-20", "us"),
        business=(BusinessValue("saved", "Hours saved", 3.0, 2.0, gate=2.5),),
    )
    assert rounded(asdict(judge(evidence))) == stored
