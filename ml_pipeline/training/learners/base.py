"""Every learner behind one interface: fitted on a matrix, asked for margins, continued, explained, stored as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ml_pipeline.training.learners.boosters import BoostedTrees, fit_boosted
from ml_pipeline.training.learners.forests import SklearnTrees, fit_sklearn_trees
from ml_pipeline.training.learners.linear import Linear, fit_linear

Params = Mapping[str, float | int | str]
Matrix = Any
"""Float32 ndarray (rows x columns, NaN for missing) for trees; the same without NaN, or scipy's CSR, for ``linear``."""

BOOSTERS = ("xgboost", "lightgbm")
SQUARED = ("hist_gradient_boosting", "random_forest", "linear")
"""Learners that fit a regression by squared error, whatever the specification's loss is."""


class Learner(Protocol):
    """A fitted learner. Margins are on the scale of the target, or log odds where the loss is ``log_loss``."""

    @property
    def rounds(self) -> int:
        """Trees; 1 for what has none."""

    def margin(self, matrix: Matrix) -> np.ndarray:
        """One float64 per row."""

    def gain(self) -> np.ndarray:
        """What each column is worth to it, float64, in a unit of its own."""

    def contributions(self, matrix: Matrix) -> np.ndarray | None:
        """Float64, rows x (columns + 1), summing to the margin, the last being the base; None if it has none."""

    def continued(self, params: Params, loss: str, matrix: Matrix, target: np.ndarray, seed: int, rounds: int) -> Any:
        """The learner after more rows; it stays as it is."""

    def save(self, folder: Path, name: str) -> None:
        """Writes one file, never a pickle."""


_LOADERS: dict[str, Callable[[Path], Learner]] = {
    ".ubj": BoostedTrees.load,
    ".lgb.txt": BoostedTrees.load,
    ".npz": Linear.load,
    ".skops": SklearnTrees.load,
}


def wants(name: str) -> Literal["trees", "linear"]:
    """Which of the two matrices the learner takes."""
    return "linear" if name == "linear" else "trees"


def fit_learner(
    name: str,
    params: Params,
    loss: str,
    matrix: Matrix,
    target: np.ndarray,
    seed: int,
    weight: np.ndarray | None = None,
) -> Learner:
    """The learner of that name; the same bits for the same seed.

    Parameters
    ----------
    target
        Float64 per row, on the scale that is to be predicted; 0 and 1 for ``log_loss``.
    weight
        Positive float64 per row, 1 each where None.

    Raises
    ------
    FitError
        If the library refuses a parameter or the data.
    """
    if name in BOOSTERS:
        return fit_boosted(name, params, loss, matrix, target, seed, weight)
    if name == "linear":
        return fit_linear(params, loss, matrix, target, weight)
    return fit_sklearn_trees(name, params, loss, matrix, target, seed, weight)


def load_learner(folder: Path, name: str) -> Learner:
    """Reads what ``save`` wrote under the name.

    Raises
    ------
    FileNotFoundError
        If the folder holds no such file.
    """
    for suffix, load in _LOADERS.items():
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return load(path)
    raise FileNotFoundError(f"no {name} with any of the suffixes {', '.join(_LOADERS)}")
