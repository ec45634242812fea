"""The picture of replays."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_pipeline.lifecycle.policy import BUILT_IN
from ml_pipeline.replay.loop import replay
from ml_pipeline.replay.plot import plot


def test_two_policies_become_one_picture(make_learner, tmp_path: Path):
    learner = make_learner(90)
    path = tmp_path / "replay.png"
    plot([replay(learner, BUILT_IN[name]) for name in ("never", "weekly")], path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_no_replay_is_no_picture(tmp_path: Path):
    with pytest.raises(ValueError, match="got 0 replays"):
        plot([], tmp_path / "none.png")
