"""A mixture in production: it follows the outcomes between trainings, and says so."""

import datetime as dt

import numpy as np
import pytest

from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import CHAMPION

DAYS = 40


@pytest.fixture
def frame(make_issues):
    """Issues whose points jump from 1, 3 and 8 to 20 on a day."""
    issues = make_issues(DAYS + 20)
    changed = issues["created_at"] >= issues["created_at"].iloc[0] + dt.timedelta(days=DAYS + 2)
    return issues.assign(story_points=np.where(changed, 20.0, issues["story_points"]))


@pytest.fixture
def trained(mixed, frame):
    """A tenant whose version was trained two days before the jump."""
    tenant = mixed.holds(frame)
    assert tenant.train(DAYS).error is None
    return tenant


def values(tenant, day: int) -> list[float]:
    """Predictions for the entities that arrived on a day, made at its end."""
    tenant.train(day + 1, steps=("features", "predictions"))
    rows = tenant.rows(tables.predictions, origin="live")
    return [row["value"] for row in rows if row["event_time"].date() == dt.date(2026, 1, 1) + dt.timedelta(days=day)]


def test_a_version_follows_its_tenant_without_a_training(trained):
    before, after = values(trained, DAYS + 1), values(trained, DAYS + 15)
    assert max(before) < 10 and np.mean(after) > 18
    assert trained.aliases() == {CHAMPION: 1}


def test_predictions_of_days_that_were_missed_equal_those_that_were_made_in_time(trained, frame):
    missed = trained.named("globex").holds(frame)
    assert missed.train(DAYS).error is None
    in_time = [values(trained, day) for day in range(DAYS, DAYS + 6)]
    assert values(missed, DAYS + 5) == in_time[-1]
    assert len(in_time[-1]) > 3


def test_a_first_version_serves_although_it_is_no_better_than_the_baseline(mixed, make_issues):
    tenant = mixed.holds(make_issues(DAYS, learnable=False))
    tenant.train(DAYS)
    assert tenant.aliases() == {CHAMPION: 1}
    (judged,) = tenant.rows(tables.decisions, kind="promote")
    assert judged["verdict"] == "promote"
    assert judged["reason"].startswith(("near_baseline", "baseline_beaten"))


def test_the_card_names_the_weights_of_the_experts(trained):
    version = trained.registry.version(trained.name, trained.spec.name, 1)
    with trained.registry.files(version) as folder:
        card = (folder / "card.md").read_text()
    assert "No candidate is selected: the prediction is a mixture of all experts" in card
    assert "| **online** |" in card and "group:50" in card
