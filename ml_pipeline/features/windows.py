"""The matured rows that a version is trained on: a window back from ``as_of``, wider where it holds too few."""

from __future__ import annotations

from datetime import datetime

import pandas as pd

from ml_pipeline.specs import ModelSpec


def training_window(spec: ModelSpec, frame: pd.DataFrame, as_of: datetime) -> tuple[pd.DataFrame, str | None]:
    """Matured rows of the last ``spec.training.window_days`` by event time, in their order, with a new RangeIndex.

    A window that holds fewer than ``spec.training.min_rows`` doubles until it holds enough, or every matured row there
    is, which may still be too few. The note says how far it went; None where the declared window was enough, or a
    wider one would hold nothing more.
    """
    matured = frame[frame["state"] == "matured"].reset_index(drop=True)
    age = (pd.Timestamp(as_of) - matured["event_time"]).dt.total_seconds() / 86_400
    declared = days = spec.training.window_days
    inside = first_inside = int((age < days).sum())
    while inside < min(spec.training.min_rows, len(matured)):
        days *= 2
        inside = int((age < days).sum())
    note = None
    if days > declared:
        note = (
            f"window widened from {declared} to {days} days: {first_inside} of {spec.training.min_rows} matured "
            "samples in the declared one"
        )
    return matured[age < days].reset_index(drop=True), note
