"""Versions made inside MLflow, where anybody can write: copied with tags and all, pointed elsewhere, made by hand."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import (
    CHAMPION,
    MANIFEST,
    Registration,
    Registry,
    TamperedArtifact,
    Version,
    write_manifest,
)
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.work.deployment.deployer import PROMOTE, Deployer

MODEL = "story_points"


def register(registry: Registry, folder: Path, tenant: str, key: str = "a", model: str = MODEL) -> Version:
    folder.mkdir(exist_ok=True)
    (folder / "model.ubj").write_bytes(f"{tenant} {key}".encode() * 100)
    given = {"semantic": "1.0.0", "as_of": "2026-01-01", "metrics": {}, "params": {}, "tags": {}}
    return registry.register(tenant, model, folder, Registration(key=key, **given))


@pytest.fixture
def ours(registry: Registry, tmp_path: Path) -> Version:
    return register(registry, tmp_path / "files", "acme")


@pytest.fixture
def theirs(registry: Registry, tmp_path: Path) -> Version:
    return register(registry, tmp_path / "files", "globex")


def copied(registry: Registry, ours: Version, theirs: Version) -> int:
    """Another tenant's version, tags and all."""
    made = registry.client.create_model_version(f"{MODEL}.acme", theirs.source, theirs.run_id, tags=dict(theirs.tags))
    return int(made.version)


def copied_by_mlflow(registry: Registry, ours: Version, theirs: Version) -> int:
    """As MLflow's own page copies a version."""
    made = registry.client.copy_model_version(f"models:/{MODEL}.globex/{theirs.number}", f"{MODEL}.acme")
    return int(made.version)


def by_hand(registry: Registry, ours: Version, theirs: Version) -> int:
    """Files of somebody's own, with a manifest that fits them and tags that fit the manifest."""
    folder = Path(ours.source.removeprefix("file://")).parent / "by-hand"
    folder.mkdir()
    (folder / "model.ubj").write_bytes(b"malice")
    digest = write_manifest(folder, "acme", MODEL, "b")
    tags = dict(ours.tags) | {"key": "b", "manifest_sha256": digest}
    made = registry.client.create_model_version(f"{MODEL}.acme", folder.as_uri(), ours.run_id, tags=tags)
    return int(made.version)


def of_another_key(registry: Registry, ours: Version, theirs: Version) -> int:
    """The tenant's own files under the name of other work."""
    tags = dict(ours.tags) | {"key": "b"}
    made = registry.client.create_model_version(f"{MODEL}.acme", ours.source, ours.run_id, tags=tags)
    return int(made.version)


@pytest.mark.parametrize("attack", [copied, copied_by_mlflow, by_hand, of_another_key])
def test_a_version_that_was_made_in_mlflow_is_refused_wherever_it_is_met(
    registry: Registry,
    ours: Version,
    theirs: Version,
    attack: Callable[[Registry, Version, Version], int],
    caplog: pytest.LogCaptureFixture,
):
    number = attack(registry, ours, theirs)
    registry.set_alias("acme", MODEL, CHAMPION, number)
    refused = f"version {number} was not registered by the pipeline for this tenant and model"
    for use in (
        lambda: registry.version("acme", MODEL, number),
        lambda: registry.aliased("acme", MODEL),
    ):
        with pytest.raises(TamperedArtifact, match=refused):
            use()
    assert registry.find("acme", MODEL, "b") is None
    assert registry.versions("acme", MODEL) == [ours]
    assert f"tenant acme, model {MODEL}: the pipeline did not register version {number}. It is ignored" in caplog.text
    assert registry.version("acme", MODEL, ours.number) == ours


@pytest.mark.parametrize(("tag", "value"), [("semantic_version", None), ("as_of", None), ("as_of", "yesterday")])
def test_a_version_whose_tags_were_changed_is_refused_by_name(registry: Registry, ours: Version, tag: str, value):
    name, number = f"{MODEL}.acme", str(ours.number)
    if value is None:
        registry.client.delete_model_version_tag(name, number, tag)
    else:
        registry.client.set_model_version_tag(name, number, tag, value)
    with pytest.raises(TamperedArtifact, match=r"the tag semantic_version or as_of of version \d+ was removed"):
        registry.version("acme", MODEL, ours.number)


