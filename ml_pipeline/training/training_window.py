"""Choice of the training rows after the outcomes have changed: post-change rows, or the whole window."""

from __future__ import annotations

from datetime import datetime

import pandas as pd

from ml_pipeline.features.temporal.windows import training_window
from ml_pipeline.specs import ModelSpec
from ml_pipeline.stats import is_significant
from ml_pipeline.training.selection.model_selection import row_losses, select_model
from ml_pipeline.training.splits import time_split

STANDARD_ERRORS = 2.0


def choose_training_window(
    spec: ModelSpec, frame: pd.DataFrame, as_of: datetime, changed_at: datetime | None = None
) -> tuple[pd.DataFrame, str | None]:
    """The rows to train on and a note on the choice.

    Without ``changed_at`` these are the rows of :func:`ml_pipeline.features.temporal.windows.training_window`. If
    ``changed_at`` is given and there are enough post-change rows, a model is selected on those and another on the
    whole window. The whole window is chosen if its model predicts the validation part significantly better (by two
    standard errors of the paired difference): older rows may still be useful after a rise of the loss.

    Parameters
    ----------
    spec
        The model.
    frame
        Feature frame of the tenant.
    as_of, changed_at
        Aware times; ``changed_at`` is None unless the outcomes have changed.
    """
    full, note = training_window(spec, frame, as_of)
    if changed_at is None:
        return full, note
    since, note_since = training_window(spec, frame, as_of, changed_at)
    if len(since) == len(full):
        return full, note
    split = time_split(since, spec.training.validation_share, spec.training.test_share)
    validation = since.iloc[split.validation]
    known = full[full["label_time"] < validation["event_time"].iloc[0]]
    of_since, of_full = (
        row_losses(spec, validation, select_model(spec, rows, validation, spec.training.seed).predictor)
        for rows in (since.iloc[split.train], known)
    )
    if not is_significant(of_since - of_full, STANDARD_ERRORS):
        return since, note_since
    losses = f"{of_full.mean():.3g}, {of_since.mean():.3g} with the rows since {changed_at:%Y-%m-%d}"
    compared = f"{spec.headline_metric} {losses}"
    return full, "; ".join(filter(None, [note, f"trained on the whole window, which predicts better ({compared})"]))
