"""The versions of a replay: trained, updated and judged as the product does, each kept for the next policy."""

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
from ml_pipeline.training.train import Trained, baseline_instead, train
from ml_pipeline.training.training_window import choose_training_window
from ml_pipeline.training.update import update, updates_left


@dataclass(frozen=True)
class Fitted:
    """A version before it has a number: what it predicts with, what it was trained on, and when."""

    trained: Trained
    as_of: datetime
    changed_at: datetime | None = None  # the rows since then are what it was trained on, where they were enough

    @property
    def baseline(self) -> float:
        return self.trained.model.baseline


class Learner:
    """Fits versions on a history. The same fit at the same moment is made once, however many policies ask for it."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.spec: ModelSpec = history.spec
        self._kept: dict[tuple[datetime, datetime | None], Fitted] = {}
        self._profiled: tuple[Fitted, Profile] | None = None

    def train(self, now: datetime, changed_at: datetime | None = None) -> Fitted:
        """A full training on what was known, since ``changed_at`` where outcomes began to be others then.

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
        """``parent`` with more trees on the labels that are new.

        Raises
        ------
        TrainingError
            If there are too few new rows, or it has been updated too often.
        """
        rows = self._rows(now, parent.changed_at)
        return Fitted(update(self.spec, parent.trained.model, rows, now, parent.as_of), now, parent.changed_at)

    def baseline_instead(self, fitted: Fitted) -> Fitted:
        """The version that answers with the constant which ``fitted`` did not beat."""
        return replace(fitted, trained=baseline_instead(self.spec, fitted.trained))

    def predict(self, fitted: Fitted, rows: slice | np.ndarray) -> pd.DataFrame:
        """Value, lower, upper and baseline for rows of the history's frame."""
        return fitted.trained.model.predict(self.history.frame.iloc[rows])

    def updates_left(self, parent: Fitted) -> int | None:
        """Updates until ``parent`` needs a full training: none for a constant."""
        if isinstance(parent.trained.model.predictor, Baseline):
            return 0
        return updates_left(self.spec, parent.trained.model)

    def _rows(self, now: datetime, changed_at: datetime | None = None) -> pd.DataFrame:
        rows, _ = choose_training_window(self.spec, self.history.matured_at(now), now, changed_at)
        return rows

    def reference(self, fitted: Fitted) -> Profile:
        """The profile of the rows that a version was trained on.

        Without predictions: those that are out of sample are of an earlier fit, which answers in another way.
        """
        if self._profiled is None or self._profiled[0] is not fitted:
            self._profiled = fitted, profile(self.spec, self._rows(fitted.as_of, fitted.changed_at))
        return self._profiled[1]

    def judge(self, challenger: Fitted, champion: Fitted | None, number: int | None) -> Decision:
        """Whether ``challenger`` may serve: against the constant, and against the champion on the same entities."""
        opponent = None
        if champion is not None:
            trained = champion.trained
            opponent = Opponent(number, trained.model, trained.test_predictions, champion.as_of)
        frame = self.history.frame
        return judge(evidence_of(self.spec, challenger.trained, opponent, frame, challenger.changed_at))
