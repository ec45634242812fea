"""Versions, aliases and artifact hashes in a real MLflow store."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ml_pipeline.resources.registry import CHAMPION, NoSuchVersion, Registry, TamperedArtifact, Version, write_manifest
from ml_pipeline.resources.snapshots import Snapshots
from ml_pipeline.settings import Settings, load_settings


def register(registry: Registry, folder: Path, key: str, tenant: str = "acme") -> Version:
    folder.mkdir(exist_ok=True)
    (folder / "model.ubj").write_bytes(key.encode() * 100)
    (folder / "version.json").write_text("{}")
    return registry.register(
        tenant,
        "story_points",
        folder,
        key=key,
        semantic="1.0.0",
        as_of="2026-01-01",
        metrics={"mae": 1.5},
        params={},
        tags={},
    )


def stored(version: Version, name: str) -> Path:
    return Path(version.source.removeprefix("file://")) / name


def test_versions_are_numbered_and_the_same_work_registers_once(registry: Registry, tmp_path: Path):
    first, again, second = (register(registry, tmp_path / "files", key) for key in ("a", "a", "b"))
    assert (first.number, again.number, second.number) == (1, 1, 2)
    assert [version.number for version in registry.versions("acme", "story_points")] == [2, 1]


def test_tenants_have_registered_models_and_folders_of_their_own(registry: Registry, tmp_path: Path):
    ours = register(registry, tmp_path / "files", "a", tenant="acme")
    theirs = register(registry, tmp_path / "files", "a", tenant="globex")
    assert (ours.number, theirs.number) == (1, 1)
    assert "/models/acme/story_points/" in ours.source
    assert "/models/globex/story_points/" in theirs.source


def test_files_come_back_as_they_were_registered(registry: Registry, tmp_path: Path):
    version = register(registry, tmp_path / "files", "a")
    with registry.files(version) as folder:
        assert (folder / "model.ubj").read_bytes() == b"a" * 100


@pytest.mark.parametrize("name", ["a b", "100%25", "a#b", "a?b", 'o\'b "q"', "é中", "[x]*", "a;b&c=d"])
def test_files_come_back_whatever_the_path_of_home_is(settings: Settings, tmp_path: Path, name: str):
    home = load_settings({"ML_PIPELINE_HOME": str(tmp_path / name)}).home
    odd = settings.model_copy(update={"home": home})
    registry = Registry(odd)
    version = register(registry, tmp_path / "files", "a")
    with registry.files(version) as folder:
        assert (folder / "model.ubj").read_bytes() == b"a" * 100
    assert registry.file(version, "version.json") == b"{}"
    (uploaded,) = (odd.home / "artifacts").rglob("model.ubj")
    assert uploaded.read_bytes() == b"a" * 100
    listed = {file.path for file in registry.client.list_artifacts(version.run_id, "model")}  # as MLflow's pages do
    assert "model/model.ubj" in listed
    frame = pd.DataFrame({"x": [1.5, 2.5]})
    digest, url = Snapshots(odd).write("acme", "story_points", frame)
    pd.testing.assert_frame_equal(Snapshots(odd).read(url, digest), frame)


def test_files_that_an_older_version_stored_under_a_quoted_path_are_found(registry: Registry, tmp_path: Path):
    version = register(registry, tmp_path / "files", "a")
    moved = tmp_path / "with%20blank"
    shutil.copytree(stored(version, ""), moved)
    with registry.files(replace(version, source=f"file://{moved}")) as folder:
        assert (folder / "model.ubj").read_bytes() == b"a" * 100


def alter(version: Version) -> str:
    stored(version, "model.ubj").write_bytes(b"malice")
    return "model.ubj has SHA-256"


def remove(version: Version) -> str:
    stored(version, "model.ubj").unlink()
    return "model.ubj is missing"


def add(version: Version) -> str:
    stored(version, "extra.pkl").write_bytes(b"malice")
    return "extra.pkl was added"


def alter_with_manifest(version: Version) -> str:
    stored(version, "model.ubj").write_bytes(b"malice")
    write_manifest(stored(version, "model.ubj").parent, "acme", "story_points", "a")
    return "manifest.json has SHA-256"


@pytest.mark.parametrize("tamper", [alter, remove, add, alter_with_manifest])
def test_a_tampered_file_is_refused_by_name(registry: Registry, tmp_path: Path, tamper):
    version = register(registry, tmp_path / "files", "a")
    message = tamper(version)
    with pytest.raises(TamperedArtifact, match=message) as caught, registry.files(version):
        pass
    assert "tenant acme, model story_points, version 1" in str(caught.value)


def test_an_alias_points_at_one_version_or_at_none(registry: Registry, tmp_path: Path):
    assert registry.aliased("acme", "story_points") is None
    register(registry, tmp_path / "files", "a")
    assert registry.aliased("acme", "story_points") is None
    registry.set_alias("acme", "story_points", CHAMPION, 1)
    assert registry.aliased("acme", "story_points").number == 1
    assert registry.aliases() == {("acme", "story_points"): {CHAMPION: 1}}


def test_an_unknown_version_is_refused_with_those_that_exist(registry: Registry, tmp_path: Path):
    register(registry, tmp_path / "files", "a")
    with pytest.raises(NoSuchVersion, match="there is no version 7; the versions are: 1"):
        registry.version("acme", "story_points", 7)


def test_a_version_registered_by_somebody_else_is_refused_with_the_remedy(registry: Registry, tmp_path: Path):
    register(registry, tmp_path / "files", "a")
    registry.client.create_model_version("story_points.acme", "file:///nowhere")
    with pytest.raises(TamperedArtifact, match=r"version 2 was not registered by the pipeline.*Delete it in MLflow"):
        registry.versions("acme", "story_points")


def test_one_file_of_a_version_is_read_alone_and_checked(registry: Registry, tmp_path: Path):
    version = register(registry, tmp_path / "files", "a")
    content = registry.file(version, "model.ubj")
    with registry.files(version) as folder:
        assert content == (folder / "model.ubj").read_bytes()
    assert registry.file(version, "another.txt") is None


@pytest.mark.parametrize("tamper", [alter, remove, alter_with_manifest])
def test_one_file_that_was_tampered_with_is_refused(registry: Registry, tmp_path: Path, tamper):
    version = register(registry, tmp_path / "files", "a")
    message = tamper(version)
    with pytest.raises(TamperedArtifact, match=message):
        registry.file(version, "model.ubj")
