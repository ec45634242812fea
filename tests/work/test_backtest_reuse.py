"""A backtest is kept for the nights to come, and counts only for what it was made for."""

from __future__ import annotations

from ml_pipeline.resources import tables
from ml_pipeline.training import backtest
from ml_pipeline.work.training.task import FEATURES, MODEL


def test_the_next_night_does_not_fit_the_same_origin_again(tenant, make_issues, monkeypatch):
    assert tenant.holds(make_issues(45)).monitor(38).error is None
    monkeypatch.setattr(backtest, "select_model", None)  # a fit would fail the night
    assert tenant.monitor(39).error is None
    _, night = tenant.rows(tables.daily_metrics)
    assert (night["origin"], night["outcomes"], night["evaluated"]) == ("backtest", 6, 6)


def test_a_backtest_of_what_was_still_open_does_not_count_once_a_version_serves(tenant, make_issues, as_known):
    assert tenant.holds(as_known(make_issues(45), 39)).monitor(38).error is None
    assert tenant.train(39, (FEATURES, MODEL)).error is None
    assert tenant.aliases()["champion"] == 1
    assert tenant.holds(make_issues(45)).monitor(40).error is None
    _, night = tenant.rows(tables.daily_metrics)
    assert (night["outcomes"], night["evaluated"]) == (6, 0)
