"""Evidence for the promotion decision: test metrics of the challenger, paired losses with the champion."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pandas as pd

from ml_pipeline.lifecycle.promotion import BusinessValue, Evidence
from ml_pipeline.specs import ModelSpec
from ml_pipeline.stats import losses
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.online.mixture import Mixture
from ml_pipeline.training.selection.model_selection import POOLED
from ml_pipeline.training.selection.predictors import Baseline
from ml_pipeline.training.trained import Trained


@dataclass(frozen=True)
class Opponent:
    """The champion: version number, model, its own test predictions, and the as-of time of its training."""

    number: int | None
    model: FittedModel
    test_predictions: pd.DataFrame
    as_of: datetime

    def predictions_for(self, test: pd.DataFrame, frame: pd.DataFrame) -> np.ndarray:
        """Prediction for each row of the challenger's test part, NaN if it was fitted on the outcome.

        Entities that matured after the champion's as-of time are predicted now. For entities in the champion's own test
        part, the prediction made before the final refit is used.
        """
        own = self.test_predictions.set_index("entity_id")["value"]
        theirs = test["entity_id"].map(own).to_numpy(dtype=float, copy=True)
        unseen = (test["label_time"] > pd.Timestamp(self.as_of)).to_numpy()
        if unseen.any():
            position = pd.Index(frame["entity_id"]).get_indexer(pd.Index(test["entity_id"][unseen]))
            theirs[unseen] = self.model.predict(frame.iloc[position], frame)["value"].to_numpy()
        return theirs


def evidence_of(
    spec: ModelSpec,
    trained: Trained,
    champion: Opponent | None,
    frame: pd.DataFrame,
    changed_at: datetime | None,
) -> Evidence:
    """The evidence for :func:`ml_pipeline.lifecycle.promotion.judge`.

    Losses are paired on the entities of the test part whose outcome neither version had seen in training.

    Parameters
    ----------
    spec
        The model.
    trained
        The challenger.
    champion
        The serving version, or None.
    frame
        Feature frame that contains the entities of the test part.
    changed_at
        Time of the last change of the outcomes, or None.
    """
    metric, task, test = spec.headline_metric, spec.task, trained.test_predictions
    evidence = Evidence(
        metric=metric,
        value=trained.metrics[metric],
        baseline_value=trained.baseline_metrics[metric],
        min_skill=spec.gate.min_skill,
        candidate_is_baseline=isinstance(trained.model.predictor, Baseline) and trained.candidate != POOLED,
        losses=np.empty(0),
        champion_losses=np.empty(0),
        is_mixture=isinstance(trained.model.predictor, Mixture),
        business=tuple(
            BusinessValue(
                asked.name,
                asked.title,
                trained.metrics[asked.name],
                trained.baseline_metrics[asked.name],
                asked.better,
                asked.gate,
            )
            for asked in spec.business_metrics
        ),
    )
    if champion is None:
        return evidence
    theirs = champion.predictions_for(test, frame)
    both = test[np.isfinite(theirs)]
    label = both["label"].to_numpy()
    return replace(
        evidence,
        losses=losses(task, label, both["value"].to_numpy()),
        baseline_losses=losses(task, label, both["baseline"].to_numpy()),
        champion_losses=losses(task, label, theirs[np.isfinite(theirs)]),
        champion=champion.number,
        label_times=both["label_time"].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[us]"),
        changed_at=np.datetime64(changed_at.date()) if changed_at else None,
    )
