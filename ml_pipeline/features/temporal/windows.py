"""The matured rows that a version is trained on: a window back from ``as_of``, wider where it holds too few."""

from __future__ import annotations

from datetime import datetime

import pandas as pd

from ml_pipeline.specs import ModelSpec


def training_window(
    spec: ModelSpec, frame: pd.DataFrame, as_of: datetime, changed_at: datetime | None = None
) -> tuple[pd.DataFrame, str | None]:
    """Matured rows of the last ``spec.training.window_days`` by event time, in their order, with a new RangeIndex.

    Where outcomes began to be others at ``changed_at``, the rows that came to be since then are the window as soon as
    they are ``spec.training.min_rows``: what the older ones teach is no longer so. A change from before the window is
    none.

    A window that holds fewer than ``spec.training.min_rows`` doubles until it holds enough, or every matured row there
    is, which may still be too few. The note says how far it went; None where the declared window was enough, or a
    wider one would hold nothing more.
    """
    matured = frame[frame["state"] == "matured"].reset_index(drop=True)
    if changed_at is not None and (as_of - changed_at).days < spec.training.window_days:
        since = matured["event_time"] >= pd.Timestamp(changed_at)
        if since.sum() >= spec.training.min_rows:
            note = (
                f"trained on the {since.sum()} rows since {changed_at:%Y-%m-%d}, when the outcomes began to be others"
            )
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
    few = f"{first_inside} of {spec.training.min_rows} matured samples in the declared one"
    return chosen, f"window widened from {declared} to {days} days: {few}"
