"""The interface of all learners: fit on a matrix, predict margins, continue, explain, save to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np

from ml_pipeline.training.learners.boosters import BoostedTrees, fit_boosted
from ml_pipeline.training.learners.data import FitData, Matrix
from ml_pipeline.training.learners.forests import SklearnTrees, fit_sklearn_trees
from ml_pipeline.training.learners.linear import Linear, fit_linear

Params = Mapping[str, float | int | str]
BOOSTERS = ("xgboost", "lightgbm")
SQUARED = ("hist_gradient_boosting", "random_forest", "linear")
"""Learners that always fit a regression by squared error, whatever loss the specification has."""


class Learner(Protocol):
    """A fitted learner. Margins are on the scale of the target, or log odds if the loss is ``log_loss``."""

    @property
    def rounds(self) -> int:
        """Number of trees; 1 for a learner without trees."""

    def margin(self, matrix: Matrix) -> np.ndarray:
        """Raw prediction, one float64 per row."""

    def gain(self) -> np.ndarray:
        """Importance of each column, float64, comparable within this learner only."""

    def contributions(self, matrix: Matrix) -> np.ndarray | None:
        """Contributions to the margin, float64 (rows x columns + 1), the last column being the base value.

        Each row sums to the margin. None if the learner does not explain single predictions.
        """

    def continued(self, params: Params, loss: str, data: FitData, rounds: int) -> Self:
        """A new learner that continues from this one with more rows; this one does not change."""

    def save(self, folder: Path, name: str) -> None:
        """Write one file, without a pickle."""


_LOADERS: dict[str, Callable[[Path], Learner]] = {
    ".ubj": BoostedTrees.load,
    ".lgb.txt": BoostedTrees.load,
    ".npz": Linear.load,
    ".skops": SklearnTrees.load,
}


def wants(name: str) -> Literal["trees", "linear"]:
    """The kind of matrix that the learner takes."""
    return "linear" if name == "linear" else "trees"


def fit_learner(name: str, params: Params, loss: str, data: FitData) -> Learner:
    """Fit the learner called ``name``; deterministic bit for bit for a seed.

    Parameters
    ----------
    params
        Parameters by the library's own names.
    loss
        ``training.loss`` of the specification.
    data
        Training rows and seed.

    Raises
    ------
    FitError
        If the library rejects a parameter or the data.
    """
    if name in BOOSTERS:
        return fit_boosted(name, params, loss, data)
    if name == "linear":
        return fit_linear(params, loss, data)
    return fit_sklearn_trees(name, params, loss, data)


def load_learner(folder: Path, name: str) -> Learner:
    """Load the learner that ``save`` wrote as ``name``.

    Raises
    ------
    FileNotFoundError
        If the folder does not contain it.
    """
    for suffix, load in _LOADERS.items():
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return load(path)
    raise FileNotFoundError(f"{folder} contains no file {name} with one of the suffixes {', '.join(_LOADERS)}")
