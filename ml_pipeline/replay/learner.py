"""The versions of a replay: trained, updated and judged as the product does, each kept for the next policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

import numpy as np
import pandas as pd

from ml_pipeline.lifecycle.promotion import Decision, Evidence, judge, losses
from ml_pipeline.monitoring.profiles import Profile, profile
from ml_pipeline.replay.history import History
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.predictors import Constant
from ml_pipeline.training.since import training_rows
from ml_pipeline.training.train import Trained, constant_instead, train
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

    def constant_instead(self, fitted: Fitted) -> Fitted:
        """The version that answers with the constant which ``fitted`` did not beat."""
        return replace(fitted, trained=constant_instead(self.spec, fitted.trained))

    def predict(self, fitted: Fitted, rows: slice | np.ndarray) -> pd.DataFrame:
        """Value, lower, upper and baseline for rows of the history's frame."""
        return fitted.trained.model.predict(self.history.frame.iloc[rows])

    def updates_left(self, parent: Fitted) -> int | None:
        """Updates until ``parent`` needs a full training; None without a limit."""
        return updates_left(self.spec, parent.trained.model)

    def _rows(self, now: datetime, changed_at: datetime | None = None) -> pd.DataFrame:
        rows, _ = training_rows(self.spec, self.history.matured_at(now), now, changed_at)
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
        evidence = Evidence(
            metric=metric,
            value=trained.metrics[metric],
            baseline_value=trained.baseline_metrics[metric],
            min_skill=self.spec.gate.min_skill,
            candidate_is_constant=isinstance(trained.model.predictor, Constant),
            losses=np.empty(0),
            champion_losses=np.empty(0),
        )
        if champion is None:
            return judge(evidence)
        test, task, changed = trained.test_predictions, self.spec.task, challenger.changed_at
        theirs = self._predictions_of(champion, test)
        both = test[np.isfinite(theirs)]
        label = both["label"].to_numpy()
        return judge(
            replace(
                evidence,
                losses=losses(task, label, both["value"].to_numpy()),
                baseline_losses=losses(task, label, both["baseline"].to_numpy()),
                champion_losses=losses(task, label, theirs[np.isfinite(theirs)]),
                champion=number,
                label_times=both["label_time"].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[us]"),
                changed_at=np.datetime64(changed.date()) if changed is not None else None,
            )
        )

    def _predictions_of(self, champion: Fitted, test: pd.DataFrame) -> np.ndarray:
        """The champion's value for each row of a challenger's test part, NaN where it had seen the outcome.

        What matured after the champion was trained is scored by it; of the rest, the entities of its own test part
        count with the prediction it made before it was refitted on them.
        """
        own = champion.trained.test_predictions.set_index("entity_id")["value"]
        theirs = test["entity_id"].map(own).to_numpy(dtype=float, copy=True)
        unseen = (test["label_time"] > pd.Timestamp(champion.as_of)).to_numpy()
        if unseen.any():
            entities = self._entities(test["entity_id"][unseen])
            theirs[unseen] = champion.trained.model.predict(entities)["value"].to_numpy()
        return theirs

    def _entities(self, names: pd.Series) -> pd.DataFrame:
        return self.history.frame.iloc[self._index.get_indexer(pd.Index(names))]

    @cached_property
    def _index(self) -> pd.Index:
        return pd.Index(self.history.frame["entity_id"])
