"""Preparation of numeric columns: outliers, missing values, scale, and columns that flag them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ml_pipeline.specs.names import IS_MISSING, IS_OUTLIER
from ml_pipeline.specs.preprocessing import Settled

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest
    from sklearn.impute import MissingIndicator
    from sklearn.pipeline import Pipeline

CAP_SHARE = 0.01
NEIGHBOURS = 5
ITERATIONS = 10


class Numbers(NamedTuple):
    """The fitted steps for numeric columns; a step that the specification does not use is None.

    ``bounds`` (2 x columns) caps values, ``logs`` takes their signed logarithms, ``filling`` imputes and scales,
    ``indicator`` flags missing values and ``forest`` unusual rows (isolation forest, Liu, Ting and Zhou 2008).
    """

    bounds: np.ndarray | None = None
    filling: Pipeline | None = None
    indicator: MissingIndicator | None = None
    forest: IsolationForest | None = None
    logs: bool = False

    def transform(self, values: np.ndarray) -> np.ndarray:
        """The columns, then a flag per column that had missing values in training, then the outlier flag."""
        capped = _capped(values, self.bounds, self.logs)
        parts = [capped if self.filling is None else self.filling.transform(capped)]
        if self.indicator is not None:
            parts.append(self.indicator.transform(values))
        if self.forest is not None:
            parts.append(self.forest.predict(values)[:, None] < 0)
        return np.hstack([part.astype("float32", copy=False) for part in parts])

    def names(self, columns: list[str]) -> list[str]:
        """Names of the columns that :meth:`transform` returns for ``columns``."""
        flagged = [] if self.indicator is None else [columns[number] for number in self.indicator.features_]
        return [
            *columns,
            *(f"{name}{IS_MISSING}" for name in flagged),
            *([IS_OUTLIER] if self.forest is not None else []),
        ]


def fit_numbers(chosen: Settled, values: np.ndarray, for_linear: bool, seed: int) -> Numbers:
    """Steps fitted on ``values`` (rows x columns, NaN for missing).

    If missing values are filled, a column without any value in training is filled with 0.
    """
    from sklearn.ensemble import IsolationForest
    from sklearn.impute import MissingIndicator

    bounds = _bounds(values, CAP_SHARE) if chosen.outliers == "cap" else _bounds(values, 0.0) if for_linear else None
    indicator = MissingIndicator(error_on_new=False).fit(values) if chosen.missing_indicator else None
    return Numbers(
        bounds=bounds,
        logs=for_linear,
        filling=_fit_filling(chosen, _capped(values, bounds, for_linear), for_linear, seed),
        indicator=indicator if indicator is not None and len(indicator.features_) else None,
        forest=IsolationForest(random_state=seed).fit(values) if chosen.outlier_flag else None,
    )


def _capped(values: np.ndarray, bounds: np.ndarray | None, logs: bool) -> np.ndarray:
    capped = values if bounds is None else np.clip(values, *bounds)
    return np.sign(capped) * np.log1p(np.abs(capped)) if logs else capped


def _bounds(values: np.ndarray, share: float) -> np.ndarray:
    """Lower and upper quantile of each column, ``share`` from either end; infinite for a column without values.

    With ``share`` 0 they are the column's range. Linear models are limited to it, because they would extrapolate a
    line fitted on a part of the values, such as some months of a year.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        low, high = np.nanquantile(values, [share, 1 - share], axis=0)
    return np.stack([np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)])


def _fit_filling(chosen: Settled, values: np.ndarray, for_linear: bool, seed: int) -> Pipeline | None:
    """Fitted scaler and imputer, in the order that the imputer needs; None without either.

    KNN and regression imputers need scaled columns; ``fill_value`` is in the original unit of each column.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import RobustScaler, StandardScaler

    scaler = None
    if chosen.outliers == "robust":
        scaler = RobustScaler()
    elif for_linear or chosen.missing in ("knn", "iterative"):
        scaler = StandardScaler()
    steps = [("scale", scaler), ("impute", _imputer(chosen, seed))]
    if chosen.missing == "constant":
        steps.reverse()
    used = [(name, step) for name, step in steps if step is not None]
    if not used:
        return None
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # a column without values has no mean
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten iterations are intended
        warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
        return Pipeline(used).fit(values)


def _imputer(chosen: Settled, seed: int) -> Any:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401 (the import enables IterativeImputer)
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    match chosen.missing:
        case "constant":
            return SimpleImputer(strategy="constant", fill_value=chosen.fill_value, keep_empty_features=True)
        case "median":
            return SimpleImputer(strategy="median", keep_empty_features=True)
        case "knn":
            return KNNImputer(n_neighbors=NEIGHBOURS, keep_empty_features=True)
        case "iterative":
            return IterativeImputer(max_iter=ITERATIONS, random_state=seed, keep_empty_features=True)
    return None
