"""What a challenger is judged by: its test part, and the champion on the same entities."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pandas as pd

from ml_pipeline.lifecycle.promotion import BusinessValue, Evidence, losses
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.selection.model_selection import POOLED
from ml_pipeline.training.selection.predictors import Baseline
from ml_pipeline.training.train import Trained


@dataclass(frozen=True)
class Opponent:
    """The champion: its number, its model, its own test predictions, and the moment whose knowledge it has."""

    number: int | None
    model: FittedModel
    test_predictions: pd.DataFrame
    as_of: datetime


def evidence_of(
    spec: ModelSpec,
    trained: Trained,
    champion: Opponent | None,
    frame: pd.DataFrame,
    changed_at: datetime | None,
) -> Evidence:
    """The evidence for :func:`ml_pipeline.lifecycle.promotion.judge`.

    Losses are paired on the entities of the test part whose outcome neither version had seen; ``frame`` is a feature
    frame that holds them, ``changed_at`` the day since which outcomes are others.
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
    theirs = _predictions_of(champion, test, frame)
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


def _predictions_of(champion: Opponent, test: pd.DataFrame, frame: pd.DataFrame) -> np.ndarray:
    """The champion's value for each row of a challenger's test part, NaN where it had seen the outcome.

    What matured after the champion was trained is scored by it; of the rest, the entities of its own test part count
    with the prediction it made before it was refitted on them.
    """
    own = champion.test_predictions.set_index("entity_id")["value"]
    theirs = test["entity_id"].map(own).to_numpy(dtype=float, copy=True)
    unseen = (test["label_time"] > pd.Timestamp(champion.as_of)).to_numpy()
    if unseen.any():
        position = pd.Index(frame["entity_id"]).get_indexer(pd.Index(test["entity_id"][unseen]))
        theirs[unseen] = champion.model.predict(frame.iloc[position])["value"].to_numpy()
    return theirs
