from types import SimpleNamespace

import pytest

from ml_pipeline.training.selection import latency
from ml_pipeline.training.selection.predictors import Ensemble
from ml_pipeline.training.train import train

FOREST = {"random_forest": {"n_estimators": 30}}
FOREST_MS, OTHER_MS = 40.0, 1.0  # that one prediction of a member takes


@pytest.fixture
def with_forest(story_points):
    def made(latency_ms):
        features = story_points.features.model_copy(update={"text": []})
        training = story_points.training.model_copy(update={"candidates": FOREST, "latency_ms": latency_ms})
        return story_points.model_copy(update={"training": training, "features": features})

    return made


def milliseconds(ensemble: Ensemble) -> float:
    return sum(FOREST_MS if member.candidate == "random_forest" else OTHER_MS for member in ensemble.members)


@pytest.fixture
def clock(monkeypatch):
    """The clock of the measurement: it moves only when an ensemble predicts."""
    now, predict = [0.0], Ensemble.predict

    def predict_in_time(self, rows):
        now[0] += milliseconds(self) / 1000
        return predict(self, rows)

    monkeypatch.setattr(Ensemble, "predict", predict_in_time)
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: now[0]))


def test_the_slowest_members_are_left_out_until_one_prediction_is_in_time(with_forest, make_frame, as_of, clock):
    frame = make_frame(with_forest(None), 300)
    whole = train(with_forest(None), frame, as_of).model.predictor
    most = milliseconds(whole) / 3
    trained = train(with_forest(most), frame, as_of)
    left = trained.model.predictor
    assert [member.name for member in left.members] == [
        member.name for member in whole.members if member.candidate != "random_forest"
    ]
    assert milliseconds(left) <= most < milliseconds(whole)
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
