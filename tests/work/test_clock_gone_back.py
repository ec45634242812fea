"""A clock that goes back: what was written last stays the newest, and nothing waits for a time that was wrong."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from ml_pipeline.resources import tables
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.registry import CHAMPION, Registration
from ml_pipeline.sensors.registry_sync import registry_sync
from ml_pipeline.sensors.rollback_watch import rollback_watch
from ml_pipeline.specs import load_specs
from ml_pipeline.work.alerts.deliver import deliver
from ml_pipeline.work.alerts.raising import NewAlert, escalate, raise_alert
from ml_pipeline.work.context import Clients
from ml_pipeline.work.deployment.deployer import PROMOTE
from ml_pipeline.work.deployment.registry_sync import follow_aliases
from ml_pipeline.work.fleet import fleet_status
from ml_pipeline.work.retraining.decide import decide_for
from ml_pipeline.work.retraining.explain import explain
from ml_pipeline.work.retraining.fleet_state import Running, fleet_states
from ml_pipeline.work.training.task import PREDICTIONS
from ml_pipeline.work.training.version_files import fingerprint_of

SPEC = load_specs()["story_points"]
TAGS = {"question_hash": fingerprint_of(SPEC).question}
HOUR = dt.timedelta(hours=1)
DAY = 24 * HOUR


def message(sensor: dg.SensorDefinition) -> str:
    """What a tick of the sensor says on Dagster's page."""
    with dg.build_sensor_context(resources={"installation": Installation()}) as context:
        return sensor(context).skip_message


@pytest.fixture
def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def written_later(superuser: sa.Engine, by: dt.timedelta) -> None:
    """What is written from here on had been written with a clock that was ``by`` ahead, which is right again."""
    with superuser.begin() as connection:
        for table in (tables.deployments, tables.decisions, tables.feature_sets, tables.alerts):
            later = {"created_at": table.c.created_at + by, "as_of": table.c.as_of + by}
            connection.execute(sa.update(table).values(later))
        moved = {name: tables.deployments.c[name] + by for name in ("finished_at", "watched_at")}
        connection.execute(sa.update(tables.deployments).values(moved))


@pytest.fixture
def clients(settings, superuser, tmp_path: Path, monkeypatch, now) -> Clients:
    """Versions 1 and 2 were promoted with a clock that was three hours ahead, version 3 when it was right again."""
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    monkeypatch.setenv("ML_PIPELINE_HOME", str(settings.home))
    clients, folder = Clients(settings), tmp_path / "files"
    folder.mkdir()
    (folder / "version.json").write_text("{}")
    clients.warehouse.add_tenant("acme")
    for key in "abc":
        clients.registry.register(
            "acme",
            SPEC.name,
            folder,
            Registration(key=key, semantic="1.0.0", as_of="2026-02-01", metrics={}, params={}, tags=TAGS),
        )
    for number in (1, 2):
        clients.deployer.deploy("acme", SPEC.name, number, action=PROMOTE, reason="better", as_of=now)
    written_later(superuser, 3 * HOUR)
    clients.deployer.deploy("acme", SPEC.name, 3, action=PROMOTE, reason="better", as_of=now)
    return clients


def deployments(clients: Clients) -> list[tuple[int, str, str | None]]:
    table = tables.deployments
    query = sa.select(table.c.version, table.c.action, table.c.watch).order_by(table.c.sequence)
    with clients.warehouse.operator() as connection:
        return [tuple(row) for row in connection.execute(query)]


def test_no_alias_is_taken_for_moved_by_hand_and_no_watch_is_opened(clients, now):
    before = deployments(clients)
    assert before == [(1, PROMOTE, None), (2, PROMOTE, "superseded"), (3, PROMOTE, "open")]
    for _ in range(2):
        assert follow_aliases(clients, now) == []
        assert message(registry_sync) == "0 aliases had been moved by hand."
    assert clients.deployer.follow_alias("acme", SPEC.name, now) is None
    assert deployments(clients) == before


def test_an_alias_that_a_person_moves_is_recorded_once(clients, now):
    clients.registry.set_alias("acme", SPEC.name, CHAMPION, 2)
    assert [(found.version, found.replaced) for found in follow_aliases(clients, now)] == [(2, 3)]
    assert follow_aliases(clients, now) == []


def test_a_rollback_returns_to_the_version_before_and_then_to_the_one_before_that(clients, now):
    for expected in (2, 1):
        clients.deployer.roll_back("acme", SPEC.name, reason="worse", as_of=now)
        assert clients.registry.aliased("acme", SPEC.name).number == expected


def test_the_state_of_the_loop_names_the_version_that_serves(clients, now):
    (state,) = fleet_states(clients, {SPEC.name: SPEC}, ["acme"], now, Running())
    assert (state.champion.number, state.watching) == (3, True)


def test_the_sensor_begins_a_watch_that_is_dated_years_ahead(clients, superuser, now):
    written_later(superuser, 3650 * DAY)
    assert message(rollback_watch).startswith("0 of 0 watches")
    with clients.warehouse.operator() as connection:
        begun = connection.scalar(sa.select(tables.deployments.c.as_of).where(tables.deployments.c.watch == "open"))
    assert abs(begun - now) < HOUR


