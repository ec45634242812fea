"""``ml-pipeline`` as it is typed: what it prints, what it does, how it ends."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from ml_pipeline.cli import main
from ml_pipeline.partitions import today
from ml_pipeline.resources import tables
from ml_pipeline.resources.folders import OWN_FOLDERS
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings

STATUS_KEYS = [
    "tenant",
    "model",
    "version",
    "alias",
    "trained_at",
    "rows",
    "metric",
    "value",
    "baseline_value",
    "skill",
    "decision",
    "reason",
    "health",
    "drift",
    "business",
    "state",
    "state_reason",
]


def closed(home: Path) -> bool:
    """Whether what the pipeline has written into its folders can be read by its own user alone."""
    made = [path for name in OWN_FOLDERS for path in [home / name, *(home / name).rglob("*")] if path.exists()]
    return {path.stat().st_mode & 0o777 for path in made} == {0o700, 0o600}


@pytest.fixture
def typed(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """Runs a command against the test's own installation."""
    environment = {"DATABASE_URL": settings.database_url, "ML_PIPELINE_HOME": settings.home, "ML_PIPELINE_WORKERS": 2}
    environment["ML_PIPELINE_WORKER_DATABASE_URL"] = str(settings.worker_database_url)
    for name, value in (environment | {"DAGSTER_HOME": settings.home}).items():
        monkeypatch.setenv(name, str(value))

    def run(*words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words])

    return run


def export(folder: Path, tenant: str, rows: int = 240, *, last: pd.Timestamp | None = None) -> Path:
    """A Jira export of four issues a day up to ``last``, in which the type tells the points."""
    rng = np.random.default_rng(5)
    last = last or pd.Timestamp(today(), tz="UTC")
    created = last - pd.to_timedelta(np.arange(rows, 0, -1) * 6, unit="h")
    points = {"Story": 8, "Task": 3, "Bug": 1}
    kinds = rng.choice(list(points), rows)
    columns = {"Issue key": [f"A-{i}" for i in range(rows)], "Issue Type": kinds, "Created": created, "Summary": "s"}
    resolved = created + pd.Timedelta(days=1)
    given = [points[kind] + rng.integers(0, 2) for kind in kinds]
    frame = pd.DataFrame(columns | {"Resolved": resolved, "Story Points": given})
    frame.loc[resolved > last, ["Resolved", "Story Points"]] = None
    path = folder / f"{tenant}.csv"
    frame.to_csv(path, index=False)
    return path


def status(result: Result) -> dict:
    (row,) = json.loads(result.stdout)
    return row


def test_from_an_export_to_a_serving_version_its_rollback_and_back(typed, tmp_path: Path):
    assert typed("import", "jira", export(tmp_path, "acme")).exit_code == 0
    run = typed("run", "--model", "story_points", "--days", 2, "--json")
    assert run.exit_code == 0, run.output
    row = status(run)
    assert list(row) == STATUS_KEYS
    assert (row["tenant"], row["model"], row["version"], row["alias"]) == ("acme", "story_points", 1, "champion")
    assert row["decision"] == "promote" and row["value"] < row["baseline_value"] and row["skill"] > 0
    assert row["health"] is not None and row["drift"] is not None
    assert row["business"]["within_one_point"]["value"] > row["business"]["within_one_point"]["baseline_value"]
    assert status(typed("status", "--model", "story_points", "--json")) == row

    again = typed("promote", "--tenant", "acme", "--model", "story_points", "--version", 1)
    assert again.stdout == "acme story_points: version 1 is the champion already.\n"
    lonely = typed("rollback", "--tenant", "acme", "--model", "story_points")
    assert lonely.exit_code == 1
    assert "no earlier version has served" in lonely.stderr
    absent = typed("promote", "--tenant", "acme", "--model", "story_points", "--version", 7)
    assert absent.exit_code == 1
    assert "there is no version 7; the versions are: 1" in absent.stderr
    assert closed(tmp_path)


def test_a_second_version_is_promoted_by_hand_and_rolled_back(typed, tmp_path: Path, settings: Settings):
    typed("import", "jira", export(tmp_path, "acme", 200, last=pd.Timestamp(today(), tz="UTC") - pd.Timedelta(days=7)))
    assert typed("run", "--model", "story_points", "--days", 0).exit_code == 0
    typed("import", "jira", export(tmp_path, "acme", 240))
    assert typed("run", "--model", "story_points", "--days", 0).exit_code == 0
    chosen = ("--tenant", "acme", "--model", "story_points")
    typed("rollback", *chosen, "--to", 1)
    promoted = typed("promote", *chosen, "--version", 2, "--reason", "asked for")
    assert promoted.stdout == "acme story_points: version 2 serves now; before it, version 1 served.\n"
    rolled = typed("rollback", *chosen, "--reason", "it was better before")
    assert rolled.stdout == "acme story_points: version 1 serves now; before it, version 2 served.\n"
    row = status(typed("status", *chosen, "--json"))
    assert (row["version"], row["alias"], row["decision"], row["reason"]) == (
        1,
        "champion",
        "roll_back",
        "it was better before",
    )


