"""What the doctor finds before a run does."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from ml_pipeline.doctor import Finding, examine
from ml_pipeline.resources import postgres
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings

OWN = """
name: own
title: Something else
task: regression
source:
  table: source.{table}
  entity: issue_key
  event_time: created_at
  {url}
  columns:
    team: {{type: category}}
    summary: {{type: {kind}}}
    {column}: {{type: number, known_at: label}}
label: {{value: {column}, time: created_at}}
features: {{categorical: [team]}}
training: {{estimator: {estimator}, loss: absolute_error}}
"""
GOOD = {"table": "issues", "url": "", "kind": "text", "column": "story_points", "estimator": "xgboost"}


@pytest.fixture
def with_spec(settings: Settings, tmp_path):
    """Settings whose only specification of their own differs from a good one by what is given."""

    def make(**changes: str) -> Settings:
        (tmp_path / "own.yaml").write_text(OWN.format(**GOOD | changes))
        return settings.model_copy(update={"specs": (tmp_path,)})

    return make


def own(settings: Settings) -> Finding:
    return next(finding for finding in examine(settings) if finding.what == "model own")


def test_a_good_installation_has_nothing_bad(settings: Settings):
    findings = examine(settings)
    assert [finding.what for finding in findings] == [
        "database",
        "MLflow",
        "artifacts",
        "retraining",
        "alerts",
        "model lead_time",
        "model rework_risk",
        "model story_points",
    ]
    assert all(finding.ok for finding in findings)


@pytest.mark.parametrize("where", ["{file}/artifacts", "nowhere://artifacts"], ids=["no folder", "no such store"])
def test_an_artifact_store_that_cannot_be_written_is_bad(settings: Settings, tmp_path, where: str):
    (tmp_path / "file").write_text("")
    url = where.format(file=tmp_path / "file")
    finding = examine(settings.model_copy(update={"artifacts_url": url}))[2]
    assert (finding.what, finding.ok) == ("artifacts", False)
    assert finding.detail.startswith(f"{url} cannot be written: ") and "ML_PIPELINE_ARTIFACTS" in finding.detail


def test_checking_the_artifact_store_leaves_nothing_there(settings: Settings):
    examine(settings)
    assert list(Path(settings.artifacts).iterdir()) == []


def test_a_good_model_of_ones_own_is_found_good(with_spec):
    assert own(with_spec()) == Finding("model own", True, "source.issues: 6 columns exist, with fitting types")


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"table": "tickets"}, "model own: there is no table or view source.tickets. Correct source.table"),
        (
            {"column": "points"},
            "model own: source.issues: points is missing. Correct source.columns or the table",
        ),
        (
            {"kind": "number"},
            "model own: source.issues: summary is text, not a number. Declare it category, or read a view that casts "
            "it",
        ),
        (
            {"url": "url: env:NOWHERE_URL"},
            "model own: source.url names the variable NOWHERE_URL, which is not set. Export it",
        ),
    ],
    ids=["a missing table", "a missing column", "another type", "an unset variable"],
)
def test_the_doctor_names(with_spec, changes: dict[str, str], detail: str):
    assert own(with_spec(**changes)) == Finding("model own", False, detail)


def test_a_table_that_may_not_be_read_is_found_before_the_run(with_spec):
    settings = with_spec(table="secrets")
    with postgres.engine(Warehouse(settings).url).begin() as connection:
        connection.execute(sa.text("CREATE TABLE source.secrets (LIKE source.issues)"))
    finding = own(settings)
    assert not finding.ok
    assert "source.secrets has no policy" in finding.detail
    assert "GRANT SELECT ON source.secrets TO ml_app;" in finding.detail
    with postgres.engine(Warehouse(settings).url).begin() as connection:
        connection.execute(sa.text(finding.detail.partition("Close it with: ")[2].replace("GRANT SELECT", "-- GRANT")))
    assert "permission denied for table secrets" in own(settings).detail


def test_a_database_that_does_not_answer_is_one_models_problem_and_not_the_others(with_spec):
    findings = examine(with_spec(url="url: postgresql://ann:secret@127.0.0.1:1/shop"))
    bad = [finding for finding in findings if not finding.ok]
    assert [finding.what for finding in bad] == ["model own"]
    assert "127.0.0.1" in bad[0].detail and "secret" not in bad[0].detail


def test_a_specification_that_is_wrong_is_named_by_file_key_and_value(with_spec, tmp_path):
    findings = examine(with_spec(estimator="forest"))
    bad = [finding for finding in findings if not finding.ok]
    assert [finding.what for finding in bad] == ["model own"]
    assert bad[0].detail.startswith(f"{tmp_path}/own.yaml: training.estimator: 'forest': Input should be")
    assert sum(finding.what.startswith("model ") for finding in findings) == 4


def test_settings_that_would_fail_a_sensor_or_the_first_alert_are_found(settings: Settings, tmp_path):
    (tmp_path / "policy.yaml").write_text("cooldown_days: soon\n")
    wrong = {"policy": tmp_path / "policy.yaml", "auto_retrain_models": ("story_point",)}
    changed = settings.model_copy(update=wrong | {"alert_smtp": SecretStr("smtp://127.0.0.1:25")})
    bad = [finding.detail for finding in examine(changed) if not finding.ok]
    assert len(bad) == 3
    assert "cooldown_days: 'soon'" in bad[0]
    assert "ML_PIPELINE_AUTO_RETRAIN_MODELS names unknown models: story_point." in bad[1]
    assert "Set ML_PIPELINE_ALERT_TO" in bad[2]
