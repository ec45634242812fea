"""Gradient-boosted trees of XGBoost and LightGBM: single-threaded, saved in the libraries' own formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_pipeline.training.errors import FitError

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

    def continued(
        self,
        params: Mapping[str, Any],
        loss: str,
        matrix: np.ndarray,
        target: np.ndarray,
        seed: int,
        rounds: int,
    ) -> BoostedTrees:
        """A booster with ``rounds`` more trees, fitted on these rows on top of the existing trees."""
        name = "lightgbm" if self._is_lightgbm else "xgboost"
        return _fit(name, params, loss, matrix, target, seed, None, start=self.booster, rounds=rounds)

    def save(self, folder: Path, name: str) -> None:
        self.booster.save_model(folder / f"{name}{_LIGHTGBM_SUFFIX if self._is_lightgbm else _XGBOOST_SUFFIX}")

    @classmethod
    def load(cls, path: Path) -> BoostedTrees:
        if path.name.endswith(_LIGHTGBM_SUFFIX):
            import lightgbm

            return cls(lightgbm.Booster(model_file=path))
        import xgboost

        return cls(xgboost.Booster({"nthread": 1}, model_file=path))


def fit_boosted(
    name: str,
    params: Mapping[str, Any],
    loss: str,
    matrix: np.ndarray,
    target: np.ndarray,
    seed: int,
    weight: np.ndarray | None = None,
) -> BoostedTrees:
    """Fit ``xgboost`` or ``lightgbm``; see :func:`ml_pipeline.training.learners.base.fit_learner`."""
    return _fit(name, params, loss, matrix, target, seed, weight, start=None, rounds=declared_rounds(params))


def declared_rounds(params: Mapping[str, Any]) -> int:
    """Number of trees of a full fit."""
    return int(params.get("n_estimators", DEFAULT_ROUNDS))


def _fit(
    name: str,
    params: Mapping[str, Any],
    loss: str,
    matrix: np.ndarray,
    target: np.ndarray,
    seed: int,
    weight: np.ndarray | None,
    start: Any,
    rounds: int,
) -> BoostedTrees:
    settings = {key: value for key, value in params.items() if key != "n_estimators"}
    fit = _fit_xgboost if name == "xgboost" else _fit_lightgbm
    return BoostedTrees(fit(settings, loss, rounds, matrix, target, seed, weight, start))


def _fit_xgboost(
    params: dict[str, Any],
    loss: str,
    rounds: int,
    matrix: np.ndarray,
    target: np.ndarray,
    seed: int,
    weight: np.ndarray | None,
    start: Any,
) -> xgboost.Booster:
    import xgboost

    params |= {"objective": _XGBOOST_LOSS[loss], "tree_method": "hist", "nthread": 1, "seed": seed, "verbosity": 0}
    bins = int(params.setdefault("max_bin", min(max(len(matrix) // ROWS_PER_BIN, MIN_BINS), MAX_BINS)))
    try:
        data = xgboost.QuantileDMatrix(matrix, target, weight=weight, nthread=1, max_bin=bins)
        return xgboost.train(params, data, num_boost_round=rounds, xgb_model=start)
    except xgboost.core.XGBoostError as error:
        raise FitError(f"xgboost: {error}. Correct training.params of the specification") from error


def _fit_lightgbm(
    params: dict[str, Any],
    loss: str,
    rounds: int,
    matrix: np.ndarray,
    target: np.ndarray,
    seed: int,
    weight: np.ndarray | None,
    start: Any,
) -> lightgbm.Booster:
    import lightgbm

    params |= {"objective": _LIGHTGBM_LOSS[loss], "num_threads": 1, "seed": seed, "verbosity": -1}
    params |= {"deterministic": True, "force_col_wise": True}
    try:
        data = lightgbm.Dataset(matrix, target, weight=weight)
        return lightgbm.train(params, data, num_boost_round=rounds, init_model=start)
    except lightgbm.basic.LightGBMError as error:
        raise FitError(f"lightgbm: {error}. Correct training.params of the specification") from error
