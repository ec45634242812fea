from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.intervals.conformal import Interval, conformal_interval
from ml_pipeline.training.intervals.online import (
    MIN_OUTCOMES,
    Known,
    Predictions,
    adaptive_interval,
    live_intervals,
    waiting_unit,
)
from ml_pipeline.training.selection.predictors import Baseline

START = np.datetime64("2026-01-01", "us")
DAY = 86400.0


def version_of(residuals: np.ndarray, value: float = 0.0, least: float | None = None) -> FittedModel:
    interval = conformal_interval(residuals, 0.9, "identity")
    kept = tuple(np.sort(residuals).tolist())
    return FittedModel("m", "", "regression", "c", Baseline(value), value, interval, least, None, kept)


def days(numbers: np.ndarray) -> np.ndarray:
    return START + (numbers * DAY * 1e6).astype("timedelta64[us]")


def predictions(version: FittedModel, label: np.ndarray, every: float, delay: np.ndarray | float) -> Predictions:
    """One entity every ``every`` days, its label known ``delay`` days later; ends as the version was trained."""
    value = np.full(len(label), version.baseline)
    arrived = np.arange(len(label)) * every
    return Predictions(
        value, *version.ends(value), days(arrived), days(arrived + delay), label, np.ones(len(label), dtype=bool)
    )


def coverage_of(made: Predictions, ends: tuple[np.ndarray, np.ndarray]) -> float:
    return float(((ends[0] <= made.label) & (made.label <= ends[1])).mean())


def drifting(kind: str, rng: np.random.Generator, rows: int) -> np.ndarray:
    noise = rng.normal(size=rows)
    if kind == "level":
        return noise + 1.5 * (np.arange(rows) > rows / 5)
    return noise * np.linspace(1, 4, rows)


@pytest.mark.parametrize("kind", ["level", "variance"])
@pytest.mark.parametrize("delay", [0.5, 20.0])
def test_under_drift_the_interval_goes_on_covering_where_the_fixed_one_does_not(kind, delay):
    rng = np.random.default_rng(3)
    version = version_of(rng.normal(size=100))
    made = predictions(version, drifting(kind, rng, 600), every=1.0, delay=delay)
    assert coverage_of(made, (made.lower, made.upper)) < 0.8
    assert coverage_of(made, live_intervals(version, made, 0.9, None)) >= 0.87


def test_without_drift_the_coverage_stays_as_declared():
    rng = np.random.default_rng(4)
    version = version_of(rng.normal(size=100))
    made = predictions(version, rng.normal(size=800), every=1.0, delay=5.0)
    assert coverage_of(made, live_intervals(version, made, 0.9, None)) == pytest.approx(0.9, abs=0.02)


def test_residuals_that_shrink_narrow_the_interval():
    rng = np.random.default_rng(5)
    version = version_of(rng.normal(size=100))
    made = predictions(version, rng.normal(0, 0.2, 600), every=1.0, delay=1.0)
    lower, upper = live_intervals(version, made, 0.9, None)
    assert (upper - lower)[-100:].mean() < 0.5 * (made.upper - made.lower)[0]


def test_what_waits_for_longer_than_its_upper_end_widens_the_interval_before_its_outcome_is_known():
    rng = np.random.default_rng(6)
    version = version_of(rng.normal(0, 2, 60), value=6.0, least=0.0)
    label = np.where(np.arange(120) % 2, 6.0, 60.0)
    made = predictions(version, label, every=1.0, delay=label)
    waiting, not_waiting = (live_intervals(version, made, 0.9, unit)[1][20:55].mean() for unit in (DAY, None))
    assert waiting > not_waiting + 1


