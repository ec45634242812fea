"""Rollback watch of a replay: the previous version keeps predicting and is compared with the newest one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from ml_pipeline.lifecycle.promotion import Decision
from ml_pipeline.lifecycle.rollback import Activation, Pairs, watch
from ml_pipeline.replay.learner import Fitted, Learner
from ml_pipeline.stats import losses

WATCH_DAYS = 28


@dataclass(frozen=True)
class Shadow:
    """Losses of a version and of the previous one on all entities of its rollback watch."""

    pairs: Pairs
    activation: Activation
    previous: Fitted

    @classmethod
    def of(cls, learner: Learner, fitted: Fitted, previous: Fitted, activation: Activation) -> Shadow:
        """The watch from the activation on: entities open at that time, and those that arrive during the watch."""
        history = learner.history
        stop = history.arrived_before((activation.at + timedelta(days=WATCH_DAYS)).date())
        activated = np.datetime64(activation.at.replace(tzinfo=None), "us")
        rows = np.flatnonzero(history.label_time[:stop] > activated)
        if not len(rows):
            nothing = Pairs(np.empty(0), np.empty(0), np.empty(0, dtype="datetime64[us]"))
            return cls(nothing, activation, previous)
        ours, theirs = (
            losses(activation.task, history.label[rows], learner.predict(model, rows)["value"].to_numpy())
            for model in (fitted, previous)
        )
        return cls(Pairs(ours, theirs, history.label_time[rows]), activation, previous)

    def verdict(self, now: datetime) -> Decision:
        """Decision of the watch at ``now``."""
        return watch(self.pairs, self.activation, now=now, max_days=WATCH_DAYS)
