"""Temporal patterns: planted ones are found and named, noise has none, and a short history is called short."""

from __future__ import annotations

import json
from datetime import datetime

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.features.quality.patterns import Patterns, temporal_patterns

START = pd.Timestamp("2020-01-06", tz="UTC")  # a Monday
SEEDS = 100


@pytest.fixture(scope="module")
def spec(story_points):
    return story_points


def frame_of(days: np.ndarray, label: np.ndarray) -> pd.DataFrame:
    """Entities that arrive on ``days`` after the start and whose label is known on the same day."""
    times = START + pd.to_timedelta(days, unit="D")
    return pd.DataFrame({"event_time": times, "label_time": times, "label": label, "state": "matured"})


def every_day(weeks: int, label: np.ndarray | float = 1.0) -> pd.DataFrame:
    days = np.arange(7 * weeks)
    return frame_of(days, np.broadcast_to(label, len(days)))


def weekly(values: np.ndarray) -> pd.DataFrame:
    """One label a week, on Wednesdays."""
    return frame_of(7 * np.arange(len(values)) + 2, values)


def found(spec, frame: pd.DataFrame, weeks: int) -> Patterns:
    return temporal_patterns(spec, frame, (START + pd.Timedelta(weeks=weeks)).to_pydatetime())


def share_with_changes(spec, draw, weeks: int) -> float:
    changes = [found(spec, weekly(draw(np.random.default_rng(seed), weeks)), weeks) for seed in range(SEEDS)]
    return float(np.mean([bool(patterns.outcomes.changes) for patterns in changes]))


def autoregressive(rng: np.random.Generator, weeks: int) -> np.ndarray:
    values = np.zeros(weeks)
    for week, shock in enumerate(rng.normal(size=weeks)):
        values[week] = 0.5 * values[week - 1] + shock
    return values


@pytest.mark.parametrize("weeks", [26, 60, 156])
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, weeks: rng.normal(size=weeks),
        lambda rng, weeks: rng.standard_t(2, weeks),
        lambda rng, weeks: rng.lognormal(0, 1, weeks),
        lambda rng, weeks: rng.poisson(2, weeks).astype(float),
    ],
    ids=["normal", "heavy tails", "skewed", "counts"],
)
def test_independent_noise_has_no_change_of_level_in_95_of_100_histories(spec, draw, weeks):
    assert share_with_changes(spec, draw, weeks) <= 0.05


def test_weeks_that_resemble_their_neighbours_are_seldom_called_a_change(spec):
    assert share_with_changes(spec, autoregressive, 104) <= 0.10


def test_a_steady_rise_is_a_trend_and_no_staircase(spec):
    weeks = 156
    rng = np.random.default_rng(0)
    outcomes = found(spec, weekly(10 + 2 * np.arange(weeks) / 52 + rng.normal(0, 0.3, weeks)), weeks).outcomes
    assert outcomes.changes == []
    assert outcomes.trend.found
    assert outcomes.trend.lower < 2 < outcomes.trend.upper
    assert outcomes.trend.upper - outcomes.trend.lower < 0.3


def test_a_change_of_level_is_dated_within_two_weeks_with_both_levels(spec):
    rng = np.random.default_rng(1)
    values = np.where(np.arange(104) < 70, 5.0, 8.0) + rng.normal(0, 1, 104)
    (change,) = found(spec, weekly(values), 104).outcomes.changes
    assert abs(datetime.fromisoformat(change.since) - (START + pd.Timedelta(weeks=70)).tz_localize(None)).days <= 14
    assert change.before == pytest.approx(5, abs=0.5)
    assert change.after == pytest.approx(8, abs=0.5)


def test_two_changes_are_told_oldest_first(spec):
    rng = np.random.default_rng(2)
    values = np.select([np.arange(150) < 50, np.arange(150) < 100], [2.0, 6.0], 2.0) + rng.normal(0, 0.5, 150)
    changes = found(spec, weekly(values), 150).outcomes.changes
    assert [round(change.after) for change in changes] == [6, 2]
    assert changes[0].since < changes[1].since


