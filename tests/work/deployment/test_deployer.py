"""Promotion and rollback survive being killed between any two steps."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import signal
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from ml_pipeline.resources import tables
from ml_pipeline.resources.compute import PRELOAD
from ml_pipeline.resources.registry import CHALLENGER, CHAMPION, PREVIOUS, NoSuchVersion, Registration, Registry
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.work.deployment.deployer import PROMOTE_BY_HAND, Deployer, Deployment, NothingToRollBackTo

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
STEPS = ["intent written", "champion moved", "previous kept", "marks set", "done"]


@pytest.fixture
def deployer(warehouse: Warehouse, registry: Registry, tmp_path: Path, start_from) -> Deployer:
    """Three registered versions of one tenant's model, none of which serves."""

    def registered() -> None:
        folder = tmp_path / "files"
        folder.mkdir()
        (folder / "version.json").write_text("{}")
        for key in "abc":
            given = Registration(key=key, semantic="1.0.0", as_of=NOW.isoformat(), metrics={}, params={}, tags={})
            registry.register("acme", "m", folder, given)

    start_from(registered)
    return Deployer(warehouse, registry)


def promote(deployer: Deployer, version: int) -> Deployment:
    return deployer.deploy("acme", "m", version, action="promote", reason="better", as_of=NOW)


def aliases(deployer: Deployer) -> dict[str, int]:
    return deployer.registry.aliases()["acme", "m"]


def states(deployer: Deployer) -> list[str]:
    table = tables.deployments
    with deployer.warehouse.operator() as connection:
        return list(connection.scalars(sa.select(table.c.state).order_by(table.c.sequence)))


def killed_after(settings: Settings, deployment: Deployment, step: str) -> None:
    """Runs in a process of its own and ends it, as a crash would, right after ``step``."""
    for reached in Deployer(Warehouse(settings), Registry(settings)).steps(deployment):
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)


def test_deployments_at_the_same_time_come_one_after_the_other(deployer: Deployer, settings: Settings, monkeypatch):
    set_alias = Registry.set_alias
    monkeypatch.setattr(Registry, "set_alias", lambda *arguments: (time.sleep(0.2), set_alias(*arguments)))
    with ThreadPoolExecutor(2) as pool:
        both = list(
            pool.map(lambda version: promote(Deployer(Warehouse(settings), Registry(settings)), version), (1, 2))
        )
    first, second = sorted(both, key=lambda deployment: deployment.replaced or 0)
    assert (first.replaced, second.replaced) == (None, first.version)
    assert aliases(deployer) == {CHAMPION: second.version, PREVIOUS: first.version}


def test_a_promotion_moves_the_alias_and_keeps_the_one_before(deployer: Deployer):
    promote(deployer, 1)
    promote(deployer, 2)
    assert aliases(deployer) == {CHAMPION: 2, PREVIOUS: 1}
    assert states(deployer) == ["done", "done"]


def test_promoting_the_champion_again_does_nothing(deployer: Deployer):
    promote(deployer, 1)
    promote(deployer, 1)
    assert states(deployer) == ["done"]


@pytest.mark.parametrize("step", STEPS)
def test_a_promotion_killed_after_any_step_is_finished_or_undone(deployer: Deployer, step: str):
    promote(deployer, 1)
    deployer.registry.set_alias("acme", "m", CHALLENGER, 2)
    deployment = Deployment(uuid.uuid4(), "acme", "m", "promote", 2, 1, "better", NOW)
    settings = deployer.warehouse.settings
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=killed_after, args=(settings, deployment, step))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL

    settled = [(found.version, outcome) for found, outcome in deployer.reconcile()]
    if step == "intent written":
        assert settled == [(2, "undone")]
        assert aliases(deployer) == {CHAMPION: 1, CHALLENGER: 2}
        assert states(deployer) == ["done", "undone"]
    else:
        assert settled == ([] if step == "done" else [(2, "done")])
        assert aliases(deployer) == {CHAMPION: 2, PREVIOUS: 1}
        assert states(deployer) == ["done", "done"]
    assert deployer.reconcile() == []


def test_a_rollback_returns_to_the_version_before_and_marks_the_worse_one(deployer: Deployer):
    promote(deployer, 1)
    promote(deployer, 2)
    deployer.roll_back("acme", "m", reason="twice the error", as_of=NOW)
    assert aliases(deployer) == {CHAMPION: 1}
    assert deployer.registry.version("acme", "m", 2).tags["rolled_back"] == "twice the error"


