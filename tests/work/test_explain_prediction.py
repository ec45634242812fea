"""Why an entity is predicted to be what it is: the numbers, and the command as it is typed."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from ml_pipeline.cli import main
from ml_pipeline.demo.simulator import Organisation, simulate
from ml_pipeline.features.point_in_time import FeatureError
from ml_pipeline.importers import import_tables
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.specs import load_specs
from ml_pipeline.work.context import Clients
from ml_pipeline.work.explain_prediction import NothingToExplain, explain_prediction
from ml_pipeline.work.training.task import TrainingTask, run_training

DAY = 40


@pytest.fixture
def trained(tenant, make_issues, as_known, start_from):
    """A tenant whose issues are estimated by their type, with a version that serves; the newest are open."""

    def serving() -> None:
        tenant.holds(as_known(make_issues(DAY), DAY)).train(DAY)

    start_from(serving)
    return tenant


@pytest.fixture
def typed(settings, monkeypatch):
    environment = {"DATABASE_URL": settings.database_url, "ML_PIPELINE_HOME": settings.home}
    for name, value in (environment | {"DAGSTER_HOME": settings.home}).items():
        monkeypatch.setenv(name, str(value))

    def run(*words: str) -> Result:
        return CliRunner().invoke(main, ["explain-prediction", "--tenant", "acme", *words])

    return run


def explained(tenant, entity):
    now = pd.Timestamp("2026-02-10", tz="UTC").to_pydatetime()
    return explain_prediction(Clients(tenant.settings), tenant.spec, tenant.name, entity, now)


def test_an_open_entity_is_explained_as_it_was_scored(trained):
    logged = trained.rows(tables.predictions)[0]
    found = explained(trained, logged["entity_id"])
    assert (found.value, found.lower, found.upper) == pytest.approx((logged["value"], logged["lower"], logged["upper"]))
    assert found.offset + sum(item.adds for item in found.contributions) == pytest.approx(found.value, rel=1e-5)
    assert (found.version, found.state, found.outcome) == (1, "open", None)


def test_the_largest_contribution_comes_first_with_its_value(trained):
    first = explained(trained, trained.rows(tables.predictions)[0]["entity_id"]).contributions[0]
    assert first.feature in ("issue_type", "history_issue_type_mean")
    assert first.value is not None


def test_an_entity_with_an_outcome_says_so(trained):
    found = explained(trained, "A-0000")
    assert (found.state, found.outcome) == ("matured", pytest.approx(float(found.outcome)))


def test_nothing_is_logged_for_it(trained):
    before = trained.rows(tables.predictions)
    explained(trained, "A-0000")
    assert trained.rows(tables.predictions) == before


def test_without_a_version_the_remedy_is_named(tenant, make_issues):
    with pytest.raises(NothingToExplain, match=r"tenant acme, model story_points: no version serves\. Train one with"):
        explained(tenant.holds(make_issues(5)), "A-0000")


def test_a_version_of_other_features_explains_nothing(trained):
    with pytest.raises(NothingToExplain, match="version 1 does not fit the specification"):
        explained(trained.changed("features", calendar=False), "A-0000")


def test_an_entity_that_does_not_exist_is_named(trained):
    with pytest.raises(FeatureError, match="entity 'A-9999' does not exist"):
        explained(trained, "A-9999")


def test_the_command_says_prediction_interval_and_contributions(tenant, make_issues, typed):
    shipped = replace(tenant, spec=load_specs()["story_points"])
    shipped.holds(make_issues(DAY)).train(DAY)
    words = ("--model", "story_points", "--entity", "A-0238")
    shown = typed(*words).stdout
    found = json.loads(typed(*words, "--json").stdout)
    assert f"acme story_points A-0238: {found['value']:.4g} points, between {found['lower']:.4g} and" in shown
    assert "by version 1 (1.0.0, online)" in " ".join(shown.split())
    assert f"Its outcome is known: {found['outcome']:.4g} points." in shown
    first = found["experts"][0]
    (line,) = [line for line in shown.splitlines() if line.split()[:1] == [first["name"]]]
    assert f"{first['weight']:.0%}" in line and f"{first['prediction']:.4g} points" in line
    assert sum(expert["weight"] for expert in found["experts"]) == pytest.approx(1)
    assert found["neighbours"][0]["entity"] != "A-0238"


def test_the_command_ends_with_a_sentence_where_there_is_nothing_to_explain(tenant, make_issues, typed):
    tenant.holds(make_issues(5))
    done = typed("--model", "story_points", "--entity", "A-0000")
    assert done.exit_code == 1
    assert "no version serves" in " ".join(done.stderr.split())


def test_the_experts_of_a_mixture_add_up_to_the_probability(settings, tenant, typed):
    end = pd.Timestamp("2026-06-01", tz="UTC")
    lived = simulate(Organisation("acme", 7, end - pd.Timedelta(weeks=30), end, 0, 25, people=8, teams=2))
    import_tables(Warehouse(settings), "acme", None, lived.pull_requests)
    risk = replace(tenant, spec=load_specs()["rework_risk"])
    report = run_training(TrainingTask(settings, risk.spec, "acme", end.isoformat()))
    assert report.error is None
    entity = lived.pull_requests["pull_request"].iloc[-1]
    words = ("--model", "rework_risk", "--entity", entity)
    shown, found = typed(*words).stdout, json.loads(typed(*words, "--json").stdout)
    assert f"acme rework_risk {entity}: {found['value']:.1%}, by version 1" in shown
    total = found["offset"] + sum(item["adds"] for item in found["contributions"])
    assert total == pytest.approx(found["value"], rel=1e-4)
    assert not found["in_log_odds"] and "odds" not in shown
