"""Switching the loop on, asking it why, and retraining by hand, as it is typed."""

from __future__ import annotations

import getpass
import json

import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from ml_pipeline.cli import main
from ml_pipeline.partitions import today
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.work.tenant_settings import read_settings

OF = ("--tenant", "acme", "--model", "story_points")


@pytest.fixture
def typed(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """Runs a command against the test's own installation."""
    environment = {"DATABASE_URL": settings.database_url, "ML_PIPELINE_HOME": settings.home, "ML_PIPELINE_WORKERS": 1}
    for name, value in (environment | {"DAGSTER_HOME": settings.home}).items():
        monkeypatch.setenv(name, str(value))

    def run(*words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words])

    return run


@pytest.fixture
def acme(settings: Settings) -> Warehouse:
    warehouse = Warehouse(settings)
    warehouse.add_tenant("acme")
    return warehouse


def said(result: Result) -> str:
    """Everything that was printed, on one line."""
    return " ".join((result.stdout + result.stderr).split())


def stored(warehouse: Warehouse) -> dict:
    with warehouse.tenant("acme") as connection:
        return dict(read_settings(connection).values)


def test_a_switch_is_stored_for_the_model_and_taken_back(typed, acme):
    assert "auto_retrain is on for acme story_points." in said(typed("set", "auto_retrain", "on", *OF))
    assert stored(acme) == {("acme", "story_points", "auto_retrain"): True}
    assert "auto_retrain is no longer set for acme story_points." in said(typed("unset", "auto_retrain", *OF))
    assert stored(acme) == {}


def test_a_dash_as_a_value_is_answered_with_unset(typed, acme):
    result = typed("set", "auto_retrain", "-", *OF)
    assert result.exit_code == 2
    assert "'-' is not a value. To remove the setting: ml-pipeline unset auto_retrain" in said(result)


def test_a_name_that_is_no_setting_cannot_be_unset(typed, acme):
    result = typed("unset", "colour", *OF)
    assert result.exit_code == 1
    assert "there is no setting 'colour'; the settings are: auto_retrain, auto_rollback, off_peak" in said(result)


def test_every_setting_is_offered_while_it_is_typed():
    from ml_pipeline.cli.loop import SETTINGS
    from ml_pipeline.work import tenant_settings

    assert tuple(tenant_settings._READERS) == SETTINGS


def test_who_changed_a_setting_is_the_user_of_this_machine_unless_somebody_is_named(typed, acme, superuser):
    typed("set", "auto_retrain", "on", *OF)
    typed("set", "auto_rollback", "on", *OF, "--by", "ann")
    with superuser.connect() as connection:
        by = dict(connection.execute(sa.select(tables.settings.c.name, tables.settings.c.changed_by)).all())
    assert by == {"auto_retrain": getpass.getuser(), "auto_rollback": "ann"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("auto_retrain", "maybe"), "auto_retrain is 'maybe'. Write on or off"),
        (("off_peak", "25-3"), "off_peak is '25-3'. Write two hours in UTC, for example 22-5"),
        (("colour", "red"), "there is no setting 'colour'; the settings are: auto_retrain, auto_rollback, off_peak"),
    ],
)
def test_what_is_no_setting_is_refused_with_what_is(typed, acme, words, message):
    result = typed("set", *words, *OF)
    assert result.exit_code == 1
    assert message in said(result)


def test_a_tenant_that_does_not_exist_is_refused(typed, acme):
    assert "there is no tenant 'nobody'" in said(typed("set", "auto_retrain", "on", "--tenant", "nobody"))


def test_a_tenant_of_whom_nothing_was_decided_hears_what_would_be_decided_now(typed, acme):
    told = said(typed("explain", *OF))
    assert "No decision yet. now: No trigger: no label is known yet." in told


def test_a_retraining_that_a_safeguard_blocks_ends_with_its_reason(typed, acme):
    result = typed("retrain", *OF, "--by", "ann")
    assert result.exit_code == 1
    assert "Blocked by samples: 0 of 100 matured labels" in said(result)
    told = said(typed("explain", *OF))
    assert "retraining," in told and "Requested by ann." in told
    assert "samples blocks 0 of 100 matured labels" in told
    assert "master_flag passed automatic retraining is on" in told


def test_a_retraining_by_hand_runs_and_says_what_was_decided(typed, acme, settings):
    from ml_pipeline.importers import import_tables

    end = pd.Timestamp(today(), tz="UTC")
    created = end - pd.to_timedelta(range(240, 0, -1), unit="h") * 6
    kinds = ["Story", "Task", "Bug"] * 80
    frame = pd.DataFrame({"issue_key": [f"A-{number}" for number in range(240)], "issue_type": kinds, "summary": "s"})
    points = frame["issue_type"].map({"Story": 8.0, "Task": 3.0, "Bug": 1.0})
    frame = frame.assign(created_at=created, estimated_at=created + pd.Timedelta(hours=5), story_points=points)
    import_tables(acme, "acme", frame, None)
    typed("run", "--tenant", "acme", "--model", "story_points", "--days", 1)
    result = typed("retrain", *OF, "--reason", "a look")
    assert result.exit_code == 0, result.output
    found = json.loads(typed("explain", *OF, "--json").stdout)
    assert found["decisions"]["retraining"]["numbers"]["trigger"] == "manual"
    assert found["decisions"]["retraining"]["state"] == "done"
    assert set(found["decisions"]) >= {"retraining", "training"}
