"""Versions of a replay: trained, updated and judged as in production, and cached for the next policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pandas as pd

from ml_pipeline.lifecycle.promotion import Decision, judge
from ml_pipeline.monitoring.profiles.profile import Profile, profile
from ml_pipeline.replay.history import History
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.evidence import Opponent, evidence_of
from ml_pipeline.training.selection.predictors import Baseline
from ml_pipeline.training.train import train
from ml_pipeline.training.trained import Trained, baseline_instead
from ml_pipeline.training.training_window import choose_training_window
from ml_pipeline.training.update import update, updates_left


@dataclass(frozen=True)
class Fitted:
    """A fitted version without a number: its model, its training rows, and its as-of time."""

    trained: Trained
    as_of: datetime
    changed_at: datetime | None = None  # trained on the rows since then, if there were enough

    @property
    def baseline(self) -> float:
        return self.trained.model.baseline


class Learner:
    """Fits versions on a history. Equal fits at the same as-of time are computed once and shared by all policies."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.spec: ModelSpec = history.spec
        self._kept: dict[tuple[datetime, datetime | None], Fitted] = {}
        self._profiled: tuple[Fitted, Profile] | None = None

    def train(self, now: datetime, changed_at: datetime | None = None) -> Fitted:
        """Full training on the labels known at ``now``, on post-change rows if the outcomes changed at ``changed_at``.

        Raises
        ------
        TrainingError
            If there are too few rows.
        """
        if (now, changed_at) not in self._kept:
            rows = self._rows(now, changed_at)
            learnt = changed_at is not None and rows["event_time"].min() >= pd.Timestamp(changed_at)
            fitted = Fitted(train(self.spec, rows, now), now, changed_at if learnt else None)
            self._kept[now, changed_at] = fitted
        return self._kept[now, changed_at]

    def update(self, parent: Fitted, now: datetime) -> Fitted:
        """``parent`` updated with the labels that became known since.

        Raises
        ------
        TrainingError
            If there are too few new rows, or ``parent`` has been updated too often.
        """
        rows = self._rows(now, parent.changed_at)
        return Fitted(update(self.spec, parent.trained.model, rows, now, parent.as_of), now, parent.changed_at)

    def baseline_instead(self, fitted: Fitted) -> Fitted:
        """The version that predicts the baseline which ``fitted`` did not beat."""
        return replace(fitted, trained=baseline_instead(self.spec, fitted.trained))

    def predict(self, fitted: Fitted, rows: slice | np.ndarray) -> pd.DataFrame:
        """Columns value, lower, upper and baseline for rows of the history's frame."""
        return fitted.trained.model.predict(self.history.frame.iloc[rows], self.history.frame)

    def updates_left(self, parent: Fitted) -> int | None:
        """Number of updates until ``parent`` needs a full training; 0 for a baseline, None if there is no limit."""
        if isinstance(parent.trained.model.predictor, Baseline):
            return 0
        return updates_left(self.spec, parent.trained.model)

    def _rows(self, now: datetime, changed_at: datetime | None = None) -> pd.DataFrame:
        rows, _ = choose_training_window(self.spec, self.history.matured_at(now), now, changed_at)
        return rows

    def reference(self, fitted: Fitted) -> Profile:
        """Profile of the rows that a version was trained on.

        It has no predictions, because the out-of-sample ones come from an earlier fit with another level.
        """
        if self._profiled is None or self._profiled[0] is not fitted:
            self._profiled = fitted, profile(self.spec, self._rows(fitted.as_of, fitted.changed_at))
        return self._profiled[1]

    def judge(self, challenger: Fitted, champion: Fitted | None, number: int | None) -> Decision:
        """Promotion decision: ``challenger`` against the baseline, and against the champion on the same entities."""
        opponent = None
        if champion is not None:
            trained = champion.trained
            opponent = Opponent(number, trained.model, trained.test_predictions, champion.as_of)
        frame = self.history.frame
        return judge(evidence_of(self.spec, challenger.trained, opponent, frame, challenger.changed_at))
