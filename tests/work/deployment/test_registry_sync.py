"""Aliases that a person moves in MLflow: honoured, recorded once, and refused where nothing proves the files."""

from __future__ import annotations

import datetime as dt

import dagster as dg
import pytest
import sqlalchemy as sa

from ml_pipeline.jobs import rollback_job
from ml_pipeline.resources import tables
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.registry import CHAMPION, Registration
from ml_pipeline.sensors.registry_sync import registry_sync
from ml_pipeline.sensors.rollback_watch import rollback_watch
from ml_pipeline.specs import load_specs
from ml_pipeline.work.context import Clients
from ml_pipeline.work.deployment.deployer import PROMOTE
from ml_pipeline.work.deployment.registry_sync import follow_aliases
from ml_pipeline.work.training.version_files import fingerprint_of

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
MODEL = "story_points"
TAGS = {"question_hash": fingerprint_of(load_specs()[MODEL]).question}


def message(sensor: dg.SensorDefinition) -> str:
    """What a tick of the sensor says on Dagster's page."""
    with dg.build_sensor_context(resources={"installation": Installation()}) as context:
        return sensor(context).skip_message


@pytest.fixture
def clients(settings, tmp_path, monkeypatch, start_from) -> Clients:
    """Two tenants with three versions each, the first of which serves."""
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    monkeypatch.setenv("ML_PIPELINE_HOME", str(settings.home))
    clients, folder = Clients(settings), tmp_path / "files"

    def deployed() -> None:
        folder.mkdir()
        (folder / "version.json").write_text("{}")
        for tenant in ("acme", "globex"):
            clients.warehouse.add_tenant(tenant)
            for key in "abc":
                given = Registration(key=key, semantic="1.0.0", as_of="2026-02-01", metrics={}, params={}, tags=TAGS)
                clients.registry.register(tenant, MODEL, folder, given)
            clients.deployer.deploy(tenant, MODEL, 1, action=PROMOTE, reason="better", as_of=NOW)

    start_from(deployed)
    return clients


def champion(clients: Clients, tenant: str) -> int:
    return clients.registry.aliases()[tenant, MODEL][CHAMPION]


def alerts(clients: Clients) -> list[tuple[str, str]]:
    with clients.warehouse.operator() as connection:
        return [tuple(row) for row in connection.execute(sa.select(tables.alerts.c.tenant_id, tables.alerts.c.kind))]


def test_only_the_alias_that_was_moved_is_recorded_and_only_once(clients):
    clients.registry.set_alias("acme", MODEL, CHAMPION, 2)
    assert [(found.tenant, found.version, found.replaced) for found in follow_aliases(clients, NOW)] == [("acme", 2, 1)]
    assert follow_aliases(clients, NOW) == []
    assert (champion(clients, "acme"), champion(clients, "globex")) == (2, 1)


def test_a_version_that_the_pipeline_did_not_register_is_alerted_and_not_recorded(clients):
    name = f"{MODEL}.acme"
    foreign = clients.registry.client.create_model_version(name, "file:///elsewhere")
    clients.registry.set_alias("acme", MODEL, CHAMPION, int(foreign.version))
    assert follow_aliases(clients, NOW) == []
    assert alerts(clients) == [("acme", "foreign_version")]


def test_a_version_copied_from_another_tenant_with_its_tags_is_alerted_and_not_recorded(clients):
    theirs = clients.registry.version("globex", MODEL, 1)
    copy = clients.registry.client.create_model_version(
        f"{MODEL}.acme", theirs.source, theirs.run_id, tags=dict(theirs.tags)
    )
    clients.registry.set_alias("acme", MODEL, CHAMPION, int(copy.version))
    assert follow_aliases(clients, NOW) == []
    assert alerts(clients) == [("acme", "foreign_version")]
    assert clients.deployer.last_deployment("acme", MODEL)["version"] == 1


def test_the_sensor_says_what_it_followed(clients):
    clients.registry.set_alias("globex", MODEL, CHAMPION, 3)
    assert message(registry_sync) == "1 aliases had been moved by hand."
    assert message(registry_sync) == "0 aliases had been moved by hand."


def test_the_watch_looks_at_what_is_due_and_says_what_it_found(clients):
    clients.registry.set_alias("acme", MODEL, CHAMPION, 2)
    follow_aliases(clients, NOW)
    said = message(rollback_watch)
    assert said == "1 of 1 watches evaluated: 1 keep."  # long past its last day, without a common outcome
    assert message(rollback_watch) == "0 of 0 watches evaluated: none was due."


def test_a_person_rolls_back_by_a_job_to_any_version(clients):
    clients.deployer.deploy("acme", MODEL, 2, action=PROMOTE, reason="better", as_of=NOW)
    config = {"tenant": "acme", "model": MODEL, "to": 3, "reason": "the customer asked"}
    run_config = {"ops": {"return_to_version": {"config": config}}}
    result = rollback_job.execute_in_process(run_config=run_config, resources={"installation": Installation()})
    assert result.success
    assert champion(clients, "acme") == 3
    assert clients.registry.version("acme", MODEL, 2).tags["rolled_back"] == "the customer asked"


def test_the_job_without_a_version_returns_to_the_one_before(clients):
    clients.deployer.deploy("acme", MODEL, 2, action=PROMOTE, reason="better", as_of=NOW)
    run_config = {"ops": {"return_to_version": {"config": {"tenant": "acme", "model": MODEL}}}}
    resources = {"installation": Installation()}
    assert rollback_job.execute_in_process(run_config=run_config, resources=resources).success
    assert champion(clients, "acme") == 1