def test_a_run_at_latest_stands_at_the_newest_row_of_an_old_export(typed, tmp_path: Path, settings: Settings):
    typed("import", "jira", export(tmp_path, "acme", last=pd.Timestamp("2020-06-30", tz="UTC")))
    run = typed("run", "--model", "story_points", "--as-of", "latest", "--json")
    assert run.exit_code == 0, run.output
    assert status(run)["trained_at"] == "2020-06-30T00:00:00.000001+00:00"
    with Warehouse(settings).tenant("acme") as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.predictions)) > 0
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.daily_metrics)) == 0


def test_an_import_shifted_to_today_ends_in_the_last_week_at_the_same_hour(typed, tmp_path: Path, settings: Settings):
    typed("import", "jira", export(tmp_path, "acme", last=pd.Timestamp("2020-06-30", tz="UTC")), "--shift-to-today")
    with Warehouse(settings).tenant("acme") as connection:
        newest = connection.scalar(sa.select(sa.func.max(tables.issues.c.resolved_at)))
    age = pd.Timestamp.now("UTC") - newest
    assert pd.Timedelta(days=1) <= age <= pd.Timedelta(days=8)
    assert (newest - pd.Timestamp("2020-06-30", tz="UTC")) % pd.Timedelta(weeks=1) == pd.Timedelta(0)


def test_a_moment_that_is_none_is_refused_before_anything_is_done(typed):
    result = typed("run", "--as-of", "yesterday")
    assert result.exit_code == 1
    assert "as-of is 'yesterday'. Write 'latest', a date (2026-01-31) or a time" in re.sub(r"\s+", " ", result.stderr)


def test_two_files_that_would_become_one_tenant_are_refused_before_anything_is_loaded(typed, tmp_path: Path, settings):
    for customer in ("custA", "custB"):
        (tmp_path / customer).mkdir()
    paths = [export(tmp_path / customer, "Jira", 20) for customer in ("custA", "custB")]
    refused = typed("import", "jira", *paths)
    assert refused.exit_code == 1
    assert "custA/Jira.csv" in refused.stderr and "custB/Jira.csv" in refused.stderr and "--tenant" in refused.stderr
    assert Warehouse(settings).tenants() == []
    parts = typed("import", "jira", *paths, "--tenant", "acme", "--json")
    assert [part["file"] for part in json.loads(parts.stdout)] == ["custA/Jira.csv", "custB/Jira.csv"]
    assert Warehouse(settings).tenants() == ["acme"]


def test_an_import_reports_its_counts_and_goes_on_after_a_file_that_fails(typed, tmp_path: Path):
    (tmp_path / "broken.csv").write_text("no,known,column\n1,2,3\n")
    result = typed("import", "jira", tmp_path / "broken.csv", export(tmp_path, "acme", 20), "--json")
    (summary,) = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (summary["tenants"], summary["rows_loaded"], summary["quarantined"]) == (["acme"], 20, 0)
    assert "broken.csv" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("status", "--tenant", "nobody"), "there is no tenant 'nobody'; the tenants are: acme"),
        (
            ("status", "--model", "nothing"),
            "there is no model 'nothing'; the models are: lead_time, rework_risk, story_points",
        ),
        (("run", "--tenant", "nobody"), "there is no tenant 'nobody'"),
        (("rollback", "--tenant", "acme", "--model", "nothing"), "there is no model 'nothing'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(typed, settings: Settings, words, message: str):
    Warehouse(settings).add_tenant("acme")
    result = typed(*words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_run_without_tenants_says_how_to_get_some(typed):
    result = typed("run")
    assert result.exit_code == 1
    assert "There are no tenants. Import some" in result.stderr


def test_the_doctor_ends_with_zero_only_when_everything_is_good(typed, tmp_path: Path, monkeypatch):
    healthy = typed("doctor", "--json")
    assert healthy.exit_code == 0
    assert all(finding["ok"] for finding in json.loads(healthy.stdout))
    shipped = Path(tables.__file__).parents[1] / "specs" / "models" / "lead_time.yaml"
    folder = tmp_path / "specs"
    folder.mkdir()
    changed = shipped.read_text().replace("name: lead_time", "name: mine").replace("source.issues", "source.nothing")
    (folder / "mine.yaml").write_text(changed)
    monkeypatch.setenv("ML_PIPELINE_SPECS", str(folder))
    ill = typed("doctor")
    assert ill.exit_code == 1
    assert "model mine: model mine: there is no table or view source.nothing" in re.sub(r"\s+", " ", ill.stdout)


def test_a_setting_that_can_not_be_is_one_sentence_and_no_traceback(typed, monkeypatch):
    monkeypatch.setenv("ML_PIPELINE_WORKERS", "many")
    result = typed("status")
    assert (result.exit_code, result.exception.__class__) == (1, SystemExit)
    assert "Error: ML_PIPELINE_WORKERS='many'" in result.stderr