def test_two_rollbacks_walk_back_through_the_history(deployer: Deployer):
    for version in (1, 2, 3):
        promote(deployer, version)
    deployer.roll_back("acme", "m", reason="worse", as_of=NOW)
    assert aliases(deployer) == {CHAMPION: 2, PREVIOUS: 1}
    deployer.roll_back("acme", "m", reason="worse", as_of=NOW)
    assert aliases(deployer) == {CHAMPION: 1}


def test_a_rollback_to_any_version_by_number(deployer: Deployer):
    for version in (1, 2, 3):
        promote(deployer, version)
    deployer.roll_back("acme", "m", to=1, reason="by hand", as_of=NOW)
    assert aliases(deployer)[CHAMPION] == 1


def test_a_rollback_without_history_says_so(deployer: Deployer):
    promote(deployer, 1)
    with pytest.raises(NothingToRollBackTo, match=r"acme, model m: no earlier version has served.* are: 3, 2, 1"):
        deployer.roll_back("acme", "m", reason="worse", as_of=NOW)


def test_a_version_that_does_not_exist_is_not_deployed(deployer: Deployer):
    with pytest.raises(NoSuchVersion, match="there is no version 9"):
        promote(deployer, 9)
    assert states(deployer) == []


def test_a_promotion_by_hand_is_recorded_and_can_be_rolled_back(deployer: Deployer):
    promote(deployer, 1)
    deployer.deploy("acme", "m", 2, action=PROMOTE_BY_HAND, reason="the customer asked", as_of=NOW)
    table = tables.decisions
    with deployer.warehouse.operator() as connection:
        recorded = connection.execute(sa.select(table.c.kind, table.c.verdict, table.c.version, table.c.reason)).all()
    assert recorded == [("promote_by_hand", "promote", 2, "the customer asked")]
    assert aliases(deployer) == {CHAMPION: 2, PREVIOUS: 1}
    deployer.roll_back("acme", "m", reason="worse", as_of=NOW)
    assert aliases(deployer) == {CHAMPION: 1}


def watches(deployer: Deployer) -> list[str | None]:
    """What became of the watch over each deployment, oldest first."""
    table = tables.deployments
    with deployer.warehouse.operator() as connection:
        return list(connection.scalars(sa.select(table.c.watch).order_by(table.c.sequence)))


def test_a_version_is_watched_where_another_served_before_it(deployer: Deployer):
    promote(deployer, 1)
    assert watches(deployer) == [None]
    promote(deployer, 2)
    assert watches(deployer) == [None, "open"]


def test_a_promotion_supersedes_the_watch_before_it_and_a_rollback_ends_it(deployer: Deployer):
    for version in (1, 2, 3):
        promote(deployer, version)
    assert watches(deployer) == [None, "superseded", "open"]
    deployer.roll_back("acme", "m", reason="worse", as_of=NOW)
    assert watches(deployer) == [None, "superseded", "rolled_back", None]


def test_an_alias_moved_by_hand_is_recorded_once_and_watched(deployer: Deployer):
    promote(deployer, 1)
    deployer.registry.set_alias("acme", "m", CHAMPION, 2)
    followed = deployer.follow_alias("acme", "m", NOW)
    assert followed is not None and (followed.version, followed.replaced) == (2, 1)
    assert deployer.follow_alias("acme", "m", NOW) is None
    assert aliases(deployer) == {CHAMPION: 2, PREVIOUS: 1}
    assert watches(deployer) == [None, "open"]
    table = tables.decisions
    with deployer.warehouse.operator() as connection:
        recorded = connection.execute(sa.select(table.c.kind, table.c.verdict, table.c.reason)).all()
    reason = "in MLflow, version 2 was made the champion by hand; before it was version 1"
    assert recorded == [("alias_by_hand", "follow", reason)]


def test_an_alias_taken_away_by_hand_leaves_nobody_serving(deployer: Deployer):
    promote(deployer, 1)
    deployer.registry.delete_alias("acme", "m", CHAMPION)
    followed = deployer.follow_alias("acme", "m", NOW)
    assert followed is not None and (followed.version, followed.replaced) == (0, 1)
    assert aliases(deployer) == {PREVIOUS: 1}
    assert watches(deployer) == [None, None]


def test_an_alias_is_left_alone_while_a_deployment_is_under_way(deployer: Deployer):
    promote(deployer, 1)
    deployment = Deployment(uuid.uuid4(), "acme", "m", "promote", 2, 1, "better", NOW)
    next(deployer.steps(deployment))
    deployer.registry.set_alias("acme", "m", CHAMPION, 2)
    assert deployer.follow_alias("acme", "m", NOW) is None
    assert [outcome for _, outcome in deployer.reconcile()] == ["done"]
