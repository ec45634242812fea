import time

import numpy as np
import pytest

from ml_pipeline.training.train import train

FOREST = {"random_forest": {"n_estimators": 300}}


@pytest.fixture
def with_forest(story_points):
    def made(latency_ms):
        features = story_points.features.model_copy(update={"text": []})
        training = story_points.training.model_copy(update={"candidates": FOREST, "latency_ms": latency_ms})
        return story_points.model_copy(update={"training": training, "features": features})

    return made


def test_the_slowest_members_are_left_out_until_one_prediction_is_in_time(with_forest, make_frame, as_of):
    spec = with_forest(None)
    frame = make_frame(spec, 300)
    whole = train(spec, frame, as_of).model
    row = frame.iloc[[-1]]

    def milliseconds(model):
        seconds = []
        for _ in range(15):
            started = time.perf_counter()
            model.predict(row)
            seconds.append(time.perf_counter() - started)
        return 1000 * float(np.median(seconds))

    most = milliseconds(whole) / 3
    trained = train(with_forest(most), frame, as_of)
    names = {member.candidate for member in trained.model.predictor.members}
    assert "random_forest" not in names
    assert milliseconds(trained.model) < milliseconds(whole) / 2
    assert any("random_forest from median" in note and "left out" in note for note in trained.notes)


def test_the_best_member_stays_however_slow_it_is(with_forest, make_frame, as_of):
    spec = with_forest(1e-6)
    trained = train(spec, make_frame(spec, 300), as_of)
    assert len(trained.model.predictor.members) == 1
    assert any("training.latency_ms is 1e-06" in note for note in trained.notes)


def test_a_version_in_time_keeps_all_its_members(with_forest, make_frame, as_of):
    frame = make_frame(with_forest(None), 300)
    limited, free = (train(with_forest(most), frame, as_of) for most in (60_000, None))
    assert limited.notes == free.notes
    assert len(limited.model.predictor.members) == len(free.model.predictor.members)
