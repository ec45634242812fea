"""One model file that cannot be used: its own commands say so, and everything else goes on."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from ml_pipeline import partitions
from ml_pipeline.cli import main
from ml_pipeline.definitions import definitions
from ml_pipeline.lifecycle.policy import PolicyError
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.sensors.alert_delivery import alert_delivery
from ml_pipeline.sensors.retraining import retraining, unlaunched
from ml_pipeline.sensors.rollback_watch import rollback_watch
from ml_pipeline.settings import Settings, load_settings
from ml_pipeline.specs import BrokenSpec, Specs, load_specs
from ml_pipeline.work.context import Clients
from ml_pipeline.work.retraining.decide import APPROVED, SCORES, waiting

BROKEN = "name: claims\ntitle: Claims\ntask: ranking\n"


@pytest.fixture
def folder(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of models with a broken one, in the environment of commands and sensors."""
    path = tmp_path / "specs"
    path.mkdir()
    (path / "claims.yaml").write_text(BROKEN)
    environment = {"DATABASE_URL": settings.database_url, "ML_PIPELINE_HOME": settings.home, "DAGSTER_HOME": tmp_path}
    for name, value in (environment | {"ML_PIPELINE_SPECS": path, "ML_PIPELINE_WORKERS": 1}).items():
        monkeypatch.setenv(name, str(value))
    Warehouse(settings).add_tenant("acme")
    return path


def tick(sensor: dg.SensorDefinition, instance: dg.DagsterInstance):
    with dg.build_sensor_context(instance=instance, resources={"installation": Installation()}) as context:
        return sensor(context)


def typed(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def said(result: Result) -> str:
    return " ".join((result.stdout + result.stderr).split())


def test_status_shows_the_other_models_and_says_what_is_left_out(folder):
    result = typed("status", "--json")
    assert result.exit_code == 0
    assert {row["model"] for row in json.loads(result.stdout)} == {"lead_time", "rework_risk", "story_points"}
    assert "Left out: model claims:" in " ".join(result.stderr.split())
    assert "task: 'ranking'" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("status", "--model", "claims"),
        ("run", "--model", "claims"),
        ("explain", "--tenant", "acme", "--model", "claims"),
        ("retrain", "--tenant", "acme", "--model", "claims"),
        ("rollback", "--tenant", "acme", "--model", "claims"),
    ],
)
def test_a_command_that_names_the_broken_model_shows_what_is_wrong_with_it(folder, words):
    result = typed(*words)
    assert result.exit_code == 1
    assert f"Error: {folder}/claims.yaml: " in said(result)
    assert "task: 'ranking'" in said(result)


def test_other_commands_go_on(folder):
    assert typed("explain", "--tenant", "acme", "--model", "story_points").exit_code == 0
    assert typed("set", "auto_retrain", "on", "--tenant", "acme").exit_code == 0
    assert typed("alerts", "--model", "claims").exit_code == 0


def test_the_doctor_lists_the_broken_file_and_exits_with_1(folder):
    result = typed("doctor", "--json")
    assert result.exit_code == 1
    bad = [finding for finding in json.loads(result.stdout) if not finding["ok"]]
    assert [finding["what"] for finding in bad] == ["model claims"]
    assert "task: 'ranking'" in bad[0]["detail"]


def test_dagster_loads_the_other_models_and_shows_the_broken_one(folder):
    graph = definitions(load_specs([folder]), installation=Installation()).resolve_asset_graph()
    keys = {key.to_user_string() for key in graph.get_all_asset_keys()}
    assert {"story_points/model", "claims/broken_specification"} <= keys
    assert "claims/model" not in keys
    assert "task: 'ranking'" in graph.get(dg.AssetKey(["claims", "broken_specification"])).description


def test_a_broken_file_of_any_name_loads(folder):
    specs = Specs(load_specs(), [BrokenSpec("my claims (2)/[x]", "bad"), BrokenSpec("my claims (2)/[x]", "worse")])
    loaded = definitions(specs, installation=Installation()).get_repository_def()
    assert loaded.asset_graph.has(dg.AssetKey(["my_claims__2___x_", "broken_specification"]))


def test_the_sensors_go_on(folder, settings: Settings):
    with dg.DagsterInstance.local_temp(str(settings.home)) as instance:
        for sensor in (retraining, rollback_watch, alert_delivery):
            result = tick(sensor, instance)
            assert isinstance(result, dg.SkipReason | dg.SensorResult | None)


def test_an_approved_retraining_waits_until_the_file_is_corrected(folder, settings: Settings):
    from ml_pipeline.work.retraining.decisions import DecisionRecord, record_decision

    warehouse = Warehouse(settings)
    now = dt.datetime.now(dt.UTC)
    numbers = {"trigger": "drift", "severity": "HIGH", "scheduled_for": None, "action": "train"}
    numbers |= dict.fromkeys(SCORES)
    with warehouse.tenant("acme") as connection:
        record = DecisionRecord("acme", "claims", "retrain", "retrain", "it drifted", now, numbers, state=APPROVED)
        record_decision(connection, record)
    with dg.DagsterInstance.local_temp(str(settings.home)) as instance:
        assert unlaunched(instance, Clients(load_settings()), ["acme"], now) == []
    assert [item.model for item in waiting(warehouse)] == ["claims"]


def test_a_broken_policy_stops_nothing_but_retraining(folder, settings: Settings, monkeypatch, tmp_path: Path):
    (tmp_path / "policy.yaml").write_text("cooldown_days: soon\n")
    monkeypatch.setenv("ML_PIPELINE_POLICY", str(tmp_path / "policy.yaml"))
    assert load_settings().policy is not None
    with dg.DagsterInstance.local_temp(str(settings.home)) as instance:
        instance.add_dynamic_partitions(str(partitions.tenants.name), ["acme"])
        for sensor in (rollback_watch, alert_delivery):
            tick(sensor, instance)
        with pytest.raises(PolicyError):
            tick(retraining, instance)
    assert typed("status").exit_code == 0
    explained = typed("explain", "--tenant", "acme", "--model", "story_points")
    assert explained.exit_code == 0
    assert "now: no decision:" in said(explained)
    assert "cooldown_days: 'soon'" in said(explained)
