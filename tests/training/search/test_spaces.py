import numpy as np
import pytest

from ml_pipeline.training.search.spaces import SPACES, Choice, Float, Int, grid, nearest, space_of

TREES = {
    "xgboost": "n_estimators",
    "lightgbm": "n_estimators",
    "hist_gradient_boosting": "max_iter",
    "random_forest": "n_estimators",
}


@pytest.mark.parametrize("estimator", ["xgboost", "lightgbm", "hist_gradient_boosting", "random_forest"])
def test_the_usual_space_has_names_and_defaults_that_the_library_knows(estimator):
    from lightgbm import LGBMRegressor
    from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
    from xgboost import XGBRegressor

    makes = {
        "xgboost": XGBRegressor,
        "lightgbm": lambda **params: LGBMRegressor(verbose=-1, **params),
        "hist_gradient_boosting": HistGradientBoostingRegressor,
        "random_forest": RandomForestRegressor,
    }
    random = np.random.default_rng(0)
    matrix = random.normal(size=(150, 5))
    params = nearest(SPACES[estimator], {}) | {TREES[estimator]: 5}
    fitted = makes[estimator](**params).fit(matrix, matrix[:, 0])
    assert fitted.predict(matrix).std() > 0


def test_two_numbers_replace_the_ends_of_a_range_and_keep_its_type_and_scale():
    space = space_of("xgboost", {"max_depth": [3, 8], "learning_rate": [0.05, 0.1]})
    assert space["max_depth"] == Int(3, 8, 6)
    assert space["learning_rate"] == Float(0.05, 0.1, 0.3, log=True)


def test_any_other_list_is_choices():
    space = space_of("xgboost", {"max_depth": [3, 5, 7], "booster": ["gbtree", "dart"]})
    assert (space["max_depth"], space["booster"]) == (Choice((3, 5, 7)), Choice(("gbtree", "dart")))


def test_a_parameter_that_the_usual_space_does_not_have_may_be_given_a_range():
    space = space_of("xgboost", {"max_bin": [32, 128], "gamma": [0.0, 1.5]})
    assert (space["max_bin"], space["gamma"]) == (Int(32, 128, 32), Float(0.0, 1.5, 0.0))


def test_a_range_that_begins_at_zero_is_not_logarithmic():
    assert space_of("xgboost", {"reg_alpha": [0, 5]})["reg_alpha"] == Float(0.0, 5.0, 0.0)


def test_an_unknown_estimator_is_refused_with_those_that_have_a_space():
    with pytest.raises(ValueError, match="estimator 'catboost' has no search space; these have one: xgboost, lightgbm"):
        space_of("catboost")


def test_what_lies_outside_a_space_has_a_nearest_point_in_it():
    space = {"depth": Int(2, 6, 3), "rate": Float(0.1, 1.0, 0.0), "scaling": Choice(("none", "standard"))}
    assert nearest(space, {"depth": 9, "scaling": "power"}) == {"depth": 6, "rate": 0.1, "scaling": "none"}


def test_a_grid_has_every_combination_once():
    space = {"depth": Int(2, 6, 3), "rate": Float(0.01, 1.0, 0.1, log=True), "scaling": Choice(("none", "standard"))}
    points = grid(space, 100, seed=0)
    assert len({tuple(point.values()) for point in points}) == len(points) == 18
    assert {point["depth"] for point in points} == {2, 4, 6}
    assert sorted({point["rate"] for point in points}) == pytest.approx([0.01, 0.1, 1.0])


def test_a_part_of_a_grid_is_not_its_corner():
    points = grid(SPACES["xgboost"], 30, seed=0)
    assert len(points) == 30
    assert all(len({point[name] for point in points}) > 1 for name in SPACES["xgboost"])
