"""The training window: matured rows of the last days before ``as_of``, widened if they are too few."""

from __future__ import annotations

from datetime import datetime

import pandas as pd

from ml_pipeline.specs import ModelSpec


def training_window(
    spec: ModelSpec, frame: pd.DataFrame, as_of: datetime, changed_at: datetime | None = None
) -> tuple[pd.DataFrame, str | None]:
    """Matured rows of the training window, and a note if it differs from the declared one.

    The declared window is the last ``spec.training.window_days`` by event time.

    - After a change of the outcomes at ``changed_at`` inside this window, the rows since the change are used as soon as
      there are ``spec.training.min_rows``, because older rows no longer represent the outcomes.
    - A window with fewer than ``spec.training.min_rows`` is doubled until it has enough rows or contains every matured
      row, which may still be too few.

    Returns
    -------
    DataFrame
        Rows of ``frame`` in their order, with a new RangeIndex.
    str or None
        How the window differs from the declared one.
    """
    matured = frame[frame["state"] == "matured"].reset_index(drop=True)
    if changed_at is not None and (as_of - changed_at).days < spec.training.window_days:
        since = matured["event_time"] >= pd.Timestamp(changed_at)
        if since.sum() >= spec.training.min_rows:
            note = f"trained on the {since.sum()} rows since {changed_at:%Y-%m-%d}, when the outcomes changed"
            return matured[since].reset_index(drop=True), note
    age = (pd.Timestamp(as_of) - matured["event_time"]).dt.total_seconds() / 86_400
    declared = days = spec.training.window_days
    inside = first_inside = int((age < days).sum())
    while inside < min(spec.training.min_rows, len(matured)):
        days *= 2
        inside = int((age < days).sum())
    chosen = matured[age < days].reset_index(drop=True)
    if days == declared:
        return chosen, None
    few = f"the declared one has {first_inside} of {spec.training.min_rows} matured rows"
    return chosen, f"window widened from {declared} to {days} days: {few}"
