"""Unusual days: how many of a quiet tenant's are named, what is found, and what cannot be said."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.monitoring.anomalies.days import daily_summary, unusual_days, volume_p_value
from ml_pipeline.specs import load_specs

SPEC = load_specs()["lead_time"]
FIRST = dt.date(2025, 1, 6)
WEEK = np.array([1, 1.1, 1.2, 1, 0.9, 0.2, 0.1])


def summary(seed: int, days: int = 70, level: float = 40.0, day_to_day: float = 0.2) -> pd.DataFrame:
    """What a quiet tenant gives: a weekday season, days that differ by ``day_to_day``, shares and means that vary."""
    rng = np.random.default_rng(seed)
    index = pd.date_range(FIRST, periods=days)
    volume = rng.poisson(level * WEEK[index.day_of_week] * rng.gamma(day_to_day**-2, day_to_day**2, days))
    shares = {"team": 0.0, "priority": 0.3, "reporter": 0.02, "issue_type": 1.0}
    columns = {
        f"missing_{name}": rng.binomial(
            volume, rng.beta(share * 40, (1 - share) * 40, days) if 0 < share < 1 else share
        )
        for name, share in shares.items()
    }
    values = [rng.normal(1 + shift, 0.6, size) for shift, size in zip(rng.normal(0, 0.1, days), volume, strict=True)]
    return pd.DataFrame(columns, index=index).assign(
        volume=volume,
        predictions=volume,
        prediction_mean=[part.mean() if len(part) else np.nan for part in values],
        prediction_variance=[part.var(ddof=1) if len(part) > 1 else np.nan for part in values],
    )


def with_volume(rows: pd.DataFrame, at: int, volume: int) -> pd.DataFrame:
    """The summary with another volume on one day, as much of it missing as was."""
    day = rows.index[at]
    for name in [name for name in rows if name.startswith("missing_")]:
        rows.loc[day, name] = round(volume * rows.loc[day, name] / max(rows.loc[day, "volume"], 1))
    rows.loc[day, "volume"] = volume
    return rows


def kinds(result) -> set[str]:
    return {anomaly.kind for anomaly in result.found}


@pytest.mark.parametrize("level", [0.5, 5, 40, 300])
def test_of_quiet_days_no_more_than_the_stated_share_is_named(level):
    rate, found, tested = 0.005, 0, 0
    for seed in range(12):
        rows = summary(seed, days=56 + 80, level=level)
        result = unusual_days(rows, list(rows.index[56:].date), rate=rate)
        found, tested = found + result.count, tested + result.tested
    assert tested > 900
    assert found <= rate * tested + 2.5 * np.sqrt(rate * tested)


@pytest.mark.parametrize("volume", [0, 200])
def test_a_day_of_unusual_volume_is_found_and_compared_with_its_weekday(volume):
    rows = with_volume(summary(0, days=67), -1, volume)  # ends on a Thursday
    result = unusual_days(rows)
    anomaly = next(anomaly for anomaly in result.found if anomaly.kind == "volume")
    assert anomaly.day == rows.index[-1].date().isoformat()
    assert anomaly.reason.startswith(f"{volume} rows; the last 8 Thursdays had ")
    assert volume_p_value(rows, rows.index[-1].date()) == anomaly.score
    json.dumps(asdict(result), allow_nan=False)


def test_a_quiet_sunday_is_usual_and_a_quiet_wednesday_is_not():
    rows = summary(0, days=70)
    assert rows.index[-1].day_name() == "Sunday"
    rows = with_volume(with_volume(rows, -1, 1), -5, 1)
    found = unusual_days(rows, list(rows.index[-5:].date)).found
    assert [anomaly.day for anomaly in found if anomaly.kind == "volume"] == [rows.index[-5].date().isoformat()]


def test_one_wild_day_in_the_past_does_not_hide_the_next():
    rows = with_volume(with_volume(summary(0, days=67), -8, 5000), -1, 300)
    assert "volume" in kinds(unusual_days(rows))


def test_a_jump_of_missing_values_is_found_and_the_column_named():
    rows = summary(0, days=67)
    rows.loc[rows.index[-1], "missing_team"] = rows["volume"].iloc[-1] // 2
    anomaly = next(anomaly for anomaly in unusual_days(rows).found if anomaly.kind == "nulls")
    assert anomaly.columns == ["team"]
    assert "team is missing in" in anomaly.reason
    assert "on earlier days in 0.0%" in anomaly.reason


def test_values_that_come_back_in_a_column_that_was_always_missing_are_found():
    rows = summary(0, days=67)
    rows.loc[rows.index[-1], "missing_issue_type"] = 0
    assert any(anomaly.columns == ["issue_type"] for anomaly in unusual_days(rows).found)


def test_a_shift_of_the_predictions_is_found():
    rows = summary(0, days=67)
    rows.loc[rows.index[-1], "prediction_mean"] += 1
    anomaly = next(anomaly for anomaly in unusual_days(rows).found if anomaly.kind == "prediction_mean")
    assert "earlier days it was" in anomaly.reason


def test_the_past_is_judged_by_what_was_before_it():
    rows = summary(0, days=100)
    day = rows.index[70].date()
    assert unusual_days(rows, [day]) == unusual_days(rows.iloc[:71], [day])


def test_too_little_history_gives_nothing_and_says_so():
    rows = summary(0, days=20).iloc[:10]
    result = unusual_days(rows)
    assert (result.found, result.tested) == ([], 0)
    assert "volume: too little history or too few rows on 1 of 1 days" in result.note
    assert volume_p_value(rows, rows.index[-1].date()) is None


def test_a_tenant_without_anything_is_no_error():
    rows = summary(0, days=67, level=0.0)
    result = unusual_days(rows)
    assert result.found == []
    assert result.tested == 1  # no rows are a usual volume of nothing


def test_the_same_prediction_every_day_is_usual_until_it_changes():
    rows = summary(0, days=67).assign(prediction_mean=2.0, prediction_variance=0.0)
    assert "prediction_mean" not in kinds(unusual_days(rows))
    rows.loc[rows.index[-1], "prediction_mean"] = 2.1
    assert "prediction_mean" in kinds(unusual_days(rows))


def test_a_day_that_the_summary_lacks_is_refused():
    with pytest.raises(ValueError, match="the summary lacks the day 2020-01-01"):
        unusual_days(summary(0), [dt.date(2020, 1, 1)])


def test_a_summary_counts_rows_missing_values_and_predictions_by_utc_day():
    times = pd.to_datetime(["2025-01-06 00:00", "2025-01-06 23:59", "2025-01-08 12:00"], utc=True)
    frame = pd.DataFrame(
        {
            "entity_id": ["a", "b", "c"],
            "event_time": times,
            "summary_chars": [1.0, np.nan, 3.0],
            "team": pd.Series(["x", None, None], dtype=object),
            "text": ["words", "", "words"],
        }
    )
    predictions = pd.DataFrame({"predicted_at": times, "value": [1.0, 3.0, np.inf]})
    found = daily_summary(SPEC, frame, FIRST, FIRST + dt.timedelta(days=3), predictions)
    assert found["volume"].tolist() == [2, 0, 1, 0]
    assert found["missing_team"].tolist() == [1, 0, 1, 0]
    assert found["missing_summary_chars"].tolist() == [1, 0, 0, 0]
    assert found["missing_text"].tolist() == [1, 0, 0, 0]
    assert found["predictions"].tolist() == [2, 0, 0, 0]
    assert found["prediction_mean"].iloc[0] == pytest.approx((np.log(2) + np.log(4)) / 2)


def test_a_summary_without_predictions_has_none():
    frame = pd.DataFrame({"event_time": pd.to_datetime([], utc=True), "team": pd.Series([], dtype=object)})
    found = daily_summary(SPEC, frame, FIRST, FIRST)
    assert found[["volume", "predictions"]].to_numpy().tolist() == [[0, 0]]


ROWS = st.tuples(st.integers(-72, 240), st.sampled_from([None, "x"]), st.sampled_from([None, "", "words"]))


@given(st.lists(ROWS, max_size=40))
def test_a_summary_counts_each_row_of_its_days_once_and_no_other(rows):
    hours, teams, texts = zip(*rows, strict=True) if rows else ((), (), ())
    first = pd.Timestamp(FIRST, tz="UTC")
    frame = pd.DataFrame(
        {
            "event_time": pd.Series([first + pd.Timedelta(hours=hour) for hour in hours], dtype="datetime64[us, UTC]"),
            "team": pd.Series(teams, dtype=object),
            "text": pd.Series(texts, dtype=object),
        }
    )
    found = daily_summary(SPEC, frame, FIRST, FIRST + dt.timedelta(days=3))
    of_day = [[row for row in rows if row[0] // 24 == day] for day in range(4)]
    assert found["volume"].tolist() == [len(day) for day in of_day]
    assert found["missing_team"].tolist() == [sum(team is None for _, team, _ in day) for day in of_day]
    assert found["missing_text"].tolist() == [sum(not text for _, _, text in day) for day in of_day]
