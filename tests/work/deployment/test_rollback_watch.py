"""The watch over a promoted version, on the real database and registry: kept, rolled back, and killed in between."""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import sqlalchemy as sa

from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import CHAMPION, Registration
from ml_pipeline.specs import load_specs
from ml_pipeline.work.context import Clients
from ml_pipeline.work.deployment.deployer import PROMOTE, Deployer, Deployment
from ml_pipeline.work.deployment.rollback_watch import due_watches, look_at
from ml_pipeline.work.tenant_settings import AUTO_RETRAIN, AUTO_ROLLBACK, EVERY_MODEL, read_settings, write_setting
from ml_pipeline.work.training.version_files import fingerprint_of

SPEC = load_specs()["story_points"]
TAGS = {"question_hash": fingerprint_of(SPEC).question}
ACTIVATED = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


class Watched:
    """Tenant acme, whose version 2 replaced version 1; what both predicted, and what came out."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.rng = np.random.default_rng(11)

    def promote(self, version: int, at: dt.datetime = ACTIVATED) -> None:
        self.clients.deployer.deploy("acme", SPEC.name, version, action=PROMOTE, reason="better", as_of=at)

    def days(self, first: dt.datetime, count: int, errors: tuple[float, float], versions=(1, 2), per_day: int = 30):
        """Outcomes of so many days, which the two versions missed by those mean errors."""
        predictions, outcomes = [], []
        for number in range(count * per_day):
            known = first + DAY * (number // per_day) + dt.timedelta(minutes=1 + number % per_day)
            entity = f"{known.isoformat()}"
            outcomes.append({"entity_id": entity, "label_time": known, "value": 5.0})
            hard = float(self.rng.exponential())  # for both of them
            for version, error, origin in zip(versions, errors, ("shadow", "live"), strict=True):
                value = 5.0 + error * (0.5 * hard + 0.5 * float(self.rng.exponential()))
                fixed = {"event_time": first - DAY, "predicted_at": first - DAY, "baseline": 5.0}
                predictions.append({"entity_id": entity, "origin": origin, "version": version, "value": value, **fixed})
        with self.clients.warehouse.tenant("acme") as connection:
            for table, rows in ((tables.outcomes, outcomes), (tables.predictions, predictions)):
                own = {"tenant_id": "acme", "model": SPEC.name}
                connection.execute(sa.insert(table), [own | row for row in rows])

    def look(self, now: dt.datetime) -> list[str]:
        return [look_at(self.clients, SPEC, watched, now).verdict for watched in due_watches(self.clients, now)]

    def champion(self) -> int:
        return self.clients.registry.aliases()["acme", SPEC.name][CHAMPION]

    def rows(self, table: sa.Table, **where: Any) -> list[dict[str, Any]]:
        query = sa.select(table).filter_by(**where).order_by(table.c.sequence)
        with self.clients.warehouse.tenant("acme") as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


@pytest.fixture
def watched(settings, tmp_path, start_from) -> Watched:
    clients = Clients(settings)
    found = Watched(clients)

    def promoted() -> None:
        folder = tmp_path / "files"
        folder.mkdir()
        (folder / "version.json").write_text("{}")
        for key in "abc":
            given = Registration(key=key, semantic="1.0.0", as_of="2026-02-01", metrics={}, params={}, tags=TAGS)
            clients.registry.register("acme", SPEC.name, folder, given)
        clients.warehouse.add_tenant("acme")
        found.promote(1, ACTIVATED - 30 * DAY)
        found.promote(2)

    start_from(promoted)
    return found


def test_nothing_is_due_within_a_day_of_the_activation(watched):
    assert due_watches(watched.clients, ACTIVATED + dt.timedelta(hours=23)) == []
    assert [found.version for found in due_watches(watched.clients, ACTIVATED + DAY)] == [2]


def test_a_version_with_twice_the_error_is_gone_at_the_first_look(watched):
    watched.days(ACTIVATED, 1, (1.0, 2.0))
    assert watched.look(ACTIVATED + DAY) == ["roll_back"]
    assert watched.champion() == 1
    assert [row["watch"] for row in watched.rows(tables.deployments)] == [None, "rolled_back", None]
    (alert,) = watched.rows(tables.alerts, kind="rollback")
    assert alert["level"] == "HIGH" and "version 1 will serve again" in alert["message"]
    assert (
        watched.clients.registry.version("acme", SPEC.name, 2).tags["rolled_back"].startswith("rollback watch: worse")
    )


def test_a_rollback_to_a_version_whose_files_are_lost_is_alerted_and_tried_again(watched):
    watched.days(ACTIVATED, 3, (1.0, 2.0))
    folder = Path(urlsplit(watched.clients.registry.version("acme", SPEC.name, 1).source).path)
    folder.rename(folder.parent / "lost")
    assert watched.look(ACTIVATED + DAY) == ["roll_back"]
    assert (watched.champion(), watched.rows(tables.deployments)[-1]["watch"]) == (2, "open")
    (alert,) = watched.rows(tables.alerts, kind="tampered_artifact")
    assert "version 1: manifest.json is missing" in alert["message"]
    (folder.parent / "lost").rename(folder)
    assert watched.look(ACTIVATED + 2 * DAY) == ["roll_back"]
    assert watched.champion() == 1


def test_an_equally_good_version_is_watched_day_by_day_and_kept(watched):
    verdicts = []
    for day in range(28):
        watched.days(ACTIVATED + day * DAY, 1, (1.0, 1.0))
        verdicts += watched.look(ACTIVATED + (day + 1) * DAY)
    assert set(verdicts[:-1]) == {"watching"} and verdicts[-1] == "keep"
    assert watched.champion() == 2
    recorded = watched.rows(tables.decisions, kind="watch")
    assert len(recorded) == len(verdicts)
    assert due_watches(watched.clients, ACTIVATED + 60 * DAY) == []


def test_a_look_is_due_once_a_day(watched):
    watched.days(ACTIVATED, 1, (1.0, 1.0))
    assert watched.look(ACTIVATED + DAY) == ["watching"]
    assert watched.look(ACTIVATED + DAY + dt.timedelta(hours=23)) == []


def test_killed_between_the_decision_and_the_rollback_the_next_look_ends_it(watched, monkeypatch):
    watched.days(ACTIVATED, 1, (1.0, 2.0))
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Deployer, "roll_back", lambda *_, **__: (_ for _ in ()).throw(SystemExit))
        watched.look(ACTIVATED + DAY)
    assert watched.champion() == 2
    assert watched.look(ACTIVATED + DAY) == ["roll_back"]
    assert watched.champion() == 1
    assert len(watched.rows(tables.decisions, kind="watch")) == 1
    assert len(watched.rows(tables.alerts, kind="rollback")) == 1


def test_where_rollback_is_off_a_person_is_told_to_do_it(watched, caplog):
    write_setting(watched.clients.warehouse, "acme", EVERY_MODEL, AUTO_ROLLBACK, False, "ann")
    watched.days(ACTIVATED, 1, (1.0, 2.0))
    with caplog.at_level(logging.WARNING, logger="ml_pipeline.alerts"):
        assert watched.look(ACTIVATED + DAY) == ["roll_back"]
    assert watched.champion() == 2
    assert "automatic rollback is off" in caplog.text
    assert [row["level"] for row in watched.rows(tables.alerts)] == ["CRITICAL"]


def test_two_rollbacks_in_a_month_switch_automatic_retraining_off(watched):
    watched.days(ACTIVATED, 1, (1.0, 2.0))
    watched.look(ACTIVATED + DAY)
    later = ACTIVATED + 10 * DAY
    watched.promote(3, later)
    watched.days(later, 1, (1.0, 2.0), versions=(1, 3))
    watched.look(later + DAY)
    with watched.clients.warehouse.tenant("acme") as connection:
        assert read_settings(connection).get("acme", SPEC.name, AUTO_RETRAIN) is False
    (alert,) = watched.rows(tables.alerts, kind="retraining_switched_off")
    assert "ml-pipeline set auto_retrain on --tenant acme --model story_points" in alert["message"]


def test_without_common_outcomes_the_watch_says_so_and_ends(watched):
    assert watched.look(ACTIVATED + DAY) == ["watching"]
    assert "no outcome yet" in watched.rows(tables.decisions, kind="watch")[0]["reason"]
    assert watched.look(ACTIVATED + 28 * DAY) == ["keep"]


def test_what_a_person_keeps_although_it_is_worse_is_watched_no_longer_than_four_weeks(watched):
    write_setting(watched.clients.warehouse, "acme", EVERY_MODEL, AUTO_ROLLBACK, False, "ann")
    watched.days(ACTIVATED, 1, (1.0, 2.0))
    assert watched.look(ACTIVATED + 28 * DAY) == ["roll_back"]
    assert due_watches(watched.clients, ACTIVATED + 60 * DAY) == []
    assert watched.champion() == 2


def test_a_version_that_a_person_put_in_its_place_meanwhile_is_not_rolled_back(watched):
    watched.days(ACTIVATED, 1, (1.0, 2.0))
    (due,) = due_watches(watched.clients, ACTIVATED + DAY)
    watched.clients.registry.set_alias("acme", SPEC.name, CHAMPION, 3)
    look_at(watched.clients, SPEC, due, ACTIVATED + DAY)
    assert watched.champion() == 3


def test_where_the_version_before_was_deleted_there_is_nothing_to_return_to(watched):
    watched.days(ACTIVATED, 1, (1.0, 2.0))
    watched.clients.registry.client.delete_model_version(f"{SPEC.name}.acme", "1")
    assert watched.look(ACTIVATED + DAY) == ["keep"]
    assert "nothing_to_compare" in watched.rows(tables.decisions, kind="watch")[0]["reason"]


def test_a_deployment_that_can_not_be_settled_stops_no_other(watched, monkeypatch):
    deployer = watched.clients.deployer
    for version in (1, 3):
        next(deployer.steps(Deployment(uuid.uuid4(), "acme", SPEC.name, PROMOTE, version, 2, "better", ACTIVATED)))
    aliased = deployer.registry.aliased
    calls = iter([RuntimeError("the store is away")])

    def first_fails(*arguments):
        for error in calls:
            raise error
        return aliased(*arguments)

    monkeypatch.setattr(deployer.registry, "aliased", first_fails)
    settled = [outcome for _, outcome in deployer.reconcile()]
    assert len(settled) == 2 and "undone" in settled