def test_from_a_foreign_champion_one_can_be_promoted(registry: Registry, ours: Version, theirs: Version):
    registry.set_alias("acme", MODEL, CHAMPION, copied(registry, ours, theirs))
    deployer = Deployer(Warehouse(registry.settings), registry)
    now = dt.datetime.now(dt.UTC)
    done = deployer.deploy("acme", MODEL, ours.number, action=PROMOTE, reason="back to ours", as_of=now)
    assert (done.version, done.replaced) == (ours.number, None)
    assert registry.aliased("acme", MODEL) == ours


def test_a_version_of_ours_that_was_pointed_at_another_tenants_files_is_refused_when_it_is_loaded(
    registry: Registry, ours: Version, theirs: Version
):
    made = registry.client.create_model_version(f"{MODEL}.acme", theirs.source, ours.run_id, tags=dict(ours.tags))
    version = registry.version("acme", MODEL, int(made.version))
    for use in (lambda: registry.files(version).__enter__(), lambda: registry.file(version, "model.ubj")):
        with pytest.raises(TamperedArtifact, match=r"manifest\.json has SHA-256"):
            use()


def test_a_manifest_says_whose_the_files_are_and_how_large(registry: Registry, ours: Version, theirs: Version):
    with registry.files(ours) as folder:
        content = json.loads((folder / MANIFEST).read_text())
        assert (content["tenant"], content["model"], content["key"]) == ("acme", MODEL, "a")
        assert {name: entry["bytes"] for name, entry in content["files"].items()} == {"model.ubj": 600}
        renamed = replace(ours, tenant="globex")
        with pytest.raises(TamperedArtifact, match=r"belongs to tenant 'acme', not 'globex'"):
            registry.check(renamed)


def test_work_that_was_cut_off_before_mlflows_version_registers_once_when_it_comes_again(
    registry: Registry, warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as cut:
        cut.setattr(type(registry.client), "create_model_version", _killed)
        with pytest.raises(KeyboardInterrupt):
            register(registry, tmp_path / "files", "acme")
    assert registry.versions("acme", MODEL) == []
    first, again = (register(registry, tmp_path / "files", "acme") for _ in range(2))
    assert (first.number, again.number) == (1, 1)
    with registry.files(first) as folder:
        assert (folder / "model.ubj").exists()
    with warehouse.tenant("acme") as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.versions)) == 1


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def as_the_release_before(registry: Registry, version: Version) -> None:
    """Files and tags of the version as they were before manifests said whose they are."""
    folder = Path(version.source.removeprefix("file://"))
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({name: entry["sha256"] for name, entry in content["files"].items()}))
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    registry.tag(version, "manifest_sha256", digest)


def test_versions_of_the_release_before_go_on_serving_and_copies_among_them_do_not(
    registry: Registry, warehouse: Warehouse, release_before, ours: Version, theirs: Version
):
    as_the_release_before(registry, ours)
    as_the_release_before(registry, theirs)
    stolen = registry.client.get_model_version(f"{MODEL}.globex", "1")
    registry.client.create_model_version(f"{MODEL}.acme", stolen.source, stolen.run_id, tags=dict(stolen.tags))
    release_before()
    warehouse.migrate()
    version = registry.version("acme", MODEL, 1)
    with registry.files(version) as folder:
        assert (folder / "model.ubj").read_bytes() == b"acme a" * 100
    assert registry.file(version, "model.ubj") == b"acme a" * 100
    with pytest.raises(TamperedArtifact, match="version 2 was not registered by the pipeline for this tenant"):
        registry.version("acme", MODEL, 2)
    tags = {"key": "k", "manifest_sha256": "h"}
    later = registry.client.create_model_version(f"{MODEL}.globex", "file:///x", theirs.run_id, tags=tags)
    warehouse.migrate()
    with pytest.raises(TamperedArtifact, match="was not registered"):
        registry.version("globex", MODEL, int(later.version))
