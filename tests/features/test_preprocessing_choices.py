"""Each choice of ``preprocessing``: what it makes of the columns, from training rows alone, and after storage."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pandas as pd
import pytest
import skops.io

from ml_pipeline.features.encoding.preprocessing import Preprocessor, fit_preprocessor
from ml_pipeline.features.encoding.text import TextMemo
from ml_pipeline.specs import ModelSpec, Preprocessing, Selection
from ml_pipeline.training.predictor_files import TRUSTED_TYPES

FILLING = ["constant", "median", "knn", "iterative"]
CHOICES = [
    {},
    *({"missing": kind, "missing_indicator": True} for kind in FILLING),
    {"outliers": "cap"},
    {"outliers": "robust", "missing": "median"},
    {"outlier_flag": True},
    {"categorical": "onehot"},
    {"categorical": "frequency"},
    {"categorical": "target"},
    {"missing": "iterative", "outliers": "cap", "outlier_flag": True, "categorical": "onehot"},
]


def prepared(spec: ModelSpec, **keys: object) -> ModelSpec:
    return spec.model_copy(update={"preprocessing": Preprocessing.model_validate(keys)})


def column(fitted: Preprocessor, frame: pd.DataFrame, name: str) -> np.ndarray:
    return fitted.transform(frame)[:, fitted.features.index(name)]


@pytest.fixture
def frame(claims, make_frame) -> pd.DataFrame:
    """200 rows; a fifth of the sizes is missing, ``history_mean`` has no value and ``cost`` a single one."""
    frame = make_frame(claims, 200).assign(history_mean=np.nan, cost=7.0)
    frame.loc[::5, "size"] = np.nan
    return frame


@pytest.mark.parametrize("for_linear", [False, True], ids=["trees", "linear"])
@pytest.mark.parametrize("keys", CHOICES, ids=str)
def test_a_stored_preprocessor_gives_the_same_bits_and_needs_no_further_trust(claims, frame, keys, for_linear):
    fitted = fit_preprocessor(prepared(claims, **keys), frame, for_linear)
    stored = skops.io.loads(skops.io.dumps(fitted.parts()), trusted=TRUSTED_TYPES)
    read = Preprocessor(claims.feature_columns, **stored)
    assert read.features == fitted.features
    matrices = [read.transform(frame), fitted.transform(frame)]
    matrices = [matrix.toarray() for matrix in matrices] if for_linear else matrices
    assert np.array_equal(*matrices, equal_nan=True)


@pytest.mark.parametrize("for_linear", [False, True], ids=["trees", "linear"])
@pytest.mark.parametrize("keys", CHOICES, ids=str)
def test_a_row_is_transformed_as_it_is_among_many_whoever_they_are(claims, frame, make_frame, keys, for_linear):
    fitted = fit_preprocessor(prepared(claims, **keys), frame, for_linear)
    strangers = pd.concat([frame.iloc[[5]], make_frame(claims, 30, seed=9)], ignore_index=True)
    one, among = (fitted.transform(rows)[[0]] for rows in (frame.iloc[[5]], strangers))
    one, among = (row.toarray() if for_linear else row for row in (one, among))
    assert np.array_equal(one, among, equal_nan=True)


@pytest.mark.parametrize("keys", CHOICES, ids=str)
def test_each_column_of_the_matrix_is_named(claims, frame, keys):
    fitted = fit_preprocessor(prepared(claims, **keys), frame)
    assert len(fitted.features) == fitted.transform(frame).shape[1]


@pytest.mark.parametrize("keys", CHOICES, ids=str)
def test_two_fits_give_the_same_bits(claims, frame, keys):
    first, second = (fit_preprocessor(prepared(claims, **keys), frame).transform(frame) for _ in range(2))
    assert np.array_equal(first, second, equal_nan=True)


@pytest.mark.parametrize("missing", FILLING)
def test_no_number_is_missing_where_they_are_filled(claims, frame, make_frame, missing):
    fitted = fit_preprocessor(prepared(claims, missing=missing), frame)
    new = make_frame(claims, 20, seed=3).assign(cost=np.nan)  # never missing in training
    assert np.isfinite(fitted.transform(frame)).all()
    assert np.isfinite(fitted.transform(new)).all()


def test_a_constant_fills_in_the_unit_of_the_column(claims, frame):
    fitted = fit_preprocessor(prepared(claims, missing="constant", fill_value=-3.0), frame)
    assert column(fitted, frame, "size")[0] == -3.0


def test_the_median_is_that_of_the_training_rows(claims, frame):
    fitted = fit_preprocessor(prepared(claims, missing="median"), frame.head(100))
    assert column(fitted, frame.assign(size=np.nan), "size")[150] == np.float32(frame["size"].head(100).median())


@pytest.mark.parametrize("missing", ["knn", "iterative"])
def test_a_number_that_follows_from_another_is_filled_with_what_it_would_have_been(claims, frame, missing):
    frame["cost"] = 1000 * frame["size"].fillna(0.7)
    fitted = fit_preprocessor(prepared(claims, missing=missing), frame)
    full, gaps = (fit_of[~frame["size"].isna()] for fit_of in (frame, frame.assign(size=np.nan)))
    error = column(fitted, full, "size") - column(fitted, gaps, "size")
    assert np.abs(error).mean() < 0.5 * np.abs(column(fitted, full, "size")).mean()


def test_an_indicator_flags_what_was_missing_and_only_columns_that_miss_values(claims, frame):
    fitted = fit_preprocessor(prepared(claims, missing_indicator=True), frame)
    flags = [name for name in fitted.features if name.endswith("_is_missing")]
    assert flags == ["size_is_missing", "history_mean_is_missing"]
    assert column(fitted, frame, "size_is_missing").tolist() == frame["size"].isna().astype(float).tolist()


def test_an_indicator_of_complete_columns_adds_nothing(claims, make_frame):
    frame = make_frame(claims, 50)
    assert fit_preprocessor(prepared(claims, missing_indicator=True), frame).features.count("size_is_missing") == 0


def test_a_cap_is_fitted_on_training_rows_and_keeps_missing_values(claims, frame):
    fitted = fit_preprocessor(prepared(claims, outliers="cap"), frame)
    low, high = frame["size"].quantile([0.01, 0.99]).astype("float32")
    capped = column(fitted, frame.head(3).assign(size=[-1e9, 1e9, np.nan]), "size")
    assert (capped[0], capped[1]) == (low, high)
    assert np.isnan(capped[2])


def test_a_column_without_values_in_training_is_not_capped(claims, frame):
    fitted = fit_preprocessor(prepared(claims, outliers="cap"), frame)
    assert column(fitted, frame.assign(history_mean=5.0), "history_mean")[0] == 5.0


def test_robust_scaling_is_not_moved_by_an_outlier(claims, frame):
    frame.loc[1, "size"] = 1e12
    scaled = column(fit_preprocessor(prepared(claims, outliers="robust"), frame), frame, "size")
    assert np.nanpercentile(scaled, 75) - np.nanpercentile(scaled, 25) == pytest.approx(1, rel=1e-5)


def test_the_outlier_flag_finds_a_row_far_from_the_training_rows(claims, make_frame):
    frame = make_frame(claims, 300)
    fitted = fit_preprocessor(prepared(claims, outlier_flag=True), frame)
    far = frame.head(2).assign(**dict.fromkeys(claims.feature_columns.numeric, 50.0))
    assert column(fitted, far, "is_outlier").tolist() == [1, 1]
    assert column(fitted, frame, "is_outlier").mean() < 0.5


def test_levels_have_a_column_each_and_rare_ones_share_one(claims, frame):
    frame["team"] = ["a"] * 100 + ["b"] * 96 + ["c", "c", "d", "d"]
    fitted = fit_preprocessor(prepared(claims, categorical="onehot"), frame)
    here = np.array(fitted.features) == "team"
    matrix = fitted.transform(frame)[:, here]
    assert matrix.sum(axis=1).tolist() == [1.0] * 200
    assert matrix.sum(axis=0).tolist() == [100, 96, 4]


def test_a_level_never_seen_counts_with_the_rare_ones(claims, frame):
    frame["team"] = ["a"] * 100 + ["b"] * 96 + ["c", "c", "d", "d"]
    fitted = fit_preprocessor(prepared(claims, categorical="onehot"), frame)
    here = np.array(fitted.features) == "team"
    new = frame.tail(2).assign(team=["c", "zebra"])
    assert len(np.unique(fitted.transform(new)[:, here], axis=0)) == 1


def test_a_frequency_is_the_share_of_training_rows_and_zero_for_a_level_never_seen(claims, frame):
    frame["team"] = ["a"] * 150 + [None] * 50
    fitted = fit_preprocessor(prepared(claims, categorical="frequency"), frame)
    new = frame.head(3).assign(team=["a", None, "zebra"])
    assert column(fitted, new, "team").tolist() == [0.75, 0.25, 0.0]


def test_target_leaves_a_level_to_its_history(claims, frame):
    fitted = fit_preprocessor(prepared(claims, categorical="target"), frame)
    assert "team" not in fitted.features
    assert "history_team_mean" in fitted.features


def test_one_specification_serves_trees_and_a_linear_model(claims, frame):
    trees, linear = (fit_preprocessor(claims, frame, for_linear) for for_linear in (False, True))
    assert np.isnan(trees.transform(frame)).any()
    matrix = linear.transform(frame).toarray()
    size = matrix[:, linear.features.index("size")]
    assert np.isfinite(matrix).all()
    assert linear.features.count("team") == 3
    assert (abs(size.mean()) < 0.01, 0.08 < size.std() < 0.12) == (True, True)


def test_a_linear_model_gets_each_word_and_rows_whose_words_weigh_one(claims, frame):
    linear = fit_preprocessor(claims, frame, for_linear=True)
    words = linear.transform(frame).toarray()[:, [name == "text" for name in linear.features]]
    assert words.shape[1] == len(linear.vectorizer.vocabulary_)
    assert np.allclose(np.square(words).sum(axis=1), 1, atol=1e-5)


def test_a_selection_for_a_linear_model_keeps_the_text_where_trees_keep_it(claims, frame):
    selected = claims.model_copy(
        update={"features": claims.features.model_copy(update={"selection": Selection(method="importance", keep=4)})}
    )
    trees, linear = (fit_preprocessor(selected, frame, for_linear) for for_linear in (False, True))
    assert linear.transform(frame).shape[1] == len(linear.features)
    assert ("text" in linear.features) == ("text" in trees.features)


def test_a_linear_model_fits_what_the_preset_makes(claims, frame):
    from sklearn.linear_model import Ridge

    matrix = fit_preprocessor(claims, frame, for_linear=True).transform(frame)
    assert Ridge(0.01).fit(matrix[:150], frame["label"][:150]).score(matrix[150:], frame["label"][150:]) > 0.5


def test_a_list_of_choices_starts_with_its_first_value(claims, frame):
    listed = fit_preprocessor(prepared(claims, missing=["median", "knn"]), frame)
    fixed = fit_preprocessor(prepared(claims, missing="median"), frame)
    assert np.array_equal(listed.transform(frame), fixed.transform(frame))


def test_a_memo_fits_and_transforms_a_text_once_and_changes_no_bit(claims, frame, monkeypatch):
    from sklearn.feature_extraction.text import TfidfVectorizer

    plain = fit_preprocessor(claims, frame).transform(frame)
    calls = []
    for name in ("fit_transform", "transform"):
        real = getattr(TfidfVectorizer, name)
        monkeypatch.setattr(
            TfidfVectorizer, name, lambda *given, name=name, real=real: (calls.append(name), real(*given))[1]
        )
    memo = TextMemo()
    for keys in itertools.islice(CHOICES, 3):
        fitted = fit_preprocessor(prepared(claims, **keys), frame, memo=memo)
        fitted.transform(frame)
    assert calls == ["fit_transform", "transform"]
    remembered = fit_preprocessor(claims, frame, memo=memo).transform(frame)
    assert np.array_equal(plain, remembered, equal_nan=True)


def test_a_memo_stays_behind_when_a_preprocessor_goes_to_another_process(claims, frame):
    fitted = fit_preprocessor(claims, frame, memo=TextMemo())
    size = len(pickle.dumps(fitted))
    expected = fitted.transform(frame)
    assert len(pickle.dumps(fitted)) == size
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).transform(frame), expected, equal_nan=True)


def test_a_memo_tells_rows_and_settings_apart(claims, frame):
    memo = TextMemo()
    fewer = claims.model_copy(update={"features": claims.features.model_copy(update={"text_components": 2})})
    for spec, rows in ((claims, frame), (claims, frame.head(100)), (fewer, frame)):
        with_memo, without = (fit_preprocessor(spec, rows, memo=given).transform(frame) for given in (memo, None))
        assert np.array_equal(with_memo, without, equal_nan=True)


@pytest.mark.parametrize("method", ["importance", "correlation", "mutual_information", "permutation"])
def test_a_selection_becomes_part_of_the_preprocessor_and_of_its_storage(claims, frame, method):
    chosen = Selection(method=method, keep=2)
    spec = claims.model_copy(update={"features": claims.features.model_copy(update={"selection": chosen})})
    fitted = fit_preprocessor(spec, frame)
    stored = skops.io.loads(skops.io.dumps(fitted.parts()), trusted=TRUSTED_TYPES)
    read = Preprocessor(claims.feature_columns, **stored)
    assert set(fitted.features) == {"size", "text"}
    assert read.features == fitted.features
    assert np.array_equal(read.transform(frame), fitted.transform(frame), equal_nan=True)


def test_a_selection_does_not_depend_on_the_order_of_the_rows(claims, frame):
    chosen = Selection(method="permutation", keep=3)
    spec = claims.model_copy(update={"features": claims.features.model_copy(update={"selection": chosen})})
    forwards, backwards = (fit_preprocessor(spec, rows) for rows in (frame, frame.iloc[::-1]))
    assert set(forwards.features) == set(backwards.features)


def test_a_text_that_is_not_selected_is_neither_stored_nor_transformed(claims, frame):
    frame["text"] = "the same words"
    frame.loc[::2, "text"] = "other things"
    chosen = Selection(method="correlation", keep=1)
    spec = claims.model_copy(update={"features": claims.features.model_copy(update={"selection": chosen})})
    fitted = fit_preprocessor(spec, frame)
    assert fitted.features == ("size",)
    assert fitted.vectorizer is None
    assert np.array_equal(fitted.transform(frame)[:, 0], frame["size"].astype("float32"), equal_nan=True)


def test_the_selection_of_a_fold_does_not_know_the_rows_after_it(claims, frame):
    chosen = Selection(method="permutation", keep=3)
    spec = claims.model_copy(update={"features": claims.features.model_copy(update={"selection": chosen})})
    otherwise = frame.copy()
    otherwise.loc[150:, ["size", "label"]] = 99.0
    first, second = (fit_preprocessor(spec, rows.head(150)).transform(rows.head(150)) for rows in (frame, otherwise))
    assert np.array_equal(first, second, equal_nan=True)


@pytest.mark.parametrize("rows", [1, 2, 10])
@pytest.mark.parametrize("keys", CHOICES, ids=str)
def test_a_few_training_rows_are_enough_to_prepare_others(claims, frame, keys, rows):
    fitted = fit_preprocessor(prepared(claims, **keys), frame.head(rows))
    assert fitted.transform(frame).shape == (200, len(fitted.features))


@pytest.mark.parametrize("name", ["story_points", "lead_time", "rework_risk"])
def test_each_kind_of_label_finds_what_it_depends_on(specs, make_frame, name):
    spec = specs[name]
    chosen = Selection(method="importance", keep=2)
    spec = spec.model_copy(update={"features": spec.features.model_copy(update={"selection": chosen})})
    fitted = fit_preprocessor(spec, make_frame(spec, 300))
    assert set(fitted.features) == {spec.feature_columns.numeric[0], "text"}


def test_a_classifier_selects_by_its_classes(specs, make_frame):
    spec = specs["rework_risk"]
    chosen = Selection(method="mutual_information", keep=1)
    spec = spec.model_copy(update={"features": spec.features.model_copy(update={"selection": chosen, "text": []})})
    fitted = fit_preprocessor(spec, make_frame(spec, 300))
    assert fitted.features == (spec.feature_columns.numeric[0],)
