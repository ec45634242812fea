"""Which tenants a decision is taken for at all: those for whom the expensive facts are then collected."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from ml_pipeline.lifecycle.retraining import (
    CollectedState,
    DriftFinding,
    Flags,
    LastFit,
    Policy,
    Request,
    calls_for_decision,
)

NOW = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
FIT = LastFit(NOW - dt.timedelta(days=40))
ON, OFF = Flags(True, True, True), Flags(True, True, False)
DRIFTED = DriftFinding(dt.date(2026, 3, 1), "drift", "HIGH", 0.31, True)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"flags": ON}, True, id="due by the calendar"),
        pytest.param({"flags": OFF}, False, id="due by the calendar where retraining is off"),
        pytest.param({"flags": OFF, "drift": DRIFTED}, True, id="drift where retraining is off"),
        pytest.param({"flags": OFF, "request": Request("eva")}, True, id="asked for where retraining is off"),
        pytest.param({"flags": ON, "new_labels_since_training": 0}, False, id="nothing new"),
    ],
)
def test_a_decision_is_taken_where_there_is_a_trigger(changes: dict[str, Any], expected: bool):
    counts = {"matured": 400, "new_labels": 0, "new_labels_since_training": 300, "weekly_items": 60.0}
    known = counts | {"last_fit": FIT, "last_training": FIT} | changes
    assert calls_for_decision(CollectedState("acme", "story_points", NOW, **known), Policy()) is expected
