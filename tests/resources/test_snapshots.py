"""Feature snapshots in a folder: named by what they hold, and read back as they were written."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.resources.snapshots import Snapshots, SnapshotUnusable, content_hash
from ml_pipeline.resources.store import Unwritable
from ml_pipeline.settings import Settings

WHEN = pd.to_datetime(["2026-01-01", None, "2026-01-02 03:04:05.000006"], utc=True, format="ISO8601").as_unit("us")


def frame(**columns) -> pd.DataFrame:
    level = pd.Series(["a", None, "ü"], dtype=object)
    text = pd.Series(["x", "", "y z"], dtype="str")
    return pd.DataFrame({"when": WHEN, "number": [1.5, np.nan, -0.0], "level": level, "text": text} | columns)


@pytest.fixture
def snapshots(tmp_path: Path) -> Snapshots:
    return Snapshots(Settings(home=tmp_path))


def test_a_snapshot_is_read_back_with_its_values_and_its_hash(snapshots: Snapshots):
    digest, url = snapshots.write("acme", "story_points", frame())
    again = snapshots.read(url, digest, tenant="acme")
    pd.testing.assert_frame_equal(again, frame().astype({"level": "str"}))
    assert content_hash(again) == digest == content_hash(frame())


def test_equal_frames_are_stored_once_and_others_beside_them(snapshots: Snapshots, tmp_path: Path):
    for one in (frame(), frame(), frame(number=[1.5, np.nan, 0.5])):
        snapshots.write("acme", "story_points", one)
    assert len(list(tmp_path.rglob("*.parquet"))) == 2


def test_each_tenant_has_a_folder_of_its_own(snapshots: Snapshots):
    (ours, our_url), (theirs, their_url) = (snapshots.write(name, "m", frame()) for name in ("acme", "globex"))
    assert ours == theirs
    assert "/snapshots/acme/m/" in our_url and "/snapshots/globex/m/" in their_url


@pytest.mark.parametrize(
    "other",
    [
        frame(number=[1.5, np.nan, 0.0]),
        frame(level=pd.Series(["a", "", "ü"], dtype=object)),
        frame(when=WHEN + pd.Timedelta(microseconds=1)),
        frame().rename(columns={"number": "numbers"}),
        frame().iloc[::-1],
        frame().iloc[:2],
    ],
    ids=["the sign of zero", "missing and empty text", "a microsecond", "a name", "the order", "a row less"],
)
def test_the_hash_tells_frames_apart_by(other: pd.DataFrame):
    assert content_hash(other) != content_hash(frame())


@given(st.lists(st.none() | st.text(max_size=5), min_size=1, max_size=8))
def test_the_hash_of_text_does_not_depend_on_how_pandas_holds_it(values: list[str | None]):
    as_objects, as_strings = (pd.DataFrame({"level": pd.Series(values, dtype=kind)}) for kind in (object, "str"))
    assert content_hash(as_objects) == content_hash(as_strings)


def test_a_snapshot_that_is_gone_says_how_to_make_it_again(snapshots: Snapshots):
    digest, url = snapshots.write("acme", "story_points", frame())
    Path(url).unlink()
    with pytest.raises(SnapshotUnusable, match=r"is missing\. Materialize the features of tenant acme again"):
        snapshots.read(url, digest, tenant="acme")


def test_a_snapshot_that_was_changed_is_refused(snapshots: Snapshots):
    digest, url = snapshots.write("acme", "story_points", frame())
    frame(number=[1.5, np.nan, 7.0]).to_parquet(url, index=False)
    with pytest.raises(SnapshotUnusable, match="differs from what was stored"):
        snapshots.read(url, digest, tenant="acme")


@pytest.mark.parametrize("damage", ["cut off", "another frame", "a folder", "a link"])
def test_a_snapshot_that_was_damaged_is_written_again(snapshots: Snapshots, damage: str, caplog, tmp_path: Path):
    digest, url = snapshots.write("acme", "story_points", frame())
    path = Path(url)
    whole = path.read_bytes()
    path.unlink()
    if damage == "cut off":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "another frame":
        frame(number=[1.5, np.nan, 7.0]).to_parquet(path, index=False)
    elif damage == "a folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SnapshotUnusable, match="Materialize the features"):
        snapshots.read(url, digest, tenant="acme")
    assert snapshots.write("acme", "story_points", frame()) == (digest, url)
    assert path.read_bytes() == whole and not path.is_symlink()
    assert "tenant acme, model story_points: a damaged snapshot is replaced" in caplog.text


def test_a_full_disk_leaves_no_half_snapshot(snapshots: Snapshots, tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(Unwritable, match=r"snapshots/acme/story_points cannot be written: File too large"):
            snapshots.write("acme", "story_points", frame())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    digest, url = snapshots.write("acme", "story_points", frame())
    assert content_hash(snapshots.read(url, digest, tenant="acme")) == digest


def test_snapshots_in_a_store_without_folders_are_written_read_and_removed():
    snapshots = Snapshots(Settings(artifacts_url="memory://durability"))
    digest, url = snapshots.write("acme", "story_points", frame())
    assert snapshots.write("acme", "story_points", frame()) == (digest, url)
    assert content_hash(snapshots.read(url, digest, tenant="acme")) == digest
    snapshots.check()
    snapshots.remove("acme", url)
    with pytest.raises(SnapshotUnusable, match="is missing"):
        snapshots.read(url, digest, tenant="acme")


def test_snapshots_of_an_installation_that_was_moved_are_found_and_removed(tmp_path: Path):
    before, after = (Settings(home=tmp_path / name) for name in ("before", "after"))
    digest, url = Snapshots(before).write("acme", "story_points", frame())
    before.home.rename(after.home)
    moved = Snapshots(after)
    assert content_hash(moved.read(url, digest, tenant="acme")) == digest
    assert moved.owns("acme", url) and not moved.owns("globex", url)
    moved.remove("acme", url)
    assert list(after.home.rglob("*.parquet")) == []
