"""Where the command line finds Dagster."""

from __future__ import annotations

from pathlib import Path

from ml_pipeline.launch import dagster_home
from ml_pipeline.settings import PROJECT_ROOT, load_settings


def test_a_copied_dagster_yaml_is_used(tmp_path: Path):
    (tmp_path / "dagster.yaml").touch()
    assert dagster_home(load_settings({"DAGSTER_HOME": str(tmp_path)})) == tmp_path


def test_without_one_the_projects_is_used(tmp_path: Path):
    assert dagster_home(load_settings({"DAGSTER_HOME": str(tmp_path)})) == PROJECT_ROOT
    assert dagster_home(load_settings({})) == PROJECT_ROOT
