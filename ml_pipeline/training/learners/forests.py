"""Random forests and histogram gradient boosting of scikit-learn, saved with skops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml_pipeline.training.errors import FitError
from ml_pipeline.training.learners.data import FitData

TRUSTED_TYPES = [
    "numpy.dtype",
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
]
"""Types, beyond skops' defaults, that these learners use. The list inside a file is not trusted."""
LEAST_SHARE = 1e-6
_SUFFIX = ".skops"
_FOREST = {"n_estimators": 100, "min_samples_leaf": 3, "max_features": 0.3}
_HISTOGRAM = {"max_iter": 100, "learning_rate": 0.05, "max_leaf_nodes": 15, "min_samples_leaf": 10}


@dataclass(frozen=True)
class SklearnTrees:
    """A fitted scikit-learn model; the margin of a classifier is the log odds of its probability."""

    model: Any

    @property
    def rounds(self) -> int:
        return int(getattr(self.model, "n_iter_", getattr(self.model, "n_estimators", 1)))

    def margin(self, matrix: np.ndarray) -> np.ndarray:
        if not hasattr(self.model, "predict_proba"):
            return np.asarray(self.model.predict(matrix), dtype="float64")
        share = np.clip(self.model.predict_proba(matrix)[:, 1], LEAST_SHARE, 1 - LEAST_SHARE)
        return np.asarray(np.log(share) - np.log1p(-share), dtype="float64")

    def gain(self) -> np.ndarray:
        """Mean decrease in impurity of a forest; zeros for histogram boosting, which does not store gains."""
        importances = getattr(self.model, "feature_importances_", None)
        return np.zeros(self.model.n_features_in_) if importances is None else np.asarray(importances, "float64")

    def contributions(self, matrix: np.ndarray) -> None:
        """None, because scikit-learn does not explain single predictions."""

    def continued(self, params: Mapping[str, Any], loss: str, data: FitData, rounds: int) -> SklearnTrees:
        """The learner itself, because neither of them can add trees that are fitted on other rows."""
        return self

    def save(self, folder: Path, name: str) -> None:
        import skops.io

        skops.io.dump(self.model, folder / f"{name}{_SUFFIX}")

    @classmethod
    def load(cls, path: Path) -> SklearnTrees:
        import skops.io

        return cls(skops.io.load(path, trusted=TRUSTED_TYPES))


def fit_sklearn_trees(name: str, params: Mapping[str, Any], loss: str, data: FitData) -> SklearnTrees:
    """Fit ``random_forest`` (Breiman 2001) or ``hist_gradient_boosting``, by squared error, or log loss if binary.

    Raises
    ------
    FitError
        If scikit-learn rejects a parameter or the data.
    """
    from sklearn.ensemble import (
        HistGradientBoostingClassifier,
        HistGradientBoostingRegressor,
        RandomForestClassifier,
        RandomForestRegressor,
    )

    binary = loss == "log_loss"
    if binary and len(np.unique(data.target)) < 2:
        raise FitError(f"{name}: every label is the same. Wait for labels of the other class")
    matrix, empty = data.matrix, np.isnan(data.matrix).all(axis=0)
    if empty.any():  # histogram boosting cannot bin a column without values; trees never split on one value
        matrix = np.where(empty, np.float32(0), matrix)
    try:
        if name == "random_forest":
            forest = RandomForestClassifier if binary else RandomForestRegressor
            model = forest(**(_FOREST | dict(params)), n_jobs=1, random_state=data.seed)
        else:
            histogram = HistGradientBoostingClassifier if binary else HistGradientBoostingRegressor
            model = histogram(**(_HISTOGRAM | dict(params)), early_stopping=False, random_state=data.seed)
        return SklearnTrees(model.fit(matrix, data.target, sample_weight=data.weight))
    except (ValueError, TypeError) as error:
        raise FitError(f"{name}: {error}. Correct training.candidates of the specification") from error
