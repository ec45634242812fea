import numpy as np
import pytest

from ml_pipeline.training.errors import FitError
from ml_pipeline.training.learners.base import fit_learner, load_learner
from ml_pipeline.training.learners.data import FitData

NAMES = ("xgboost", "lightgbm", "hist_gradient_boosting", "random_forest", "linear")
SMALL = {
    "xgboost": {"n_estimators": 20, "max_depth": 3},
    "lightgbm": {"n_estimators": 20, "num_leaves": 8},
    "hist_gradient_boosting": {"max_iter": 20},
    "random_forest": {"n_estimators": 20},
    "linear": {},
}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(300, 6)).astype("float32")
    return matrix, (2 * matrix[:, 0] - matrix[:, 1] + 0.1 * rng.normal(size=300)).astype("float64")


def target_of(target, loss):
    return (target > 0).astype("float64") if loss == "log_loss" else target


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
@pytest.mark.parametrize("name", NAMES)
def test_a_learner_finds_the_columns_that_matter(data, name, loss):
    matrix, target = data
    fitted = fit_learner(name, SMALL[name], loss, FitData(matrix, target_of(target, loss), 0))
    assert np.corrcoef(fitted.margin(matrix), target)[0, 1] > 0.8
    if name != "hist_gradient_boosting":  # it keeps no gains
        assert set(np.argsort(fitted.gain())[-2:]) == {0, 1}


@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
@pytest.mark.parametrize("name", NAMES)
def test_a_learner_read_from_its_file_answers_with_the_same_bits(data, name, loss, tmp_path):
    matrix, target = data
    fitted = fit_learner(name, SMALL[name], loss, FitData(matrix, target_of(target, loss), 0))
    fitted.save(tmp_path, "one")
    assert np.array_equal(load_learner(tmp_path, "one").margin(matrix), fitted.margin(matrix))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", [name for name in NAMES if name != "linear"])
def test_trees_take_missing_values_and_columns_without_any(data, name):
    matrix, target = data
    gaps = matrix.copy()
    gaps[::7, 2] = np.nan
    gaps[:, 5] = np.nan
    fitted = fit_learner(name, SMALL[name], "squared_error", FitData(gaps, target, 0))
    assert np.corrcoef(fitted.margin(gaps), target)[0, 1] > 0.8
    assert np.isfinite(fitted.margin(matrix)).all()


@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "linear"])
def test_contributions_sum_to_the_margin(data, name):
    matrix, target = data
    fitted = fit_learner(name, SMALL[name], "squared_error", FitData(matrix, target, 0))
    assert fitted.contributions(matrix).sum(axis=1) == pytest.approx(fitted.margin(matrix), abs=1e-4)


@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "linear"])
@pytest.mark.parametrize("loss", ["squared_error", "log_loss"])
def test_more_rows_move_a_learner_toward_them_and_leave_it_as_it_was(data, name, loss):
    matrix, target = data
    fitted = fit_learner(name, SMALL[name], loss, FitData(matrix, target_of(target, loss), 0))
    before = fitted.margin(matrix)
    shifted = target_of(target + 3, loss)
    after = fitted.continued(SMALL[name], loss, FitData(matrix, shifted, 0), 10)
    assert after.margin(matrix).mean() > before.mean() + 0.2
    assert np.array_equal(fitted.margin(matrix), before)


@pytest.mark.parametrize("name", ["hist_gradient_boosting", "random_forest"])
def test_trees_of_scikit_learn_stay_as_they_are(data, name):
    matrix, target = data
    fitted = fit_learner(name, SMALL[name], "squared_error", FitData(matrix, target, 0))
    assert fitted.continued(SMALL[name], "squared_error", FitData(matrix, target + 3, 0), 10) is fitted
    assert fitted.contributions(matrix) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_weighs_nothing_teaches_nothing(data, name):
    matrix, target = data
    weight = np.ones(300)
    weight[150:] = 1e-6
    spoiled = target.copy()
    spoiled[150:] += 50
    fitted = fit_learner(name, SMALL[name], "squared_error", FitData(matrix, spoiled, 0, weight))
    assert abs(fitted.margin(matrix[:150]).mean() - target[:150].mean()) < 1


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("xgboost", {"max_depth": -5}),
        ("lightgbm", {"num_leaves": -1}),
        ("random_forest", {"n_estimators": 0}),
        ("hist_gradient_boosting", {"depth": 3}),
        ("linear", {"alpha": -1}),
        ("linear", {"penalty": "l1"}),
    ],
)
def test_a_parameter_that_is_refused_is_an_error_that_names_the_learner(data, name, params):
    matrix, target = data
    with pytest.raises(FitError, match=f"^{name}: "):
        fit_learner(name, params, "squared_error", FitData(matrix, target, 0))


@pytest.mark.parametrize("name", ["hist_gradient_boosting", "random_forest", "linear"])
def test_labels_of_one_class_are_refused_with_what_to_do(data, name):
    with pytest.raises(FitError, match=r"every label is the same\. Wait for labels of the other class"):
        fit_learner(name, {}, "log_loss", FitData(data[0], np.ones(300), 0))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="contains no file member-3 with one of the suffixes"):
        load_learner(tmp_path, "member-3")
