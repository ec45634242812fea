"""``ml-pipeline alerts``, ``acknowledge`` and ``prune`` as they are typed."""

from __future__ import annotations

import datetime as dt
import json
import re

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from ml_pipeline.cli.app import main
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.work.alerts.raising import NewAlert, raise_alert

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture
def typed(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """Runs a command against the test's own installation."""
    environment = {"DATABASE_URL": settings.database_url, "ML_PIPELINE_HOME": settings.home}
    for name, value in (environment | {"DAGSTER_HOME": settings.home}).items():
        monkeypatch.setenv(name, str(value))

    def run(command: str, *words: object) -> Result:
        return CliRunner().invoke(main, [command, *(str(word) for word in words)])

    return run


def raised(settings: Settings, tenant: str, kind: str, level: str = "HIGH", as_of: dt.datetime = NOW) -> str:
    """Raises an alert; returns its id."""
    warehouse = Warehouse(settings)
    warehouse.add_tenant(tenant)
    alert = NewAlert(tenant, "story_points", kind, level, f"{kind} [of] points", as_of, detail={"score": 0.4})
    with warehouse.tenant(tenant) as connection:
        raise_alert(connection, alert, settings=settings)
        found = sa.select(tables.alerts.c.alert_id).where(tables.alerts.c.kind == kind)
        return str(connection.scalar(found))


def shown(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return re.sub(r"\s+", " ", result.stdout)


def test_alerts_are_listed_with_whom_they_were_told_and_who_has_seen_them(typed, settings: Settings):
    assert "No alerts." in shown(typed("alerts"))
    first = raised(settings, "acme", "drift")
    raised(settings, "globex", "anomaly", "LOW", NOW - dt.timedelta(days=30))
    listed = shown(typed("alerts"))
    assert first[:8] in listed and "drift [of] points" in listed and "log pending" in listed
    assert "to nobody, because it was about a time too long ago" in listed
    assert listed.index("drift") < listed.index("anomaly")


def test_the_list_is_of_one_tenant_one_model_and_what_is_open(typed, settings: Settings):
    first, second = raised(settings, "acme", "drift"), raised(settings, "acme", "anomaly")
    raised(settings, "globex", "drift")
    typed("acknowledge", "--tenant", "acme", first[:8], "--by", "ann", "--note", "a new team")
    listed = json.loads(typed("alerts", "--tenant", "acme", "--json").stdout)
    seen = {alert["alert_id"]: (alert["acknowledged_by"], alert["acknowledged_note"]) for alert in listed}
    assert seen == {first: ("ann", "a new team"), second: (None, None)}
    assert listed[0]["detail"] == {"score": 0.4}
    still = json.loads(typed("alerts", "--tenant", "acme", "--open", "--json").stdout)
    assert [alert["alert_id"] for alert in still] == [second]
    assert json.loads(typed("alerts", "--model", "lead_time", "--json").stdout) == []
    assert len(json.loads(typed("alerts", "--limit", 1, "--json").stdout)) == 1


def test_all_alerts_of_a_model_are_acknowledged_at_once(typed, settings: Settings):
    ids = {raised(settings, "acme", kind) for kind in ("drift", "anomaly")}
    other = raised(settings, "globex", "drift")
    done = typed("acknowledge", "--tenant", "acme", "--model", "story_points", "--all", "--json")
    assert set(json.loads(done.stdout)["acknowledged"]) == ids
    still = json.loads(typed("alerts", "--open", "--json").stdout)
    assert [alert["alert_id"] for alert in still] == [other]
    assert "Nothing to do: no open alerts." in shown(typed("acknowledge", "--tenant", "acme", "--all"))
    again = typed("acknowledge", "--tenant", "acme", next(iter(ids)))
    assert "Nothing to do: it is acknowledged already." in shown(again)


def test_an_alert_of_a_run_for_no_tenant_is_acknowledged_under_its_own_name(typed, settings: Settings):
    alert = raised(settings, "acme", "drift")
    with Warehouse(settings).tenant("__global__") as connection:
        about_no_tenant = NewAlert("__global__", "*", "run_failed", "HIGH", message="", as_of=NOW, detail={})
        raise_alert(connection, about_no_tenant, settings=settings)
    assert typed("acknowledge", "--tenant", "__global__", "--model", "*", "--all").exit_code == 0
    assert [row["alert_id"] for row in json.loads(typed("alerts", "--open", "--json").stdout)] == [alert]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("acknowledge", "--tenant", "acme"),
            "Give the id of one alert (ml-pipeline alerts --open lists them), or --all.",
        ),
        (("acknowledge", "--tenant", "acme", "1234", "--all"), "Give the id of one alert"),
        (("acknowledge", "--tenant", "acme", "1234", "--model", "story_points"), "--model needs --all"),
        (
            ("acknowledge", "--tenant", "acme", "1234"),
            "tenant acme: there is no alert '1234'; the open alerts are: none",
        ),
        (("acknowledge", "--tenant", "nobody", "--all"), "there is no tenant 'nobody'; known are: acme"),
        (("alerts", "--model", "nothing"), "there is no model 'nothing'; known are: lead_time, rework_risk"),
        (("prune", "--tenant", "nobody"), "there is no tenant 'nobody'"),
    ],
)
def test_what_can_not_be_done_is_answered_with_what_can(typed, settings: Settings, words, message: str):
    Warehouse(settings).add_tenant("acme")
    result = typed(*words)
    assert result.exit_code in (1, 2)
    assert message in re.sub(r"\s+", " ", result.stderr)


def old_predictions(settings: Settings, tenant: str) -> None:
    warehouse = Warehouse(settings)
    warehouse.add_tenant(tenant)
    fixed = {"tenant_id": tenant, "model": "story_points", "origin": "live", "version": 1, "value": 1, "baseline": 1}
    with warehouse.tenant(tenant) as connection:
        for entity, days in (("old", 500), ("full", 30)):
            at = NOW - dt.timedelta(days=days)
            row = {"entity_id": entity, "event_time": at, "predicted_at": at, "features": {"size": 1}}
            connection.execute(sa.insert(tables.predictions).values(fixed | row))


def test_pruning_deletes_what_its_dry_run_counted(typed, settings: Settings):
    old_predictions(settings, "acme")
    counted = json.loads(typed("prune", "--dry-run", "--json").stdout)
    assert (counted["dry_run"], counted["failures"]) == (True, {})
    assert (counted["counts"]["predictions"], counted["counts"]["features of predictions"]) == (1, 1)
    done = json.loads(typed("prune", "--json").stdout)
    assert done["counts"] == counted["counts"] | {"Dagster log rows": 0, "half-written files": 0}
    again = json.loads(typed("prune", "--json").stdout)
    assert set(again["counts"].values()) == {0}


def test_pruning_one_tenant_leaves_the_others(typed, settings: Settings):
    for tenant in ("acme", "globex"):
        old_predictions(settings, tenant)
    assert "predictions 1" in shown(typed("prune", "--tenant", "acme"))
    with Warehouse(settings).operator() as connection:
        left = connection.execute(sa.select(tables.predictions.c.tenant_id, tables.predictions.c.entity_id)).all()
    assert sorted(left) == [("acme", "full"), ("globex", "full"), ("globex", "old")]
