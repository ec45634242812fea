"""Drift reports: silent where nothing moved, loud where something did, and readable."""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.monitoring.drift import report as drift
from ml_pipeline.specs import load_specs

SPEC = load_specs()["rework_risk"]
JUDGED_NUMERIC = [
    name for name in SPEC.feature_columns.numeric if name not in drift.TIME_DRIVEN and not name.startswith("history_")
]


def frame(rng: np.random.Generator, rows: int, start: str = "2025-01-01", days: int = 28) -> pd.DataFrame:
    """A feature frame of independent rows, the same at every time."""
    seconds = np.sort(rng.uniform(0, days * 86400, rows)).astype("int64")
    times = (pd.Timestamp(start, tz="UTC") + pd.to_timedelta(seconds, unit="s")).as_unit("us")
    columns = {"event_time": times} | {name: rng.lognormal(size=rows) for name in SPEC.feature_columns.numeric}
    for position, name in enumerate(SPEC.feature_columns.categorical):
        columns[name] = pd.Series([f"level-{k}" for k in rng.integers(3 + 4 * position, size=rows)], dtype=object)
    return pd.DataFrame(columns)


def pair(seed: int = 0, baseline: int = 300, current: int = 300) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    return frame(rng, baseline), frame(rng, current, start="2025-03-01", days=7)


def test_false_alarms_stay_within_the_budget_when_nothing_moved():
    alarms = sum(drift.compare(SPEC, *pair(seed, 200, 60)).status == "drift" for seed in range(400))
    assert alarms / 400 <= 0.07


def test_half_a_sigma_is_always_found_in_a_thousand_rows():
    found = 0
    for seed in range(30):
        baseline, current = pair(seed, 1000, 1000)
        current["additions"] = np.exp(np.log(current["additions"]) + 0.5)
        found += "additions" in drift.compare(SPEC, baseline, current).drifted
    assert found == 30


def test_a_spread_that_doubles_around_the_same_median_is_found():
    baseline, current = pair(1)
    current["additions"] = np.exp(2 * np.log(current["additions"]))
    assert drift.compare(SPEC, baseline, current).drifted == ["additions"]


def test_a_fiftieth_of_a_sigma_is_silent_in_a_large_sample():
    rng = np.random.default_rng(3)
    baseline, current = frame(rng, 100_000), frame(rng, 100_000, start="2025-03-01", days=7)
    current["additions"] = np.exp(np.log(current["additions"]) + 0.02)
    report = drift.compare(SPEC, baseline, current)
    assert report.columns["additions"].value.p < 0.001
    assert "additions" not in report.drifted


def test_a_new_level_is_found_and_named():
    baseline, current = pair(2, 200, 60)
    current.loc[:8, "author"] = "kim"
    report = drift.compare(SPEC, baseline, current)
    assert report.drifted == ["author"]
    assert report.columns["author"].new_levels == ("kim",)
    assert "new level 'kim'" in report.reason


def test_values_that_go_missing_are_drift_of_their_own():
    baseline, current = pair(4)
    current.loc[current.index % 10 == 0, "additions"] = np.nan
    report = drift.compare(SPEC, baseline, current)
    assert report.drifted == ["additions"]
    assert "missing 0% -> 10%" in report.reason
    assert not report.columns["additions"].value.drifted


def test_days_with_levels_of_their_own_raise_a_third_of_the_alarms_of_independent_rows_at_most():
    """Counted as independent, such rows alarm in nine reports of ten; seven days are few to learn from."""
    alarms = 0
    for seed in range(60):
        baseline, current = pair(seed, 600, 200)
        levels = np.random.default_rng(seed).normal(size=(100, len(JUDGED_NUMERIC)))
        for part in (baseline, current):
            part[JUDGED_NUMERIC] = np.log(part[JUDGED_NUMERIC]) + levels[part["event_time"].dt.day_of_year]
        alarms += drift.compare(SPEC, baseline, current).status == "drift"
    assert alarms / 60 <= 0.3


def test_history_features_are_reported_but_never_judged():
    baseline, current = pair(5)
    current["history_mean"] += 100
    report = drift.compare(SPEC, baseline, current)
    assert report.status == "stable"
    assert report.columns["history_mean"].value.statistics["ks"] == 1.0


