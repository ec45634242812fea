"""Tasks of one process share source rows, feature frames and loaded versions."""

from __future__ import annotations

import datetime as dt

import pandas as pd
import pytest

from ml_pipeline.demo.simulation import DAY, SimulationWindow, simulate_days
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.work import feature_frames, scoring
from ml_pipeline.work.feature_frames import FeatureFrames

FIRST_DAY = dt.date(2026, 1, 1)


@pytest.fixture
def calls(monkeypatch) -> dict[str, int]:
    """The number of calls of what reads the source, builds features and loads a version."""
    counts = {"read_source": 0, "build": 0, "load": 0}

    def counted(name, function):
        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(Warehouse, "read_source", counted("read_source", Warehouse.read_source))
    monkeypatch.setattr(feature_frames, "build", counted("build", feature_frames.build))
    monkeypatch.setattr(FittedModel, "load", staticmethod(counted("load", FittedModel.load)))
    monkeypatch.setattr(scoring, "_kept", {})
    return counts


def test_a_simulated_day_builds_its_features_once_and_a_window_reads_its_source_and_version_once(
    tenant, make_issues, calls
):
    tenant.holds(make_issues(45)).train(34)
    scoring._kept.clear()
    calls.update(dict.fromkeys(calls, 0))
    window = SimulationWindow(
        tenant.settings, tenant.spec, tenant.name, FIRST_DAY + 35 * DAY, FIRST_DAY + 38 * DAY, decides=False
    )
    simulate_days(window)
    assert len(tenant.rows(tables.drift_reports)) == 4
    assert calls == {"read_source": 1, "build": 4, "load": 1}


def test_a_kept_frame_equals_one_that_is_built_again(tenant, make_issues):
    tenant.holds(make_issues(20))
    warehouse, as_of = Warehouse(tenant.settings), pd.Timestamp("2026-01-15", tz="UTC")
    frames = FeatureFrames(warehouse)
    first = frames.frame(tenant.spec, tenant.name, as_of.to_pydatetime())
    assert frames.frame(tenant.spec, tenant.name, as_of) is first  # the same time in another type
    pd.testing.assert_frame_equal(FeatureFrames(warehouse).frame(tenant.spec, tenant.name, as_of), first)


def test_a_process_keeps_two_loaded_versions(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(scoring, "_kept", {})
    monkeypatch.setattr(scoring, "read_files", lambda folder: read.append(folder.name) or (folder.name, None))
    for name in ("a", "b", "a", "c", "a", "b"):
        assert scoring._kept_or_read(name, tmp_path / name)[0] == name
    assert read == ["a", "b", "c", "b"]
