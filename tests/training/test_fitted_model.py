import json

import numpy as np
import pandas as pd
import pytest

from ml_pipeline.specs import Preprocessing, Selection
from ml_pipeline.training.fitted_model import FittedModel
from ml_pipeline.training.predictor_files import VersionError
from ml_pipeline.training.train import train


@pytest.fixture(params=["story_points", "lead_time", "rework_risk"])
def trained(request, specs, make_frame, as_of):
    spec = specs[request.param]
    frame = make_frame(spec, 200)
    return train(spec, frame, as_of).model, make_frame(spec, 40, seed=5)


@pytest.mark.parametrize("signal", [0.0, 1.0])
@pytest.mark.parametrize("name", ["story_points", "lead_time", "rework_risk"])
def test_a_version_predicts_the_same_bits_after_saving_and_loading(specs, make_frame, as_of, tmp_path, name, signal):
    model = train(specs[name], make_frame(specs[name], 200, signal=signal), as_of).model
    model.save(tmp_path)
    new = make_frame(specs[name], 40, seed=5)
    pd.testing.assert_frame_equal(FittedModel.load(tmp_path).predict(new), model.predict(new), check_exact=True)


def test_two_saves_write_the_same_boosters_and_the_same_description(trained, tmp_path):
    model, _ = trained
    for folder in ("first", "second"):
        model.save(tmp_path / folder)
    names = {path.name for path in (tmp_path / "first").iterdir() if not path.name.startswith("preprocess-")}
    assert all((tmp_path / "first" / n).read_bytes() == (tmp_path / "second" / n).read_bytes() for n in names)


def test_preprocessing_that_fills_and_flags_and_selects_is_stored_too(story_points, make_frame, as_of, tmp_path):
    keys = Preprocessing(missing="iterative", outliers="cap", outlier_flag=True, categorical="onehot")
    features = story_points.features.model_copy(update={"selection": Selection(method="importance", keep=9)})
    spec = story_points.model_copy(update={"preprocessing": keys, "features": features})
    model, new = train(spec, make_frame(spec, 200), as_of).model, make_frame(spec, 40, seed=5)
    model.save(tmp_path)
    pd.testing.assert_frame_equal(FittedModel.load(tmp_path).predict(new), model.predict(new), check_exact=True)


def test_predictions_keep_the_index_of_the_frame(trained):
    model, frame = trained
    frame.index = frame.index + 1000
    assert model.predict(frame).index.equals(frame.index)


def test_one_row_is_predicted_as_it_is_among_many(trained):
    model, frame = trained
    pd.testing.assert_frame_equal(model.predict(frame.iloc[[7]]), model.predict(frame).iloc[[7]], check_exact=True)


def test_a_missing_file_is_named(story_points, make_frame, as_of, tmp_path):
    train(story_points, make_frame(story_points, 200), as_of).model.save(tmp_path)
    (tmp_path / "member-0.ubj").unlink()
    with pytest.raises(VersionError, match="contains no file member-0 with one of the suffixes"):
        FittedModel.load(tmp_path)


def test_another_format_is_refused(story_points, make_frame, as_of, tmp_path):
    train(story_points, make_frame(story_points, 200), as_of).model.save(tmp_path)
    path = tmp_path / "version.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(VersionError, match="its format is 99"):
        FittedModel.load(tmp_path)


def test_a_preprocessor_with_a_foreign_type_is_not_loaded(story_points, make_frame, as_of, tmp_path):
    import skops.io
    from sklearn.preprocessing import FunctionTransformer

    train(story_points, make_frame(story_points, 200), as_of).model.save(tmp_path)
    foreign = {"encoder": FunctionTransformer(json.dumps), "vectorizer": None, "reducer": None}
    skops.io.dump(foreign, tmp_path / "preprocess-trees.skops")
    with pytest.raises(VersionError, match="contains types that a preprocessor does not use"):
        FittedModel.load(tmp_path)


def test_the_confidence_of_a_probability_is_that_of_the_likelier_class(rework_risk, make_frame, as_of):
    model = train(rework_risk, make_frame(rework_risk, 200), as_of).model
    made = model.predict(make_frame(rework_risk, 40, seed=5))
    assert made["confidence"].tolist() == [max(p, 1 - p) for p in made["value"]]


def test_the_confidence_of_a_number_is_the_share_of_held_out_residuals_that_lead_near_it(
    story_points, make_frame, as_of
):
    model = train(story_points, make_frame(story_points, 200), as_of).model
    made = model.predict(make_frame(story_points, 40, seed=5))
    labels = np.expm1(np.log1p(made["value"].to_numpy())[:, None] + np.array(model.residuals))
    near = np.abs(labels - made[["value"]].to_numpy()) <= 0.2 * made[["value"]].to_numpy()
    np.testing.assert_allclose(made["confidence"], near.mean(axis=1))
    assert made["confidence"].nunique() > 1
