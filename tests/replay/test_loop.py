"""A policy over a simulated past: what it trains, what it sees, and what that is worth."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from itertools import pairwise

import numpy as np
import pytest

from ml_pipeline.lifecycle.policy import BUILT_IN, Policy
from ml_pipeline.replay.history import History, NoHistory
from ml_pipeline.replay.learner import Learner
from ml_pipeline.replay.loop import replay
from ml_pipeline.replay.result import AlertRaised, Replay


@pytest.fixture(scope="module")
def quiet(make_learner) -> Learner:
    return make_learner(150)


@pytest.fixture(scope="module")
def changed(make_learner) -> Learner:
    return make_learner(170, change=110)


@pytest.fixture(scope="module")
def never(quiet: Learner) -> Replay:
    return replay(quiet, BUILT_IN["never"])


@pytest.fixture(scope="module")
def weekly(quiet: Learner) -> Replay:
    return replay(quiet, BUILT_IN["weekly"])


@pytest.fixture(scope="module")
def after_change(changed: Learner, make_day) -> Replay:
    return replay(changed, Policy(), changes=[make_day(110)])


def without_seconds(result: Replay) -> dict:
    content = result.to_dict()
    for fit in content["fits"]:
        del fit["seconds"]
    return content


def test_without_retraining_the_mean_loss_is_that_of_the_first_version(quiet: Learner, never: Replay):
    result = never
    assert [(fit.trigger, fit.verdict, fit.version) for fit in result.fits] == [("first", "promote", 1)]
    assert (result.trainings, result.updates) == (0, 0)
    history = quiet.history
    begun = dt.datetime.combine(history.first + dt.timedelta(days=1), dt.time(), dt.UTC)
    known = history.frame["label_time"] < begun + dt.timedelta(days=len(history.days) - 1)
    lived = history.frame[(history.frame["event_time"] >= begun) & known]
    values = quiet.train(begun).trained.model.predict(lived)
    assert result.outcomes == len(lived)
    assert result.mean_loss() == pytest.approx(np.abs(values["value"] - lived["label"]).mean())
    assert result.mean_loss("baseline") == pytest.approx(np.abs(values["baseline"] - lived["label"]).mean())
    assert result.values[lived.index] == pytest.approx(values["value"])
    rolling = np.abs(lived["history_recent_median"] - lived["label"]).mean()
    assert result.mean_loss("rolling") == pytest.approx(rolling)


def test_the_weekly_policy_trains_every_seventh_day_and_the_monthly_every_28th(quiet: Learner, weekly: Replay):
    first = quiet.history.first
    for result, step in ((weekly, 7), (replay(quiet, BUILT_IN["monthly"]), 28)):
        days = [fit.day for fit in result.fits if fit.trigger != "first"]
        assert days == [first + dt.timedelta(days=step * number) for number in range(1, len(days) + 1)]
        assert len(days) == (len(quiet.history.days) - 1) // step


def test_one_version_of_a_quiet_tenant_keeps_to_the_alarm_budget(never: Replay):
    assert len(never.alerts) <= 1  # 11 per 1,000 days, in 110 days


def test_a_quiet_tenant_is_trained_at_most_half_as_often_as_weekly(quiet: Learner, weekly: Replay):
    assert 0 < replay(quiet, Policy()).trainings <= weekly.trainings / 2


def test_a_concept_change_is_noticed_retrained_for_and_costs_less_than_without_retraining(
    changed: Learner, after_change: Replay
):
    result = after_change
    (delay,) = result.delays
    assert delay["days"] is not None and delay["days"] <= 7
    cured = [fit for fit in result.fits if fit.trigger == "degradation" and fit.verdict == "promote"]
    assert cured and cured[0].severity in ("HIGH", "CRITICAL")
    assert result.mean_loss() < 0.9 * replay(changed, BUILT_IN["never"]).mean_loss()


def test_what_comes_later_changes_nothing_of_what_was_decided_before(make_learner):
    whole, cut = (replay(make_learner(days, change=110, first=90), Policy()) for days in (140, 128))
    assert len(cut.fits) > 1 and cut.alerts
    assert whole.days[: len(cut.days)] == cut.days
    fits = [dataclasses.replace(fit, seconds=0) for fit in whole.fits if fit.day <= cut.last]
    assert fits == [dataclasses.replace(fit, seconds=0) for fit in cut.fits]
    assert [alert for alert in whole.alerts if alert.day <= cut.last] == cut.alerts


def test_a_second_replay_from_the_same_learner_is_the_same(changed: Learner, after_change: Replay):
    again = replay(changed, Policy(), changes=after_change.changes)
    assert without_seconds(again) == without_seconds(after_change)


def test_a_replay_that_is_interrupted_returns_the_days_that_were_done(quiet: Learner):
    def stop_on(day: dt.date) -> None:
        if day == quiet.history.first + dt.timedelta(days=9):
            raise KeyboardInterrupt

    result = replay(quiet, BUILT_IN["never"], progress=stop_on)
    assert (result.interrupted, len(result.days)) == (True, 10)
    assert result.last == quiet.history.first + dt.timedelta(days=9)


def test_the_first_version_waits_for_enough_labels(make_learner):
    result = replay(make_learner(40, first=0), BUILT_IN["never"])
    enough = next(day.day for day in result.days if day.version is not None)
    assert [fit.day for fit in result.fits] == [enough]
    assert (enough - result.first).days == 11  # 100 labels at ten a day, each two days after its issue


def test_a_cause_that_is_held_is_kept_once_with_the_days_it_lasted(changed: Learner):
    hasty = Policy(name="hasty", min_samples=10**6)
    result = replay(changed, hasty)
    assert result.trainings == 0
    assert all(block.blocked_by for block in result.blocked)
    assert any("samples" in block.blocked_by and block.days > 1 for block in result.blocked)
    assert all((block.last - block.first).days == block.days - 1 for block in result.blocked)


def test_a_result_goes_into_json_as_it_is(after_change: Replay):
    content = json.loads(json.dumps(after_change.to_dict(), allow_nan=False))
    assert content["days"][-1]["mean_loss"] == pytest.approx(content["mean_loss"])
    assert content["days"][-1]["mean_baseline"] == pytest.approx(content["baseline_loss"])


def test_days_without_rows_are_refused_with_those_that_have_some(quiet: Learner):
    history = quiet.history
    with pytest.raises(
        NoHistory, match=r"no row from 2010-01-01 to 2010-12-31; its rows are from 2025-01-01 to 2025-05-30"
    ):
        History(history.spec, history.frame, dt.date(2010, 1, 1), dt.date(2010, 12, 31))
    with pytest.raises(NoHistory, match="2025-03-01 is after 2025-02-01"):
        History(history.spec, history.frame, dt.date(2025, 3, 1), dt.date(2025, 2, 1))


def test_the_delay_of_a_change_is_to_the_first_alert_before_the_next_change():
    first, second = dt.date(2025, 1, 1), dt.date(2025, 2, 1)
    alerts = [AlertRaised(dt.date(2025, 2, 4), "degradation", "HIGH", dt.date(2025, 2, 2), "")]
    result = Replay("m", "p", first, second, alerts=alerts, changes=(first, second))
    assert [delay["days"] for delay in result.delays] == [None, 3]
    assert result.estimated_delays == [2]


def test_fits_of_a_replay_keep_the_cool_down_unless_critical(after_change: Replay):
    fits = after_change.fits
    assert len(fits) > 3
    for earlier, later in pairwise(fits):
        assert (later.day - earlier.day).days >= 7 or later.severity == "CRITICAL"