@given(st.data())
def test_no_outcome_that_is_known_later_changes_an_interval(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    version = version_of(rng.lognormal(size=30) - 1.0, value=3.0, least=0.0)
    label = rng.lognormal(1, 1, 40)
    unit = data.draw(st.sampled_from([None, DAY]))
    delay = label if unit else rng.uniform(0, 20, 40)
    made = predictions(version, label, every=1.0, delay=delay)
    now = made.event_time[data.draw(st.integers(0, 39))]
    later = made.label_time > now
    changed = replace(
        made,
        label=np.where(later, label * 5 + 40, label),
        label_time=np.where(later, made.label_time + np.timedelta64(40, "D"), made.label_time),
    )
    then = made.event_time <= now
    for before, after in zip(
        live_intervals(version, made, 0.9, unit), live_intervals(version, changed, 0.9, unit), strict=True
    ):
        np.testing.assert_array_equal(before[then], after[then])


def test_the_order_of_the_outcomes_does_not_matter():
    rng = np.random.default_rng(7)
    version = version_of(rng.normal(size=50))
    made = predictions(version, rng.normal(1, 2, 80), every=1.0, delay=3.0)
    order = rng.permutation(80)
    shuffled = replace(made, **{name: part[order] for name, part in vars(made).items()})
    now = made.event_time[60]
    assert version.adapted(made.known_at(now, None), 0.9) == version.adapted(shuffled.known_at(now, None), 0.9)


def test_with_too_few_outcomes_the_interval_stays_as_it_was_trained():
    version = version_of(np.random.default_rng(8).normal(size=50))
    made = predictions(version, np.full(20, 9.0), every=1.0, delay=0.0)
    few, enough = (made.known_at(made.event_time[count - 1], None) for count in (MIN_OUTCOMES - 1, MIN_OUTCOMES))
    assert version.adapted(few, 0.9) == version
    assert version.adapted(enough, 0.9).interval.above > version.interval.above


def test_entities_that_had_waited_before_the_version_was_made_lend_their_residuals_and_no_misses():
    version = version_of(np.random.default_rng(9).normal(size=50))
    label = np.concatenate([np.zeros(10), np.full(10, 50.0)])
    made = predictions(version, label, every=1.0, delay=0.0)
    made = replace(made, is_new=np.arange(20) < 10)
    known = made.known_at(made.event_time[-1], None)
    interval, residuals = adaptive_interval(version.interval, np.array(version.residuals), known, 0.9)
    assert known.misses_too_many(residuals, "identity", 0.05)[1] == pytest.approx(-0.5)
    assert (residuals == 50).sum() == 10
    assert interval.above > version.interval.above + 20


def test_an_outcome_that_is_no_usable_label_drops_out():
    version = version_of(np.random.default_rng(10).normal(size=50), value=5.0, least=0.0)
    made = predictions(version, np.full(20, np.nan), every=1.0, delay=15.0)
    assert len(made.known_at(made.event_time[14], DAY).value) == 15
    assert len(made.known_at(made.event_time[19], DAY).value) == 15


def test_an_end_that_moves_in_stops_at_the_median_residual():
    rng = np.random.default_rng(11)
    version = version_of(rng.normal(size=50))
    version = replace(version, interval=Interval("identity", -100.0, 100.0))
    made = predictions(version, rng.normal(size=400), every=1.0, delay=0.0)
    interval = version.adapted(made.known_at(made.event_time[-1], None), 0.9).interval
    assert interval.below == pytest.approx(interval.above)


def test_beyond_an_end_at_the_limit_of_the_label_no_outcome_is_expected():
    """Open outcomes behind a lower end of 0 are 0.05 fewer misses each than are due, whatever the residuals say."""
    version = version_of(np.random.default_rng(12).normal(size=50), value=1.0, least=0.0)
    made = predictions(version, np.append(np.full(10, 1.0), np.full(30, np.nan)), every=1.0, delay=0.0)
    made.label_time[10:] = np.datetime64("NaT")
    at_limit, above_it = (
        version.adapted(replace(made, lower=np.full(40, end)).known_at(made.event_time[-1], None), 0.9).interval.below
        for end in (0.0, 0.01)
    )
    assert at_limit > above_it


def test_a_version_without_an_interval_is_left_as_it_is():
    version = replace(version_of(np.zeros(3)), task="binary", interval=None, residuals=())
    made = predictions(version, np.ones(20), every=1.0, delay=0.0)
    assert version.adapted(made.known_at(made.event_time[-1], None), 0.9) is version


def test_waiting_is_told_from_the_specification(specs):
    assert waiting_unit(specs["lead_time"]) == DAY
    assert waiting_unit(specs["story_points"]) is None
    assert waiting_unit(specs["rework_risk"]) is None


def test_open_outcomes_count_as_misses_as_often_as_their_kind_is():
    """One of ten outcomes is above the end; of what may still come there, as many of the open ones are expected."""
    value, pool = np.zeros(4), np.arange(1.0, 11.0)
    label = np.array([np.nan, np.nan, np.nan, 10.0])
    least = np.array([-np.inf, 5.0, 9.5, 10.0])
    known = Known(value, np.full(4, 2.0), np.full(4, 9.0), label, least, np.ones(4), np.ones(4, dtype=bool))
    below, above = known.misses_too_many(pool, "identity", 0.0)
    assert below == pytest.approx(0.1)
    assert above == pytest.approx(0.1 + 0.2 + 1 + 1)


def test_what_has_waited_for_as_long_as_others_that_ended_without_a_label_counts_for_less():
    """Of two that lasted longer than its 5 days one never had a label; of those that wait for 1 day, one of four."""
    waits = np.array([2.0, 3.0, 8.0, 9.0])
    label = np.array([1.0, 1.0, 1.0, np.nan])
    now = days(np.array([20.0]))[0]
    arrived = np.concatenate([20 - 2 * waits, [15.0, 19.0]])
    ended = np.append(days(arrived[:4] + waits), np.full(2, np.datetime64("NaT")))
    made = Predictions(*np.zeros((3, 6)), days(arrived), ended, np.append(label, [np.nan, np.nan]), np.full(6, True))
    known = made.known_at(now, DAY)
    assert known.usable.tolist() == pytest.approx([1, 1, 1, 2 / 3, 4 / 5])
    assert known.misses_too_many(np.array([0.0]), "identity", 0.5)[0] == pytest.approx(-0.5 * (3 + 2 / 3 + 4 / 5))
