"""Versions, aliases and artifact hashes in a real MLflow store."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ml_pipeline.resources import store
from ml_pipeline.resources.registry import (
    CHAMPION,
    NoSuchVersion,
    Registration,
    Registry,
    TamperedArtifact,
    Version,
    write_manifest,
)
from ml_pipeline.resources.snapshots import Snapshots
from ml_pipeline.resources.store import Unwritable
from ml_pipeline.settings import Settings, load_settings


def register(registry: Registry, folder: Path, key: str, tenant: str = "acme") -> Version:
    folder.mkdir(exist_ok=True)
    (folder / "model.ubj").write_bytes(key.encode() * 100)
    (folder / "version.json").write_text("{}")
    return registry.register(
        tenant,
        "story_points",
        folder,
        Registration(key=key, semantic="1.0.0", as_of="2026-01-01", metrics={"mae": 1.5}, params={}, tags={}),
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
    pd.testing.assert_frame_equal(Snapshots(odd).read(url, digest, tenant="acme"), frame)


def test_files_that_an_older_version_stored_under_a_quoted_path_are_found(registry: Registry, tmp_path: Path):
    version = register(registry, tmp_path / "files", "a")
    moved = tmp_path / "with%20blank"
    shutil.copytree(stored(version, ""), moved)
    with registry.files(replace(version, source=f"file://{moved}")) as folder:
        assert (folder / "model.ubj").read_bytes() == b"a" * 100


def alter(version: Version) -> str:
    stored(version, "model.ubj").write_bytes(b"evil" * 25)  # as long as what was registered
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


def lose_the_folder(version: Version) -> str:
    shutil.rmtree(stored(version, ""))
    return "manifest.json is missing"


def replace_by_a_pipe(version: Version) -> str:
    stored(version, "model.ubj").unlink()
    os.mkfifo(stored(version, "model.ubj"))
    return "model.ubj is a named pipe, not a file"


def replace_by_a_link(version: Version) -> str:
    path = stored(version, "model.ubj")
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")
    return "model.ubj is a symbolic link, not a file"


def replace_by_a_dangling_link(version: Version) -> str:
    stored(version, "model.ubj").unlink()
    stored(version, "model.ubj").symlink_to("nowhere")
    return "model.ubj is a symbolic link, not a file"


def replace_by_a_folder(version: Version) -> str:
    stored(version, "model.ubj").unlink()
    stored(version, "model.ubj").mkdir()
    return "model.ubj is a folder, not a file"


def link_the_folder(version: Version) -> str:
    folder = stored(version, "model.ubj").parent
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")
    return "its folder is a symbolic link, not a folder"


def fill(version: Version) -> str:
    with stored(version, "model.ubj").open("wb") as file:
        file.truncate(10 * 2**30)
    return "model.ubj has 10,737,418,240 bytes instead of 100"


WAYS = [alter, remove, add, alter_with_manifest, lose_the_folder, replace_by_a_pipe, replace_by_a_link]
WAYS += [replace_by_a_dangling_link, replace_by_a_folder, link_the_folder, fill]


@pytest.mark.parametrize("tamper", WAYS)
def test_a_tampered_file_is_refused_by_name(registry: Registry, tmp_path: Path, tamper):
    version = register(registry, tmp_path / "files", "a")
    message = tamper(version)
    with pytest.raises(TamperedArtifact, match=message) as caught, registry.files(version):
        pass
    with pytest.raises(TamperedArtifact, match=message):
        registry.check(version)
    assert "tenant acme, model story_points, version 1" in str(caught.value)


def test_a_file_that_may_not_be_read_is_refused_by_name(registry: Registry, tmp_path: Path):
    version = register(registry, tmp_path / "files", "a")
    context = multiprocessing.get_context("fork")
    said, says = context.Pipe(duplex=False)

    def as_nobody() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        else:
            stored(version, "model.ubj").chmod(0)
        try:
            registry.check(version)
        except TamperedArtifact as error:
            says.send(str(error))
        os._exit(0)

    process = context.Process(target=as_nobody)
    process.start()
    process.join(20)
    assert said.poll() and "cannot be read: Permission denied. It was not loaded" in said.recv()


def runs_of(registry: Registry) -> list[str]:
    experiment = registry.client.get_experiment_by_name("story_points.acme")
    return sorted(run.info.status for run in registry.client.search_runs([experiment.experiment_id]))


def test_a_full_disk_registers_nothing_and_the_next_registration_is_whole(registry: Registry, tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "card.md").write_bytes(b"c" * 20_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(Unwritable, match="File too large"):
            register(registry, tmp_path / "files", "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert registry.versions("acme", "story_points") == []
    assert [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()] == []
    registry.check(register(registry, tmp_path / "files", "a"))
    assert runs_of(registry) == ["FAILED", "FINISHED"]


class Killed(BaseException):
    """As a SIGKILL does, it lets nobody tidy up."""


@pytest.mark.parametrize(
    ("step", "left"), [("put_all", ["FAILED", "FINISHED", "FINISHED"]), ("set_terminated", ["FINISHED", "FINISHED"])]
)
def test_a_registration_that_was_killed_is_ended_by_the_next(registry: Registry, tmp_path, monkeypatch, step, left):
    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*((store, step) if step == "put_all" else (registry.client, step)), kill)
        register(registry, tmp_path / "files", "a")
    assert runs_of(registry) == ["RUNNING"]
    again, other = (register(registry, tmp_path / "files", key) for key in ("a", "b"))
    for version in (again, other):
        registry.check(version)
    assert runs_of(registry) == left
    assert len(registry.versions("acme", "story_points")) == 2


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
    ours = register(registry, tmp_path / "files", "a")
    registry.client.create_model_version("story_points.acme", "file:///nowhere")
    with pytest.raises(TamperedArtifact, match=r"version 2 was not registered by the pipeline.*Delete it in MLflow"):
        registry.version("acme", "story_points", 2)
    assert registry.versions("acme", "story_points") == [ours]


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