def test_a_cut_off_deployment_that_is_dated_ahead_is_settled(clients, superuser, now):
    with clients.warehouse.tenant("acme") as connection:
        connection.execute(
            sa.update(tables.deployments).where(tables.deployments.c.version == 3).values(state="intent")
        )
    written_later(superuser, DAY)
    assert [outcome for _, outcome in clients.deployer.reconcile(older_than=HOUR)] == ["done"]


def test_training_status_and_explain_follow_the_newest_rows_and_the_cool_down_ends(
    tenant, superuser, make_issues, as_known
):
    tenant.holds(as_known(make_issues(60), 40)).train(40)
    written_later(superuser, 6 * HOUR)
    tenant.holds(make_issues(60))
    clients, at = Clients(tenant.settings), dt.datetime.fromisoformat(tenant.task(40).as_of)
    assert tenant.train(40.2).done["model"]["decision"] != "unchanged"  # the clock has gone back
    (status,) = fleet_status(clients.warehouse, clients.registry, {tenant.spec.name: tenant.spec})
    newest = tenant.rows(tables.decisions)[-1]
    assert status.reason == newest["reason"]
    assert explain(clients, tenant.spec, "acme", at).decisions["training"]["decision_id"] == newest["decision_id"]

    first = tenant.rows(tables.decisions)[0]["as_of"]
    (state,) = fleet_states(clients, {tenant.spec.name: tenant.spec}, ["acme"], at, Running())
    assert state.last_fit.at < first  # the newest by its number, not by its time
    for by, last in ((HOUR, "an hour ahead"), (3650 * DAY, None)):
        written_later(superuser, by)
        (state,) = fleet_states(clients, {tenant.spec.name: tenant.spec}, ["acme"], at, Running())
        assert (state.last_fit is None) == (last is None)


def test_predictions_dated_ahead_do_not_make_each_hour_score_the_same_again(tenant, make_issues, now):
    tenant.holds(make_issues(60)).train(60)
    scored = tenant.rows(tables.predictions)
    ahead = [row | {"version": 7, "predicted_at": now + 30 * DAY} for row in scored]
    with Clients(tenant.settings).warehouse.tenant("acme") as connection:
        connection.execute(sa.insert(tables.predictions), ahead)
    assert tenant.train(60.1, (PREDICTIONS,)).done[PREDICTIONS]["scored"] == 0


def test_alerts_put_off_until_a_wrong_time_are_delivered_and_escalated(settings, warehouse, receiver, now):
    settings = replace_settings(settings, receiver.url)
    warehouse = type(warehouse)(settings)
    with warehouse.tenant("acme") as connection:
        for kind in ("drift", "degradation"):
            later = now + 3650 * DAY
            alert = NewAlert("acme", SPEC.name, kind, level="HIGH", message=kind, as_of=later, detail={})
            raise_alert(connection, alert, settings=settings, now=later)
    from ml_pipeline.resources.notifier import channels

    assert deliver(warehouse, channels(settings)).sent >= 2
    assert len(receiver.texts) >= 1
    assert escalate(warehouse, settings, now=now) == 2


def replace_settings(settings, url: str):
    return type(settings).model_validate(settings.model_dump() | {"alert_webhook": url})


def test_an_approval_dated_years_ahead_is_given_up(settings, superuser, monkeypatch):
    from ml_pipeline import partitions
    from ml_pipeline.lifecycle.retraining import Request
    from ml_pipeline.sensors.retraining import unlaunched
    from ml_pipeline.work.retraining.decide import waiting

    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    clients, now = Clients(settings), dt.datetime.now(dt.UTC)
    clients.warehouse.add_tenant("acme")
    outcomes = [
        {"tenant_id": "acme", "model": "story_points", "entity_id": str(number), "label_time": now - DAY, "value": 1.0}
        for number in range(200)
    ]
    snapshot = {"tenant_id": "acme", "model": "story_points", "snapshot_hash": "s", "as_of": now - 9 * DAY, "rows": 300}
    snapshot |= {"matured": 200, "path": "", "quality": {}, "quality_score": 90.0}
    with clients.warehouse.tenant("acme") as connection:
        connection.execute(sa.insert(tables.outcomes), outcomes)
        connection.execute(sa.insert(tables.feature_sets).values(snapshot))
    tick = decide_for(clients, {"story_points": SPEC}, ["acme"], now, request=Request("ann", ""))
    assert len(tick.approved) == 1, tick.blocked
    written_later(superuser, 3650 * DAY)
    (state,) = fleet_states(clients, {"story_points": SPEC}, ["acme"], now, Running())
    assert state.active_runs == 1
    with dg.DagsterInstance.local_temp(str(settings.home)) as instance:
        instance.add_dynamic_partitions(str(partitions.tenants.name), ["acme"])
        assert unlaunched(instance, clients, ["acme"], now) == []
    assert waiting(clients.warehouse) == []
