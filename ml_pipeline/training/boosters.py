"""The declared learners behind one interface, by their native libraries: single-threaded, stored as native files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_pipeline.specs.model_spec import Training

if TYPE_CHECKING:
    import lightgbm
    import xgboost

    Booster = xgboost.Booster | lightgbm.Booster

# XGBoost always takes 256 bins, which triples the cost of a tenant's few hundred rows; a bin wants some rows in it.
ROWS_PER_BIN = 16
MIN_BINS, MAX_BINS = 32, 256
_XGBOOST_SUFFIX = ".ubj"
_LIGHTGBM_SUFFIX = ".lgb.txt"
_XGBOOST_LOSS = {
    "absolute_error": "reg:absoluteerror",
    "squared_error": "reg:squarederror",
    "log_loss": "binary:logistic",
}
_LIGHTGBM_LOSS = {"absolute_error": "regression_l1", "squared_error": "regression", "log_loss": "binary"}


class FitError(ValueError):
    """The library refused to fit; the message names the estimator and says what the library said."""


def fit_booster(training: Training, matrix: np.ndarray, target: np.ndarray, seed: int) -> Booster:
    """The estimator that the specification declares, with its parameters; the same bits for the same seed.

    ``matrix`` is float32 (rows x columns, NaN for missing); ``target`` float64, on the scale that is to be predicted.

    Raises
    ------
    FitError
        If the library refuses a parameter or the data.
    """
    return _fit(training, matrix, target, seed, start=None, rounds=declared_rounds(training))


def continue_booster(
    booster: Booster, training: Training, matrix: np.ndarray, target: np.ndarray, seed: int, rounds: int
) -> Booster:
    """``booster`` with ``rounds`` more trees, fitted on these rows where its own trees leave off; it stays as it is.

    The rows need not be those that it was fitted on. Arguments and errors as in :func:`fit_booster`.
    """
    return _fit(training, matrix, target, seed, start=booster, rounds=rounds)


def declared_rounds(training: Training) -> int:
    """Trees of a full fit."""
    return int(training.params.get("n_estimators", 100))


def rounds_of(booster: Booster) -> int:
    """Trees that a booster consists of."""
    return _rounds(booster)


def _rounds(booster: Any) -> int:
    return int(booster.num_trees() if _is_lightgbm(booster) else booster.num_boosted_rounds())


def _fit(training: Training, matrix: np.ndarray, target: np.ndarray, seed: int, start: Any, rounds: int) -> Booster:
    params: dict[str, Any] = dict(training.params)
    params.pop("n_estimators", None)
    fit = _fit_xgboost if training.estimator == "xgboost" else _fit_lightgbm
    return fit(params, training.loss, rounds, matrix, target, seed, start)


def _fit_xgboost(
    params: dict[str, Any], loss: str, rounds: int, matrix: np.ndarray, target: np.ndarray, seed: int, start: Any
) -> xgboost.Booster:
    import xgboost

    params |= {"objective": _XGBOOST_LOSS[loss], "tree_method": "hist", "nthread": 1, "seed": seed, "verbosity": 0}
    bins = int(params.setdefault("max_bin", min(max(len(matrix) // ROWS_PER_BIN, MIN_BINS), MAX_BINS)))
    try:
        data = xgboost.QuantileDMatrix(matrix, target, nthread=1, max_bin=bins)
        return xgboost.train(params, data, num_boost_round=rounds, xgb_model=start)
    except xgboost.core.XGBoostError as error:
        raise FitError(f"xgboost: {error}. Correct training.params of the specification") from error


def _fit_lightgbm(
    params: dict[str, Any], loss: str, rounds: int, matrix: np.ndarray, target: np.ndarray, seed: int, start: Any
) -> lightgbm.Booster:
    import lightgbm

    params |= {"objective": _LIGHTGBM_LOSS[loss], "num_threads": 1, "seed": seed, "verbosity": -1}
    params |= {"deterministic": True, "force_col_wise": True}
    try:
        return lightgbm.train(params, lightgbm.Dataset(matrix, target), num_boost_round=rounds, init_model=start)
    except lightgbm.basic.LightGBMError as error:
        raise FitError(f"lightgbm: {error}. Correct training.params of the specification") from error


def predict_margin(booster: Booster, matrix: np.ndarray) -> np.ndarray:
    """One float64 per row on the scale of the target; the log odds where the loss is log_loss."""
    return np.asarray(_margin(booster, matrix), dtype="float64")


def _margin(booster: Any, matrix: np.ndarray) -> Any:
    if _is_lightgbm(booster):
        return booster.predict(matrix, raw_score=True, num_threads=1)
    return booster.inplace_predict(matrix, predict_type="margin")


def total_gain(booster: Booster) -> np.ndarray:
    """Sum over all splits on each column of the matrix of what they gained, float64, one per column."""
    return np.asarray(_gain(booster), dtype="float64")


def _gain(booster: Any) -> Any:
    if _is_lightgbm(booster):
        return booster.feature_importance("gain")
    gain = np.zeros(booster.num_features())
    for name, value in booster.get_score(importance_type="total_gain").items():
        gain[int(name.removeprefix("f"))] = value
    return gain


def save_booster(booster: Booster, folder: Path, name: str) -> None:
    """Writes the library's own file, ``<name>.ubj`` or ``<name>.lgb.txt``."""
    booster.save_model(folder / f"{name}{_LIGHTGBM_SUFFIX if _is_lightgbm(booster) else _XGBOOST_SUFFIX}")


def load_booster(folder: Path, name: str) -> Booster:
    """Reads what :func:`save_booster` wrote.

    Raises
    ------
    FileNotFoundError
        If the folder holds neither file.
    """
    if (path := folder / f"{name}{_LIGHTGBM_SUFFIX}").is_file():
        import lightgbm

        return lightgbm.Booster(model_file=path)
    if (path := folder / f"{name}{_XGBOOST_SUFFIX}").is_file():
        import xgboost

        return xgboost.Booster({"nthread": 1}, model_file=path)
    raise FileNotFoundError(f"neither {name}{_XGBOOST_SUFFIX} nor {name}{_LIGHTGBM_SUFFIX}")


def _is_lightgbm(booster: Booster) -> bool:
    return type(booster).__module__.startswith("lightgbm")
