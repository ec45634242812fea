"""Reports of the monitors at the end of a replayed day."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd

from ml_pipeline.lifecycle.state import DegradationFinding, DriftFinding
from ml_pipeline.monitoring.drift.report import compare, windows
from ml_pipeline.monitoring.performance import degradation
from ml_pipeline.monitoring.profiles.profile import Profile
from ml_pipeline.replay.history import History
from ml_pipeline.stats import losses

Scores = Mapping[str, np.ndarray]  # value, lower, upper and baseline per row of the frame


class Monitors:
    """The monitors of production, applied to a history and the predictions of a replay so far."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.entity = history.frame["entity_id"].to_numpy(dtype=object)

    def degradation(self, day: date, scores: Scores, version: np.ndarray, since: datetime) -> DegradationFinding:
        """Degradation of the predictions' loss, from the outcomes known by the end of ``day``."""
        reach = self.history.spec.monitoring.degradation_days
        scored = self._scored(day - timedelta(days=reach), day, scores, version)
        found = degradation(self.history.spec, scored, day, serving_since=since.date())
        began = None if found.since is None else date.fromisoformat(found.since)
        return DegradationFinding(day, found.status, found.severity, found.rise, began, found.outcomes)

    def _scored(self, first: date, last: date, scores: Scores, version: np.ndarray) -> pd.DataFrame:
        """One row per outcome of the days whose entity has a prediction, sorted by label time and entity."""
        history, rows = self.history, self._matured(first, last)
        rows = rows[version[rows] > 0]
        label = history.label[rows]
        columns = {
            "entity_id": self.entity[rows],
            "event_time": _utc(history.event_time[rows]),
            "label_time": _utc(history.label_time[rows]),
            "label": label,
            "predicted_at": _utc(history.event_time[rows]),
            **{name: values[rows] for name, values in scores.items()},
            "version": version[rows],
            "origin": np.full(len(rows), "live", dtype=object),
            "loss": losses(history.spec.task, label, scores["value"][rows]),
            "baseline_loss": losses(history.spec.task, label, scores["baseline"][rows]),
        }
        return pd.DataFrame(columns)

    def _matured(self, first: date, last: date) -> np.ndarray:
        start, stop = self.history.matured_before(first), self.history.matured_before(last + timedelta(days=1))
        return self.history.by_label_time[start:stop]

    def drift(self, day: date, reference: Callable[[], Profile]) -> DriftFinding:
        """Drift report of ``day``: the last days compared with the training rows of the serving version.

        ``reference`` is called only if there are enough recent rows for a report.
        """
        history, days = self.history, self.history.spec.monitoring.current
        _, current = windows(history.frame, day, history.spec.monitoring)
        if len(current) < history.spec.monitoring.min_rows:
            return DriftFinding(day, "insufficient_data")
        rows = self._matured(day - timedelta(days=days - 1), day)
        outcomes = pd.DataFrame({"label_time": _utc(history.label_time[rows]), "label": history.label[rows]})
        report = compare(history.spec, reference(), current, outcomes=outcomes)
        return DriftFinding(day, report.status, report.severity, report.score, report.alert, report.reason)


def _utc(moments: np.ndarray) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(moments).tz_localize(UTC)
