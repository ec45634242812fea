"""Gradient-boosted trees of XGBoost and LightGBM: single-threaded, saved in the libraries' own formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_pipeline.training.errors import FitError
from ml_pipeline.training.learners.data import FitData

if TYPE_CHECKING:
    import lightgbm
    import xgboost

DEFAULT_ROUNDS = 100
# XGBoost's default of 256 bins triples the time for a tenant's few hundred rows; fewer bins with enough rows suffice.
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


@dataclass(frozen=True)
class BoostedTrees:
    """A booster of XGBoost or LightGBM."""

    booster: Any

    @property
    def _is_lightgbm(self) -> bool:
        return type(self.booster).__module__.startswith("lightgbm")

    @property
    def rounds(self) -> int:
        return int(self.booster.num_trees() if self._is_lightgbm else self.booster.num_boosted_rounds())

    def margin(self, matrix: np.ndarray) -> np.ndarray:
        if self._is_lightgbm:
            return np.asarray(self.booster.predict(matrix, raw_score=True, num_threads=1), dtype="float64")
        return np.asarray(self.booster.inplace_predict(matrix, predict_type="margin"), dtype="float64")

    def leaves(self, matrix: np.ndarray) -> np.ndarray:
        """Number of the leaf of each row in each tree, int32 (rows, trees); LightGBM only."""
        return np.asarray(self.booster.predict(matrix, pred_leaf=True, num_threads=1), dtype="int32")

    def gain(self) -> np.ndarray:
        """Sum of the gains of all splits on each column."""
        if self._is_lightgbm:
            return np.asarray(self.booster.feature_importance("gain"), dtype="float64")
        gain = np.zeros(self.booster.num_features())
        for name, value in self.booster.get_score(importance_type="total_gain").items():
            gain[int(name.removeprefix("f"))] = value
        return gain

    def contributions(self, matrix: np.ndarray) -> np.ndarray:
        """Shapley values of the trees (Lundberg et al. 2020), computed by the library."""
        if self._is_lightgbm:
            return np.asarray(self.booster.predict(matrix, pred_contrib=True, num_threads=1), dtype="float64")
        import xgboost

        data = xgboost.DMatrix(matrix, nthread=1)
        return np.asarray(self.booster.predict(data, pred_contribs=True), dtype="float64")

    def continued(self, params: Mapping[str, Any], loss: str, data: FitData, rounds: int) -> BoostedTrees:
        """A booster with ``rounds`` more trees, fitted on these rows on top of the existing trees."""
        fit = _fit_lightgbm if self._is_lightgbm else _fit_xgboost
        return BoostedTrees(fit(params, loss, data, rounds, self.booster))

    def save(self, folder: Path, name: str) -> None:
        self.booster.save_model(folder / f"{name}{_LIGHTGBM_SUFFIX if self._is_lightgbm else _XGBOOST_SUFFIX}")

    @classmethod
    def load(cls, path: Path) -> BoostedTrees:
        if path.name.endswith(_LIGHTGBM_SUFFIX):
            import lightgbm

            return cls(lightgbm.Booster(model_file=path))
        import xgboost

        return cls(xgboost.Booster({"nthread": 1}, model_file=path))


def fit_boosted(name: str, params: Mapping[str, Any], loss: str, data: FitData) -> BoostedTrees:
    """Fit ``xgboost`` or ``lightgbm``; see :func:`ml_pipeline.training.learners.base.fit_learner`."""
    fit = _fit_lightgbm if name == "lightgbm" else _fit_xgboost
    return BoostedTrees(fit(params, loss, data, declared_rounds(params), start=None))


def declared_rounds(params: Mapping[str, Any]) -> int:
    """Number of trees of a full fit."""
    return int(params.get("n_estimators", DEFAULT_ROUNDS))


def _fit_xgboost(params: Mapping[str, Any], loss: str, data: FitData, rounds: int, start: Any) -> xgboost.Booster:
    import xgboost

    settings = {name: value for name, value in params.items() if name != "n_estimators"}
    bins = int(settings.setdefault("max_bin", min(max(len(data.matrix) // ROWS_PER_BIN, MIN_BINS), MAX_BINS)))
    settings |= {"objective": _XGBOOST_LOSS[loss], "tree_method": "hist", "nthread": 1}
    settings |= {"seed": data.seed, "verbosity": 0}
    try:
        rows = xgboost.QuantileDMatrix(data.matrix, data.target, weight=data.weight, nthread=1, max_bin=bins)
        return xgboost.train(settings, rows, num_boost_round=rounds, xgb_model=start)
    except xgboost.core.XGBoostError as error:
        raise FitError(f"xgboost: {error}. Correct training.params of the specification") from error


def _fit_lightgbm(params: Mapping[str, Any], loss: str, data: FitData, rounds: int, start: Any) -> lightgbm.Booster:
    import lightgbm

    settings = {name: value for name, value in params.items() if name != "n_estimators"}
    settings |= {"objective": _LIGHTGBM_LOSS[loss], "num_threads": 1, "seed": data.seed, "verbosity": -1}
    settings |= {"deterministic": True, "force_col_wise": True}
    try:
        rows = lightgbm.Dataset(data.matrix, data.target, weight=data.weight)
        return lightgbm.train(settings, rows, num_boost_round=rounds, init_model=start)
    except lightgbm.basic.LightGBMError as error:
        raise FitError(f"lightgbm: {error}. Correct training.params of the specification") from error
