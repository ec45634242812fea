"""A day's outcomes against the predictions made before them."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_pipeline.monitoring.performance import daily_metrics, lacks_predictions, window_metrics
from ml_pipeline.specs import load_specs

SPEC = load_specs()["story_points"]
DAY = date(2025, 3, 10)


def outcomes(*rows: tuple[str, str, float]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["entity_id", "label_time", "label"])
    return frame.assign(label_time=pd.to_datetime(frame["label_time"], utc=True, format="ISO8601"))


def predictions(*rows: tuple[str, str, float, int, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["entity_id", "predicted_at", "value", "version", "origin"])
    predicted_at = pd.to_datetime(frame["predicted_at"], utc=True, format="ISO8601")
    return frame.assign(predicted_at=predicted_at, lower=frame["value"] - 1, upper=frame["value"] + 1, baseline=5.0)


def test_the_last_prediction_before_the_label_time_counts():
    made = predictions(
        ("A", "2025-03-01", 1.0, 1, "live"),
        ("A", "2025-03-05", 2.0, 2, "live"),
        ("A", "2025-03-10 12:00", 3.0, 3, "live"),  # at the label time: too late
    )
    report = daily_metrics(SPEC, outcomes(("A", "2025-03-10 12:00", 3.0)), made, DAY)
    assert (report.value, report.version) == (1.0, 2)


def test_a_live_prediction_is_preferred_to_a_later_backtested_one():
    made = predictions(("A", "2025-03-01", 1.0, 4, "live"), ("A", "2025-03-05", 3.0, 0, "backtest"))
    report = daily_metrics(SPEC, outcomes(("A", "2025-03-10", 3.0)), made, DAY)
    assert (report.value, report.origin, report.version) == (2.0, "live", 4)


def test_a_day_with_backtested_predictions_only_says_so():
    report = daily_metrics(
        SPEC, outcomes(("A", "2025-03-10", 3.0)), predictions(("A", "2025-03-05", 3.0, 0, "backtest")), DAY
    )
    assert (report.origin, report.version, report.value) == ("backtest", 0, 0.0)


def test_a_shadow_prediction_does_not_count():
    report = daily_metrics(
        SPEC, outcomes(("A", "2025-03-10", 3.0)), predictions(("A", "2025-03-05", 3.0, 2, "shadow")), DAY
    )
    assert (report.evaluated, report.completeness, report.version) == (0, 0.0, None)


def test_the_day_begins_at_midnight_and_ends_before_the_next():
    known = outcomes(
        ("A", "2025-03-09 23:59:59.999999", 1.0), ("B", "2025-03-10", 1.0), ("C", "2025-03-10 23:59:59.999999", 1.0),
        ("D", "2025-03-11", 1.0),
    )  # fmt: skip
    made = predictions(*((entity, "2025-03-01", 2.0, 1, "live") for entity in "ABCD"))
    assert daily_metrics(SPEC, known, made, DAY).outcomes == 2


def test_skill_compares_with_the_constant_baseline_on_the_same_rows():
    known = outcomes(("A", "2025-03-10", 3.0), ("B", "2025-03-10", 9.0))
    made = predictions(("A", "2025-03-01", 4.0, 1, "live"))
    report = daily_metrics(SPEC, known, made, DAY)
    assert (report.value, report.baseline_value, report.skill) == (1.0, 2.0, 0.5)
    assert (report.completeness, report.metrics["baseline_mae"]) == (0.5, 2.0)


def test_skill_is_unknown_when_the_baseline_was_exactly_right():
    made = predictions(("A", "2025-03-01", 4.0, 1, "live"))
    assert daily_metrics(SPEC, outcomes(("A", "2025-03-10", 5.0)), made, DAY).skill is None


@pytest.mark.parametrize("task", ["story_points", "rework_risk"])
def test_a_day_without_outcomes_has_no_value_and_no_completeness(task):
    report = daily_metrics(load_specs()[task], outcomes(), predictions(("A", "2025-03-01", 0.5, 1, "live")), DAY)
    assert (report.outcomes, report.completeness, report.value, report.skill) == (0, None, None, None)


def test_outcomes_without_any_prediction_leave_the_value_unknown():
    report = daily_metrics(SPEC, outcomes(("A", "2025-03-10", 3.0)), predictions(), DAY)
    assert (report.outcomes, report.evaluated, report.value) == (1, 0, None)


def many(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(seed)
    known = outcomes(*((f"A-{k}", f"2025-03-{rng.integers(9, 12):02d} 08:00", rng.lognormal()) for k in range(40)))
    made = predictions(
        *(
            (f"A-{rng.integers(50)}", f"2025-03-{rng.integers(1, 12):02d}", rng.lognormal(), version, origin)
            for version in range(1, 30)
            for origin in ("live", "backtest", "shadow")
        )
    )
    return known, made


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), shuffle=st.integers(0, 1000))
def test_the_order_of_the_rows_changes_no_bit(seed, shuffle):
    known, made = many(seed)
    expected = daily_metrics(SPEC, known, made, DAY)
    assert (
        daily_metrics(SPEC, known.sample(frac=1, random_state=shuffle), made.sample(frac=1, random_state=shuffle), DAY)
        == expected
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_day_backfilled_later_equals_the_report_of_that_day(seed):
    known, made = many(seed)
    midnight = pd.Timestamp(DAY, tz="UTC") + pd.Timedelta(days=1)
    lived = daily_metrics(SPEC, known[known["label_time"] < midnight], made[made["predicted_at"] < midnight], DAY)
    assert daily_metrics(SPEC, known, made, DAY) == lived


def test_a_window_holds_the_outcomes_of_its_first_and_last_day():
    known = outcomes(
        *((entity, f"2025-03-{day}", 3.0) for entity, day in zip("ABCD", ("08", "09", "10", "11"), strict=True))
    )
    made = predictions(*((entity, "2025-03-01", 2.0, 1, "live") for entity in "ABCD"))
    assert window_metrics(SPEC, known, made, date(2025, 3, 9), DAY).evaluated == 2


@pytest.mark.parametrize(
    ("outcome_count", "evaluated", "lacking"),
    [(0, 0, False), (1, 0, False), (4, 0, False), (5, 0, True), (10, 5, False), (100, 41, True), (100, 45, False)],
)
def test_predictions_are_lacking_where_chance_would_hardly_leave_out_as_many(outcome_count, evaluated, lacking):
    names = [f"E{number}" for number in range(outcome_count)]
    known = outcomes(*((name, "2025-03-10", 10.0) for name in names))
    made = predictions(*((name, "2025-03-05", 10.0, 1, "live") for name in names[:evaluated]))
    assert lacks_predictions(daily_metrics(SPEC, known, made, DAY), needed=0.5) is lacking


@pytest.mark.parametrize("needed", [0.0, 1.0])
def test_the_ends_of_the_needed_share_ask_for_nothing_and_for_all(needed: float):
    known = outcomes(("A", "2025-03-10", 3.0), ("B", "2025-03-10", 3.0))
    report = daily_metrics(SPEC, known, predictions(("A", "2025-03-05", 3.0, 1, "live")), DAY)
    assert lacks_predictions(report, needed) is (needed == 1.0)
