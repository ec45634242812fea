"""The environment as one typed object."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import pytest

from ml_pipeline.settings import PROJECT_ROOT, SettingsError, load_settings


def test_an_empty_environment_gives_the_embedded_database_under_the_project():
    settings = load_settings({})
    assert settings.database_url is None
    assert settings.home == PROJECT_ROOT / ".local"
    assert settings.artifacts == str(PROJECT_ROOT / ".local" / "artifacts")


def test_an_empty_variable_is_an_unset_one():
    assert load_settings({"DATABASE_URL": "", "ML_PIPELINE_WORKERS": ""}).database_url is None


def test_artifacts_go_where_they_are_told():
    settings = load_settings({"ML_PIPELINE_HOME": "/srv/home", "ML_PIPELINE_ARTIFACTS": "s3://bucket/models"})
    assert (settings.home, settings.artifacts) == (Path("/srv/home"), "s3://bucket/models")


def test_a_home_folder_is_absolute_wherever_the_command_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert load_settings({"ML_PIPELINE_HOME": "here"}).home == tmp_path.resolve() / "here"


def test_several_folders_of_specifications_are_separated_like_a_path():
    folders = load_settings({"ML_PIPELINE_SPECS": os.pathsep.join(["/a", "/b", ""])}).specs
    assert folders == (Path("/a"), Path("/b"))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ML_PIPELINE_WORKERS", "many"),
        ("ML_PIPELINE_WORKERS", "0"),
        ("ML_PIPELINE_DAGSTER_PORT", "70000"),
        ("ML_PIPELINE_TENANT_TIMEOUT", "-1"),
    ],
)
def test_a_value_that_can_not_be_is_refused_by_the_name_of_its_variable(variable: str, value: str):
    with pytest.raises(SettingsError, match=f"^{variable}='{value}': .* Correct it or unset it"):
        load_settings({variable: value})


def test_the_names_of_the_pages_are_separated_by_commas():
    given = load_settings({"ML_PIPELINE_ALLOWED_HOSTS": "pages.example.com, 10.0.0.5:3000,[fd00::1],"}).allowed_hosts
    assert given == ("pages.example.com", "10.0.0.5:3000", "[fd00::1]")


@pytest.mark.parametrize("name", ["*", "*.example.com", "https://pages.example.com", "pages.example.com/x", "0.0.0.0"])
def test_a_name_of_the_pages_that_is_none_is_refused_with_what_is_expected(name: str):
    expected = f"^ML_PIPELINE_ALLOWED_HOSTS=.*{re.escape(repr(name))} is not a host name; expected names such as pages"
    with pytest.raises(SettingsError, match=expected):
        load_settings({"ML_PIPELINE_ALLOWED_HOSTS": f"good.example.com,{name}"})


@pytest.mark.parametrize("home", ["/srv/a::b", "/srv/a\nb", "/srv/a\x07b", "/srv/a\udcffb"])
def test_a_home_that_the_artifact_store_cannot_take_is_refused_by_name(home: str):
    with pytest.raises(SettingsError, match=r"^ML_PIPELINE_HOME=.* which the artifact store does not allow"):
        load_settings({"ML_PIPELINE_HOME": home})


def test_workers_are_given_their_own_login():
    ours, theirs = "postgresql://ann:x@db/shop", "postgresql://bob:y@db/shop"
    logins = {"DATABASE_URL": ours, "ML_PIPELINE_WORKER_DATABASE_URL": theirs}
    assert load_settings(logins).for_workers().database_url == theirs
    assert load_settings({"DATABASE_URL": ours}).for_workers().database_url == ours


def test_settings_travel_to_worker_processes():
    settings = load_settings({"DATABASE_URL": "postgresql://db/x", "ML_PIPELINE_WORKERS": "3"})
    assert pickle.loads(pickle.dumps(settings)) == settings
