"""A version that is worse than the one before it, in a replay."""

from __future__ import annotations

import dataclasses
import datetime as dt

from ml_pipeline.lifecycle.policy import BUILT_IN, Policy
from ml_pipeline.lifecycle.promotion import Decision
from ml_pipeline.replay.learner import Fitted, Learner
from ml_pipeline.replay.loop import replay
from ml_pipeline.training.selection.predictors import Baseline


class Spoiled(Learner):
    """Promotes every version; from a day on, each answers 50 points whatever is asked."""

    def __init__(self, learner: Learner, since: dt.date) -> None:
        super().__init__(learner.history)
        self.since = since

    def train(self, now: dt.datetime, changed_at: dt.datetime | None = None) -> Fitted:
        fitted = super().train(now, changed_at)
        if now.date() < self.since:
            return fitted
        model = dataclasses.replace(fitted.trained.model, predictor=Baseline(50.0))
        return dataclasses.replace(fitted, trained=dataclasses.replace(fitted.trained, model=model))

    def judge(self, challenger: Fitted, champion: Fitted | None, number: int | None) -> Decision:
        return Decision("promote", "whatever it is worth")


def test_a_bad_version_is_rolled_back_within_two_days_and_starts_a_cool_down(make_learner, make_day):
    spoiled = Spoiled(make_learner(110), since=make_day(70))
    result = replay(spoiled, Policy(triggers=("schedule",)))
    bad = next(fit for fit in result.fits if fit.day >= make_day(70))
    rollback = result.rollbacks[0]
    assert (rollback.version, rollback.to) == (bad.version, bad.version - 1)
    assert (rollback.day - bad.day).days <= 2
    assert rollback.reason.startswith(f"worse: version {bad.version} has mean loss")
    later = [fit.day for fit in result.fits if fit.day > rollback.day]
    assert not later or (later[0] - rollback.day).days >= 7
    assert next(day.version for day in result.days if day.day == rollback.day) == rollback.to


def test_a_policy_that_is_replayed_unwatched_rolls_nothing_back(make_learner, make_day):
    spoiled = Spoiled(make_learner(90, first=60), since=make_day(70))
    assert replay(spoiled, BUILT_IN["weekly"], watched=False).rollbacks == []
