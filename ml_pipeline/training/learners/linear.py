"""Linear models with a ridge penalty: least squares or logistic regression, saved as coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml_pipeline.training.errors import FitError
from ml_pipeline.training.learners.data import FitData, Matrix

ALPHA = 2.0
MAX_STEPS = 200
_SUFFIX = ".npz"


@dataclass(frozen=True, eq=False)
class Linear:
    """Margin = intercept + matrix @ coefficients. ``centre`` contains the training means, used for explanations."""

    coefficients: np.ndarray
    intercept: float
    centre: np.ndarray

    @property
    def rounds(self) -> int:
        return 1

    def margin(self, matrix: Matrix) -> np.ndarray:
        margin: np.ndarray = np.asarray(matrix @ self.coefficients, dtype="float64") + self.intercept
        return margin

    def gain(self) -> np.ndarray:
        """Absolute value of each coefficient; all columns are on the same scale."""
        return np.asarray(np.abs(self.coefficients))

    def contributions(self, matrix: Matrix) -> np.ndarray:
        """Coefficient times distance from the mean: the Shapley values of a linear model."""
        dense = np.asarray(matrix.todense() if hasattr(matrix, "todense") else matrix, dtype="float64")
        base = np.full((len(dense), 1), self.intercept + float(self.centre @ self.coefficients))
        return np.hstack([(dense - self.centre) * self.coefficients, base])

    def continued(self, params: Mapping[str, Any], loss: str, data: FitData, rounds: int) -> Linear:
        """The model after one Newton step on these rows, with the ridge penalty on the change of the coefficients.

        For least squares this is the ridge solution with the old coefficients as prior mean; for logistic regression
        it is one step of iteratively reweighted least squares.
        """
        margin = self.margin(data.matrix)
        if loss == "log_loss":
            share = 1 / (1 + np.exp(-margin))
            weight = np.maximum(share * (1 - share), 1e-3)
            step = _ridge(params, data.matrix, (data.target - share) / weight, weight)
        else:
            step = _ridge(params, data.matrix, data.target - margin, None)
        return Linear(self.coefficients + step.coef_, self.intercept + float(step.intercept_), self.centre)

    def save(self, folder: Path, name: str) -> None:
        path = folder / f"{name}{_SUFFIX}"
        intercept = np.array(self.intercept)
        np.savez(path, coefficients=self.coefficients, intercept=intercept, centre=self.centre, allow_pickle=False)

    @classmethod
    def load(cls, path: Path) -> Linear:
        with np.load(path, allow_pickle=False) as stored:
            return cls(stored["coefficients"], float(stored["intercept"]), stored["centre"])


def fit_linear(params: Mapping[str, Any], loss: str, data: FitData) -> Linear:
    """Ridge regression (Hoerl and Kennard 1970), or logistic regression with the same penalty for ``log_loss``.

    ``params`` may contain ``alpha``, the weight of the penalty, by default 2.

    Raises
    ------
    FitError
        If a parameter is unknown, ``alpha`` is not positive, or a logistic regression gets labels of one class only.
    """
    from sklearn.linear_model import LogisticRegression

    unknown = set(params) - {"alpha"}
    if unknown:
        raise FitError(f"linear: unknown parameter {sorted(unknown)}; it takes 'alpha'. Correct training.candidates")
    if loss == "log_loss":
        if len(np.unique(data.target)) < 2:
            raise FitError("linear: every label is the same. Wait for labels of the other class")
        logistic = LogisticRegression(C=1 / _alpha(params), max_iter=MAX_STEPS)
        fitted = logistic.fit(data.matrix, data.target, sample_weight=data.weight)
        coefficients, intercept = fitted.coef_[0], float(fitted.intercept_[0])
    else:
        fitted = _ridge(params, data.matrix, data.target, data.weight)
        coefficients, intercept = fitted.coef_, float(fitted.intercept_)
    centre = np.asarray(data.matrix.mean(axis=0), dtype="float64").ravel()
    return Linear(np.asarray(coefficients, dtype="float64"), intercept, centre)


def _alpha(params: Mapping[str, Any]) -> float:
    alpha = params.get("alpha", ALPHA)
    if not isinstance(alpha, int | float) or not alpha > 0:
        raise FitError(f"linear: alpha is {alpha!r}, not a positive number. Correct training.candidates")
    return float(alpha)


def _ridge(params: Mapping[str, Any], matrix: Matrix, target: np.ndarray, weight: np.ndarray | None) -> Any:
    from sklearn.linear_model import Ridge

    return Ridge(_alpha(params)).fit(matrix, target, sample_weight=weight)
