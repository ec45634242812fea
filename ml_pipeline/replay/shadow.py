"""Rollback watch of a replay: the previous version keeps predicting and is compared with the newest one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from ml_pipeline.lifecycle.promotion import Decision
from ml_pipeline.lifecycle.rollback import Pairs, watch
from ml_pipeline.replay.learner import Fitted, Learner
from ml_pipeline.stats import losses

WATCH_DAYS = 28


@dataclass(frozen=True)
class Shadow:
    """Losses of a version and of the previous one on all entities of its rollback watch."""

    pairs: Pairs
    task: str
    version: int
    previous: Fitted
    previous_number: int
    activated_at: datetime

    @classmethod
    def of(
        cls, learner: Learner, fitted: Fitted, version: int, previous: Fitted, previous_number: int, now: datetime
    ) -> Shadow:
        """The watch from the activation on: entities open at that time, and those that arrive during the watch."""
        history = learner.history
        stop = history.arrived_before((now + timedelta(days=WATCH_DAYS)).date())
        activated = np.datetime64(now.replace(tzinfo=None), "us")
        rows = np.flatnonzero(history.label_time[:stop] > activated)
        if not len(rows):
            nothing = Pairs(np.empty(0), np.empty(0), np.empty(0, dtype="datetime64[us]"))
            return cls(nothing, learner.spec.task, version, previous, previous_number, now)
        label, task = history.label[rows], learner.spec.task
        ours, theirs = (
            losses(task, label, learner.predict(model, rows)["value"].to_numpy()) for model in (fitted, previous)
        )
        pairs = Pairs(ours, theirs, history.label_time[rows])
        return cls(pairs, task, version, previous, previous_number, now)

    def verdict(self, now: datetime) -> Decision:
        """Decision of the watch at ``now``."""
        return watch(
            self.pairs,
            task="binary" if self.task == "binary" else "regression",
            version=self.version,
            previous=self.previous_number,
            activated_at=self.activated_at,
            now=now,
            max_days=WATCH_DAYS,
        )
