"""The picture of replays."""

from __future__ import annotations

import pytest

from ml_pipeline.lifecycle.policy import BUILT_IN
from ml_pipeline.replay.loop import replay
from ml_pipeline.replay.plot import plot


def test_two_policies_become_one_picture(make_learner):
    learner = make_learner(60)
    picture = plot([replay(learner, BUILT_IN[name]) for name in ("never", "weekly")])
    assert picture.startswith(b"\x89PNG")


def test_no_replay_is_no_picture():
    with pytest.raises(ValueError, match="got 0 replays"):
        plot([])