@pytest.mark.parametrize(
    ("baseline", "current", "reason"),
    [
        (200, 12, "insufficient_data: 12 of 30 rows in the last 7 days"),
        (29, 60, "insufficient_data: 29 of 30 rows between 60 and 30 days before"),
        (0, 0, "insufficient_data: 0 of 30 rows in the last 7 days"),
    ],
)
def test_too_few_rows_are_said_to_be_too_few(baseline, current, reason):
    report = drift.compare(SPEC, *pair(0, baseline, current))
    assert (report.status, report.reason) == ("insufficient_data", reason)
    assert (report.score, report.severity) == (None, None)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(lambda rows: np.full(rows, 7.0), id="constant"),
        pytest.param(lambda rows: np.full(rows, np.nan), id="all missing"),
        pytest.param(lambda rows: np.where(np.arange(rows) % 3 == 0, np.inf, 1.0), id="infinite"),
        pytest.param(lambda rows: np.where(np.arange(rows) % 3 == 0, -np.inf, np.inf), id="only infinite"),
        pytest.param(lambda rows: np.where(np.arange(rows) % 2 == 0, 1e308, -1e308), id="huge"),
    ],
)
def test_an_odd_numeric_column_neither_breaks_nor_moves_the_report(values):
    baseline, current = pair(6, 300, 90)
    for part in (baseline, current):
        part["additions"] = values(len(part))
    report = drift.compare(SPEC, baseline, current)
    assert report.status == "stable"
    json.dumps(report.to_json()["columns"], allow_nan=False)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(lambda rows: ["only"] * rows, id="single level"),
        pytest.param(lambda rows: [None] * rows, id="all missing"),
        pytest.param(lambda rows: [[1, "1", 2.5, None, True][k % 5] for k in range(rows)], id="mixed types"),
        pytest.param(lambda rows: [f"{rows}-{k}" for k in range(rows)], id="every row its own level"),
    ],
)
def test_an_odd_categorical_column_neither_breaks_nor_moves_the_report(values):
    baseline, current = pair(6, 300, 90)
    for part in (baseline, current):
        part["author"] = pd.Series(values(len(part)), dtype=object)
    report = drift.compare(SPEC, baseline, current)
    assert "author" not in report.drifted
    json.dumps(report.to_json()["columns"], allow_nan=False)


def test_total_drift_has_the_full_score_and_is_critical():
    baseline, current = pair(7)
    current[JUDGED_NUMERIC] += 100
    for name in SPEC.feature_columns.categorical:
        current[name] = "another"
    report = drift.compare(SPEC, baseline, current)
    assert (report.score, report.severity) == (1.0, "CRITICAL")
    assert report.reason.startswith("13 of 13 columns moved: ")


def test_the_columns_that_moved_most_come_first():
    baseline, current = pair(8)
    current["additions"] *= 3
    current["deletions"] *= 30
    assert drift.compare(SPEC, baseline, current).drifted[:2] == ["deletions", "additions"]


def test_a_stable_report_says_what_it_compared():
    assert drift.compare(SPEC, *pair(9)).reason == "None of 13 columns moved (300 recent against 300 earlier rows)."


@pytest.mark.parametrize(
    ("loss", "score", "expected"),
    [
        (0.049, 1.0, None),
        (0.05, None, "MEDIUM"),
        (0.10, None, "HIGH"),
        (0.20, None, "CRITICAL"),
        (-0.3, None, None),
        (None, 0.25, "HIGH"),
        (None, None, None),
    ],
)
def test_measured_loss_decides_severity_and_the_drift_score_where_there_is_none(loss, score, expected):
    assert drift.severity(loss, score) == expected


def test_windows_take_whole_days_at_their_edges():
    outside = ["2025-01-29 23:59:59", "2025-03-01", "2025-03-24 23:59:59", "2025-04-01"]
    of_baseline, of_current = ["2025-01-30", "2025-02-28 23:59:59"], ["2025-03-25", "2025-03-31 23:59:59"]
    times = pd.to_datetime(sorted(outside + of_baseline + of_current), utc=True, format="ISO8601")
    baseline, current = drift.windows(pd.DataFrame({"event_time": times}), date(2025, 3, 31), SPEC.monitoring)
    assert baseline.index.tolist() == [1, 2]
    assert current.index.tolist() == [5, 6]
