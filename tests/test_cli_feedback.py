"""Feedback as it is typed: one record, a file, and what is refused."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from ml_pipeline.cli import main
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings

OF = ("--tenant", "acme", "--model", "story_points")
THEN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def typed(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    """Runs a command against the test's own installation, in which A-1 was predicted to be 3 points."""
    environment = {"DATABASE_URL": settings.database_url, "ML_PIPELINE_HOME": settings.home}
    for name, value in (environment | {"DAGSTER_HOME": settings.home}).items():
        monkeypatch.setenv(name, str(value))
    warehouse = Warehouse(settings)
    warehouse.add_tenant("acme")
    made = {"entity_id": "A-1", "origin": "live", "version": 2, "event_time": THEN, "predicted_at": THEN}
    row = {"tenant_id": "acme", "model": "story_points", "value": 3.0, "baseline": 2.0, **made}
    with warehouse.tenant("acme") as connection:
        connection.execute(sa.insert(tables.predictions).values(row))

    def run(*words: object) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words])

    return run


def shown(result: Result) -> str:
    return " ".join((result.stdout + result.stderr).split())


def stored(settings: Settings) -> list[dict]:
    with Warehouse(settings).tenant("acme") as connection:
        return [dict(row) for row in connection.execute(sa.select(tables.feedback)).mappings()]


def test_a_correction_is_stored_and_told_with_what_was_predicted(typed, settings):
    done = typed("feedback", *OF, "--entity", "A-1", "--verdict", "corrected", "--value", 5, "--by", "ann")
    assert "acme story_points A-1: corrected to 5; version 2 predicted 3." in shown(done)
    assert "Stored, but not used in training: label.feedback of story_points is off." in shown(done)
    (row,) = stored(settings)
    assert (row["value"], row["given_by"]) == (5.0, "ann")


def test_a_record_can_be_of_an_earlier_day_and_be_read_by_a_machine(typed, settings):
    words = ("--entity", "A-1", "--verdict", "rejected", "--at", "2026-01-03", "--json")
    assert json.loads(typed("feedback", *OF, *words).stdout)["value"] is None
    assert stored(settings)[0]["given_at"] == THEN + dt.timedelta(days=2)


def test_a_file_says_how_many_were_set_aside_and_why(typed, tmp_path: Path):
    path = tmp_path / "said.csv"
    path.write_text("entity_id,verdict\nA-1,accepted\nA-2,accepted\n")
    told = shown(typed("feedback", path, *OF))
    assert "said.csv: 1 of 2 stored, 1 quarantined 1 there is no prediction before it" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Give a FILE, or --entity with --verdict"),
        (("--entity", "A-1"), "Give a FILE, or --entity with --verdict"),
        (("said.csv", "--verdict", "accepted"), "Give a FILE, or --entity with --verdict"),
        (
            ("--entity", "A-7", "--verdict", "accepted"),
            "A-7: there is no prediction before it: 'A-7'. Nothing was stored",
        ),
        (("absent.csv", "--timezone", "Mars"), "timezone 'Mars' is unknown"),
        (("absent.csv",), "absent.csv: cannot be opened"),
    ],
)
def test_what_is_wrong_is_refused_in_a_sentence(typed, words, message):
    result = typed("feedback", *words, *OF)
    assert result.exit_code != 0
    assert message in shown(result)
