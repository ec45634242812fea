"""What a drift report says beside its columns: predictions, labels, correlation, alert, causes, what it cannot know."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.monitoring.drift import report as drift
from ml_pipeline.monitoring.drift.design_effects import Days, block_z, blocks, dispersion
from ml_pipeline.monitoring.profiles.profile import Profile, profile
from ml_pipeline.specs import load_specs

SPEC = load_specs()["rework_risk"]


def frame(rng: np.random.Generator, rows: int, start: str = "2025-01-01", days: int = 28) -> pd.DataFrame:
    seconds = np.sort(rng.uniform(0, days * 86400, rows)).astype("int64")
    times = (pd.Timestamp(start, tz="UTC") + pd.to_timedelta(seconds, unit="s")).as_unit("us")
    columns = {"event_time": times} | {name: rng.lognormal(size=rows) for name in SPEC.feature_columns.numeric}
    for position, name in enumerate(SPEC.feature_columns.categorical):
        columns[name] = pd.Series([f"level-{k}" for k in rng.integers(3 + 4 * position, size=rows)], dtype=object)
    return pd.DataFrame(columns)


def predictions(rng: np.random.Generator, rows: pd.DataFrame, shift: float = 0.0) -> pd.DataFrame:
    return pd.DataFrame({"predicted_at": rows["event_time"], "value": rng.normal(size=len(rows)) + shift})


def outcomes(rng: np.random.Generator, rows: pd.DataFrame, share: float) -> pd.DataFrame:
    labels = (rng.random(len(rows)) < share).astype(float)
    return pd.DataFrame({"label_time": rows["event_time"], "label": labels})


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def kept(rng) -> Profile:
    rows = frame(rng, 1000)
    return profile(SPEC, rows, predictions(rng, rows), outcomes(rng, rows, 0.3))


@pytest.fixture
def current(rng) -> pd.DataFrame:
    return frame(rng, 800, start="2025-03-01", days=7)


def test_predictions_that_move_alone_are_drift_in_a_section_of_their_own(kept, current, rng):
    report = drift.compare(SPEC, kept, current, predictions=predictions(rng, current, 0.5))
    assert report.prediction is not None
    assert report.prediction.drifted
    assert (report.status, report.drifted) == ("drift", [])
    assert "The predictions moved" in report.reason


def test_outcomes_that_move_alone_are_drift_and_ask_for_a_look_at_the_loss(kept, current, rng):
    report = drift.compare(SPEC, kept, current, outcomes=outcomes(rng, current, 0.6))
    assert report.label is not None
    assert report.label.drifted
    assert report.alert
    assert report.recommendation.startswith("The outcomes have changed")


def test_predictions_and_outcomes_that_stay_are_silent(kept, current, rng):
    report = drift.compare(
        SPEC, kept, current, predictions=predictions(rng, current), outcomes=outcomes(rng, current, 0.3)
    )
    assert report.status == "stable"
    assert report.recommendation == "Nothing to do."


def test_few_outcomes_are_said_to_be_few(kept, current, rng):
    report = drift.compare(SPEC, kept, current, outcomes=outcomes(rng, current.iloc[:10], 0.9))
    assert report.label is not None
    assert report.label.unknown == "too few values: 10 of 30 recent"
    assert not report.label.drifted


def test_a_correlation_that_breaks_is_found_though_no_column_moved(rng, current):
    rows = frame(rng, 1000)
    rows["deletions"] = rows["additions"] * rng.lognormal(sigma=0.5, size=len(rows))
    current["deletions"] = rng.permutation(current["additions"] * rng.lognormal(sigma=0.5, size=len(current)))
    report = drift.compare(SPEC, profile(SPEC, rows), current)
    assert report.drifted == []
    assert report.joint is not None
    assert report.joint.drifted
    assert sorted(report.joint.pair) == ["additions", "deletions"]
    assert "The rank correlation of" in report.reason


@pytest.mark.parametrize("strength", [0.0, 0.6])
def test_the_largest_move_of_a_correlation_is_calibrated(strength):
    alarms = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        parts = [frame(rng, 400), frame(rng, 300, start="2025-03-01", days=7)]
        for part in parts:
            part["deletions"] = np.exp(
                strength * np.log(part["additions"]) + np.sqrt(1 - strength**2) * np.log(part["deletions"])
            )
        found = drift.compare(SPEC, profile(SPEC, parts[0]), parts[1]).joint
        assert found is not None
        alarms += found.p < 0.05
    assert alarms <= 11  # 5% and 2.75 standard errors


def test_a_vanished_feature_is_drift_and_is_to_be_restored(kept, current):
    report = drift.compare(SPEC, kept, current.drop(columns="additions"))
    assert report.drifted == ["additions"]
    assert "additions (gone)" in report.reason
    assert report.recommendation.startswith("Restore additions")


def test_a_new_feature_is_named_as_not_compared(rng, current):
    kept = profile(SPEC, frame(rng, 500).drop(columns="additions"))
    report = drift.compare(SPEC, kept, current)
    assert "additions" not in report.columns
    assert "additions (new, not in the profile)" in report.reason


def test_values_that_are_no_numbers_count_as_missing_and_are_mentioned(kept, current):
    mixed = current.astype({"additions": object})
    mixed.loc[:99, "additions"] = "many"
    report = drift.compare(SPEC, kept, mixed)
    assert report.columns["additions"].missing.current == 100 / 800
    assert "additions (100 values are not numbers and count as missing)" in report.reason


def test_a_column_without_values_says_so(kept, current):
    current["additions"] = np.nan
    report = drift.compare(SPEC, kept, current)
    assert report.columns["additions"].unknown == "too few values: 0 of 30 recent"
    assert "additions (too few values: 0 of 30 recent)" in report.reason
    assert report.drifted == ["additions"]


def test_a_change_of_unit_is_recognised(kept, current):
    current["additions"] *= 1000
    report = drift.compare(SPEC, kept, current)
    assert report.recommendation.startswith("Check the unit of additions: its median is 1000 times larger")


def test_a_stuck_value_is_recognised(kept, current):
    current["additions"] = 1.25
    report = drift.compare(SPEC, kept, current)
    assert report.recommendation == "Check the source of additions: every recent value is 1.25."


def test_what_the_champion_hardly_uses_is_last_among_the_causes_and_alone_no_reason_to_act(kept, current):
    importance = {"additions": 0.0, "deletions": 1.0}
    current["additions"] *= 4
    alone = drift.compare(SPEC, kept, current, importance=importance)
    current["deletions"] *= 1.5
    both = drift.compare(SPEC, kept, current, importance=importance)
    assert alone.recommendation.startswith("Do not retrain: additions moved, but the champion hardly uses it")
    assert [cause.name for cause in both.causes] == ["deletions", "additions"]


def test_an_alert_needs_more_than_a_drift(kept):
    alerts = drifts = 0
    for seed in range(300):
        report = drift.compare(SPEC, kept, frame(np.random.default_rng(seed), 100, start="2025-03-01", days=7))
        alerts += report.alert
        drifts += report.status == "drift"
        assert not report.alert or report.status == "drift"
    assert alerts <= 8  # 1.1% and 2.6 standard errors
    assert alerts < drifts <= 32


def test_a_tenant_whose_weeks_differ_takes_its_threshold_from_them():
    rng = np.random.default_rng(1)
    rows = frame(rng, 6000, start="2024-01-01", days=365)
    week = (rows["event_time"].dt.day_of_year // 7).to_numpy()
    rows["additions"] *= np.exp(rng.normal(scale=0.3, size=60))[week]
    kept = profile(SPEC, rows)
    report = drift.compare(
        SPEC, kept, frame(rng, 300, start="2025-01-10", days=7).assign(additions=rng.lognormal(0.3, size=300))
    )
    assert "blocks of 7 days" in report.calibration.stands_on
    assert report.columns["additions"].value.design_effect > 3
    assert not report.columns["additions"].drifted


def test_blocks_of_independent_rows_vary_as_independent_rows_do():
    rng = np.random.default_rng(2)
    rows = rng.poisson(20, size=700)
    sums = np.array([rng.normal(size=count).sum() for count in rows])
    z = block_z(sums[None], rows.astype(float), *blocks(np.arange(700), 7))[0]
    assert np.square(z).mean() == pytest.approx(1.0, abs=0.3)


def test_a_window_of_one_day_says_nothing_about_days():
    found = dispersion(np.ones((2, 1)), np.ones(2))
    assert found.design_effect().tolist() == [1.0, 1.0]


def test_days_of_no_rows_are_none():
    assert Days.of(pd.Series(pd.to_datetime([], utc=True))).numbers.tolist() == []


def test_a_report_of_thirty_rows_and_all_its_sections_goes_into_json(kept, rng):
    current = frame(rng, 30, start="2025-03-01", days=7)
    report = drift.compare(
        SPEC, kept, current, predictions=predictions(rng, current), outcomes=outcomes(rng, current, 0.5)
    )
    json.dumps(report.to_json(), allow_nan=False)


def test_three_million_rows_of_one_column_are_counted():
    rng = np.random.default_rng(3)
    features = SPEC.features.model_copy(update={"numeric": ["additions"], "categorical": [], "text": [], "history": []})
    spec = SPEC.model_copy(update={"features": features})
    times = pd.Timestamp("2025-03-01", tz="UTC") + pd.to_timedelta(np.arange(3_000_000) // 5, unit="s")
    current = pd.DataFrame({"event_time": times, "additions": rng.lognormal(size=3_000_000)})
    kept = profile(spec, frame(rng, 1000))
    assert drift.compare(spec, kept, current).columns["additions"].value.p > 0.001