def test_a_burst_of_a_week_is_no_change_of_level(spec):
    rng = np.random.default_rng(3)
    values = rng.normal(0, 1, 104)
    values[50] = 1e6
    assert found(spec, weekly(values), 104).outcomes.changes == []


def test_arrivals_on_working_days_alone_are_a_season_of_the_week(spec):
    days = np.concatenate([np.repeat(np.arange(7 * 20), 3), np.arange(1, 7 * 20, 7)])
    days = days[days % 7 < 5]
    week = found(spec, frame_of(np.sort(days), 1.0), 20).arrivals.week
    assert week.found
    assert (week.high, week.low) == ("Tuesday", "Saturday")
    assert week.strength > 0.9


def test_outcomes_that_do_not_depend_on_the_day_have_no_season_of_the_week(spec):
    seasons = []
    for seed in range(SEEDS):
        label = np.random.default_rng(seed).lognormal(0, 1, 7 * 30)
        seasons.append(found(spec, every_day(30, label), 30).outcomes.week.found)
    assert np.mean(seasons) <= 0.03


def test_a_yearly_rhythm_is_a_season_of_the_year_and_not_a_row_of_changes(spec):
    weeks = 4 * 52
    rng = np.random.default_rng(4)
    month = (START + pd.to_timedelta(7 * np.arange(weeks), unit="D")).month
    values = np.where(month.isin([6, 7, 8]), 3.0, 6.0) + rng.normal(0, 0.7, weeks)
    outcomes = found(spec, weekly(values), weeks).outcomes
    assert outcomes.year.found
    assert outcomes.year.low in ("June", "July", "August")
    assert outcomes.changes == []


def test_noise_has_no_season_of_the_year(spec):
    years = [
        found(spec, weekly(np.random.default_rng(seed).normal(size=120)), 120).outcomes.year.found
        for seed in range(SEEDS)
    ]
    assert np.mean(years) <= 0.04


def test_a_history_of_five_weeks_is_called_too_short_for_everything(spec):
    outcomes = found(spec, every_day(5), 5).outcomes
    assert (outcomes.week, outcomes.year, outcomes.trend, outcomes.changes) == (None, None, None, None)
    assert [text.split(" (")[0] for text in outcomes.insufficient] == [
        "the season of the week",
        "a trend",
        "the season of the year",
        "changes of level",
    ]
    assert "5 of 8 weeks" in outcomes.sentence()
    assert "nothing found" not in outcomes.sentence()


def test_a_constant_label_has_no_pattern_and_no_division_by_zero(spec):
    outcomes = found(spec, every_day(130), 130).outcomes
    assert outcomes.sentence() == "nothing found"


def test_the_incomplete_week_does_not_count(spec):
    frame = every_day(20)
    middle = temporal_patterns(spec, frame, (START + pd.Timedelta(weeks=20, days=-3)).to_pydatetime())
    assert middle.arrivals.weeks == 19
    assert not middle.arrivals.changes


def test_labels_that_are_not_known_yet_do_not_count(spec):
    frame = every_day(30)
    frame.loc[100:, ["state", "label", "label_time"]] = ["open", np.nan, pd.NaT]
    assert found(spec, frame, 30).outcomes == found(spec, frame[:100], 30).outcomes


@pytest.mark.parametrize("rows", [0, 1, 2, 40])
def test_few_entities_give_json_without_nan(spec, rows):
    patterns = found(spec, every_day(30)[:rows], 30)
    assert json.loads(json.dumps(patterns.to_dict(), allow_nan=False))["outcomes"]["unit"] == "points"


def test_a_binary_label_is_told_as_a_share(specs):
    rng = np.random.default_rng(5)
    share = np.where(np.arange(7 * 80) < 7 * 40, 0.2, 0.6)
    outcomes = found(specs["rework_risk"], every_day(80, (rng.random(7 * 80) < share).astype(float)), 80).outcomes
    (change,) = outcomes.changes
    assert change.before < 0.35 < 0.45 < change.after
