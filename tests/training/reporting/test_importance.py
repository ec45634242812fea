import json

import numpy as np
import pytest

from ml_pipeline.specs import Preprocessing
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.reporting.importance import importance
from ml_pipeline.training.selection.ensembles import fit_members
from ml_pipeline.training.selection.predictors import Member
from ml_pipeline.training.train import train


@pytest.mark.parametrize("name", ["story_points", "lead_time", "rework_risk"])
def test_the_columns_that_the_label_depends_on_come_first_and_the_shares_sum_to_one(specs, make_frame, as_of, name):
    spec = specs[name]
    shares = importance(train(spec, make_frame(spec, 400), as_of).model)
    assert list(shares)[:2] in (["text", spec.feature_columns.numeric[0]], [spec.feature_columns.numeric[0], "text"])
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert set(shares) <= set(spec.feature_columns.all)
    json.dumps(shares, allow_nan=False)


@pytest.mark.parametrize("name", ["story_points", "rework_risk"])
def test_a_version_read_from_its_files_has_the_same_importance(specs, make_frame, as_of, tmp_path, name):
    model = train(specs[name], make_frame(specs[name], 300), as_of).model
    model.save(tmp_path)
    assert importance(FittedModel.load(tmp_path)) == pytest.approx(importance(model))


def test_a_constant_relies_on_nothing(story_points, make_frame, as_of):
    assert importance(train(story_points, make_frame(story_points, 200, signal=0.0), as_of).model) == {}


def test_trees_that_never_split_rely_on_nothing(rework_risk, make_frame):
    rows = make_frame(rework_risk, 20)  # too few for LightGBM's smallest leaves
    fitted = fit_members(rework_risk, rows, seed=0, members=[Member("lightgbm", "none")]).ensemble
    assert importance(FittedModel.of(rework_risk, "lightgbm", fitted, baseline=0.5)) == {}


def test_levels_and_flags_of_missing_values_count_for_their_column(story_points, make_frame):
    frame = make_frame(story_points, 300)
    signal = story_points.feature_columns.numeric[0]
    frame[signal] = frame[signal].where(frame[signal] > 0)  # whether it is missing says all that it said below 0
    frame["label"] = np.where(frame[signal].isna(), 1.0, 9.0) + (frame["team"] == "a")
    keys = Preprocessing(missing="median", missing_indicator=True, categorical="onehot")
    spec = story_points.model_copy(update={"preprocessing": keys})
    shares = importance(FittedModel.of(spec, "voting", fit_members(spec, frame, seed=0).ensemble, baseline=5.0))
    assert list(shares)[:2] == [signal, "team"]
    assert set(shares) <= set(spec.feature_columns.all)
