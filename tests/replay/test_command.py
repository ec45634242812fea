"""``ml-pipeline replay`` as it is typed, against a real database."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ml_pipeline.cli.app import main
from ml_pipeline.importers import import_tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings


@pytest.fixture
def typed(settings: Settings, monkeypatch: pytest.MonkeyPatch, make_issues):
    """Runs the command against an installation with one tenant."""
    for name, value in {"DATABASE_URL": settings.database_url, "ML_PIPELINE_HOME": settings.home}.items():
        monkeypatch.setenv(name, str(value))
    import_tables(Warehouse(settings), "acme", make_issues(60), None)

    def run(*words: object) -> Result:
        chosen = ("--tenant", "acme", "--model", "story_points", *words)
        return CliRunner().invoke(main, ["replay", *(str(word) for word in chosen)])

    return run


def sentence(result: Result) -> str:
    return re.sub(r"\s+", " ", result.stderr)


def test_two_policies_are_replayed_side_by_side_from_one_past(typed, tmp_path: Path):
    calm = tmp_path / "calm.yaml"
    calm.write_text("triggers: []\n")
    picture = tmp_path / "replay.png"
    days = ("--from", "2025-02-01", "--to", "2025-02-28")
    result = typed(*days, "--policy", calm, "--against", "weekly", "--plot", picture, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    ours, weekly = content["replays"]
    assert (content["tenant"], ours["policy"], weekly["policy"]) == ("acme", "calm", "weekly")
    assert (ours["first"], ours["last"], len(ours["days"])) == ("2025-02-01", "2025-02-28", 28)
    assert (ours["trainings"], weekly["trainings"]) == (0, 3)
    assert ours["outcomes"] == weekly["outcomes"] > 200
    assert ours["mean_loss"] < ours["baseline_loss"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_days_the_last_year_up_to_the_newest_row_is_replayed_and_told(typed):
    result = typed("--policy", "monthly")
    assert result.exit_code == 0, result.output
    assert "acme story_points, 2024-03-02 to 2025-03-01" in result.stdout
    assert "train, first: promote. baseline_beaten" in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--from", "2019-01-01", "--to", "2019-02-01"), "tenant acme, model story_points: no rows up to 2019-02-02"),
        (("--from", "2025-06-01", "--to", "2025-06-30"), "no row from 2025-06-01 to 2025-06-30; its rows are from"),
        (("--from", "2025-02-01", "--to", "2025-01-01"), "2025-02-01 is after 2025-01-01"),
        (("--policy", "weekley"), "policy 'weekley' does not exist"),
        (("--model", "nothing"), "there is no model 'nothing'"),
        (("--tenant", "nobody"), "there is no tenant 'nobody'; the tenants are: acme"),
        (("--plot", "/nowhere/at/all.png"), "the folder /nowhere/at"),
    ],
)
def test_what_cannot_be_replayed_is_one_sentence_with_the_remedy(typed, words, message: str):
    result = typed(*words)
    assert result.exit_code in (1, 2)
    assert message in sentence(result)
    assert "Traceback" not in result.output
