"""The versions of a replay: trained, updated and judged as the product does, each kept for the next policy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np
import pandas as pd

from ml_pipeline.features.windows import training_window
from ml_pipeline.lifecycle.promotion import Decision, Evidence, judge, losses
from ml_pipeline.monitoring.profiles import Profile, profile
from ml_pipeline.replay.history import History
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.predictors import Constant
from ml_pipeline.training.train import Trained, train
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
            self._kept[now, changed_at] = Fitted(train(self.spec, self._rows(now, changed_at), now), now, changed_at)
        return self._kept[now, changed_at]

    def update(self, parent: Fitted, now: datetime) -> Fitted:
        """``parent`` with more trees on the labels that are new.

        Raises
        ------
        TrainingError
            If there are too few new rows, or it has been updated too often.
        """
        trained = update(self.spec, parent.trained.model, self._rows(now), now, parent.as_of)
        return Fitted(trained, now)

    def predict(self, fitted: Fitted, rows: slice | np.ndarray) -> pd.DataFrame:
        """Value, lower, upper and baseline for rows of the history's frame."""
        return fitted.trained.model.predict(self.history.frame.iloc[rows])

    def updates_left(self, parent: Fitted) -> int | None:
        """Updates until ``parent`` needs a full training; None without a limit."""
        return updates_left(self.spec, parent.trained.model)

    def _rows(self, now: datetime, changed_at: datetime | None = None) -> pd.DataFrame:
        rows, _ = training_window(self.spec, self.history.matured_at(now), now, changed_at)
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
        trained, metric = challenger.trained, self.spec.headline_metric
        ours, theirs, times = np.empty(0), np.empty(0), np.empty(0, dtype="datetime64[us]")
        if champion is not None:
            ours, theirs, times = self._paired_losses(trained, champion)
        changed = challenger.changed_at
        return judge(
            Evidence(
                metric=metric,
                value=trained.metrics[metric],
                baseline_value=trained.baseline_metrics[metric],
                min_skill=self.spec.gate.min_skill,
                candidate_is_constant=isinstance(trained.model.predictor, Constant),
                losses=ours,
                champion_losses=theirs,
                champion=number,
                label_times=times,
                changed_at=np.datetime64(changed.date()) if changed is not None else None,
            )
        )

    def _paired_losses(self, trained: Trained, champion: Fitted) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Losses of both on the challenger's test entities, by fits that had not seen the outcome, and label times.

        What matured after the champion was trained is scored by it; of the rest, the entities of its own test part
        count with the prediction it made before it was refitted on them.
        """
        test, own = trained.test_predictions, champion.trained.test_predictions
        theirs = test["entity_id"].map(own.set_index("entity_id")["value"]).to_numpy(dtype=float, copy=True)
        unseen = (test["label_time"] > pd.Timestamp(champion.as_of)).to_numpy()
        if unseen.any():
            entities = self._entities(test["entity_id"][unseen])
            theirs[unseen] = champion.trained.model.predict(entities)["value"].to_numpy()
        known = np.isfinite(theirs)
        label, value = test["label"].to_numpy()[known], test["value"].to_numpy()[known]
        times = test["label_time"].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[us]")[known]
        return losses(self.spec.task, label, value), losses(self.spec.task, label, theirs[known]), times

    def _entities(self, names: pd.Series) -> pd.DataFrame:
        return self.history.frame.iloc[self._index.get_indexer(pd.Index(names))]

    @cached_property
    def _index(self) -> pd.Index:
        return pd.Index(self.history.frame["entity_id"])
