"""A version whose files are lost or replaced: each step that needs them says so once, and goes on for others."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import TamperedArtifact
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.work.context import Clients
from ml_pipeline.work.deployment.deployer import PROMOTE_BY_HAND
from ml_pipeline.work.explain_prediction import explain_prediction
from ml_pipeline.work.fleet import fleet_status
from ml_pipeline.work.retraining.explain import explain
from ml_pipeline.work.training.task import FEATURES, MODEL, PREDICTIONS

DAY = 60


def folder_of(tenant) -> Path:
    return Path(urlsplit(tenant.versions()[0].source).path)


def lose(folder: Path) -> None:
    shutil.rmtree(folder)


def replace_by_pipes(folder: Path) -> None:
    for file in list(folder.iterdir()):
        file.unlink()
        os.mkfifo(file)


def dangle(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.parent / "nowhere")


@pytest.mark.parametrize("damage", [lose, replace_by_pipes, dangle])
def test_every_step_names_the_lost_files_one_alert_stands_and_others_go_on(tenant, make_issues, damage):
    other = tenant.named("globex")
    for one in (tenant, other):
        one.holds(make_issues(DAY)).train(DAY - 10, (FEATURES, MODEL))
    damage(folder_of(tenant))

    assert (
        "TamperedArtifact: tenant acme, model story_points, version 1: manifest.json"
        in tenant.train(DAY, (PREDICTIONS,)).error
    )
    assert tenant.monitor(DAY - 5).error is None
    clients, entity, now = Clients(tenant.settings), make_issues(DAY)["issue_key"].iloc[-1], tenant.task(DAY).as_of
    with pytest.raises(TamperedArtifact, match=r"manifest.json.*It was not loaded"):
        explain_prediction(clients, tenant.spec, "acme", entity, _time(now))
    with pytest.raises(TamperedArtifact, match=r"manifest.json.*It was not loaded"):
        clients.deployer.deploy("acme", "story_points", 1, action=PROMOTE_BY_HAND, reason="", as_of=_time(now))
    specs = {tenant.spec.name: tenant.spec}
    status = {row.tenant: row.version for row in fleet_status(Warehouse(tenant.settings), tenant.registry, specs)}
    assert status == {"acme": 1, "globex": 1}
    assert explain(clients, tenant.spec, "acme", _time(now)).decisions["training"]["version"] == 1

    (alert,) = tenant.rows(tables.alerts, kind="tampered_artifact")
    assert (alert["kind"], alert["level"], alert["detail"]["version"]) == ("tampered_artifact", "CRITICAL", 1)
    assert other.train(DAY, (PREDICTIONS,)).done[PREDICTIONS]["scored"] > 0
    assert other.rows(tables.alerts, kind="tampered_artifact") == []


def _time(as_of: str) -> dt.datetime:
    return dt.datetime.fromisoformat(as_of)
