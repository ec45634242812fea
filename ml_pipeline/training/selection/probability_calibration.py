"""Calibration of probabilities: sigmoid, isotonic or temperature, selected on held-out rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ml_pipeline.stats import is_significant

Method = Literal["none", "temperature", "sigmoid", "isotonic"]
METHODS: tuple[Method, ...] = ("none", "temperature", "sigmoid", "isotonic")
FOLDS = 5
ISOTONIC_MIN_ROWS = 300
LEAST_PROBABILITY = 1e-4


@dataclass(frozen=True)
class Calibration:
    """Maps log odds x to sigmoid(intercept + slope x), or piecewise linearly between ``knots`` (isotonic)."""

    method: Method
    intercept: float = 0.0
    slope: float = 1.0
    knots: tuple[tuple[float, float], ...] = ()

    def probability(self, log_odds: np.ndarray) -> np.ndarray:
        """Float64 per row, strictly between 0 and 1."""
        from scipy.special import expit

        if self.method == "isotonic":
            positions, values = np.array(self.knots).T
            shares = np.interp(log_odds, positions, values)
            return np.asarray(np.clip(shares, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY))
        return np.asarray(expit(self.intercept + self.slope * log_odds))


def calibrate(
    log_odds: np.ndarray, label: np.ndarray, methods: tuple[Method, ...] = METHODS
) -> tuple[Calibration, np.ndarray]:
    """The calibration with the lowest Brier score, if it is significantly better than no calibration.

    The rows are split into five consecutive parts; each method is fitted on four parts and scored on the fifth. A
    calibration that only suits one period therefore fails. Significantly better means by more than one standard error
    of the paired difference. A method is excluded if it cannot be fitted on a part (one class only), if a sigmoid would
    reverse the order of the predictions, and ``isotonic`` with fewer than 300 rows, where it overfits (Niculescu-Mizil
    and Caruana 2005).

    Parameters
    ----------
    log_odds, label
        Float64 per row that the model was not fitted on, oldest first; labels are 0 and 1.
    methods
        Methods to compare.

    Returns
    -------
    Calibration
        Fitted on all rows; the identity if no method is significantly better.
    ndarray
        The out-of-sample probabilities of that calibration, float64 per row.

    References
    ----------
    Platt 1999 (sigmoid), Zadrozny and Elkan 2002 (isotonic), Guo et al. 2017 (temperature).
    """
    fold = np.arange(len(label)) * FOLDS // len(label)
    crossed: dict[Method, np.ndarray] = {"none": Calibration("none").probability(log_odds)}
    for method in methods:
        parts = [_fit(method, log_odds[fold != part], label[fold != part]) for part in range(FOLDS)]
        whole = _fit(method, log_odds, label)
        if whole is None or any(part is None for part in parts):
            continue
        held_out = np.empty(len(label))
        for part, fitted in enumerate(parts):
            assert fitted is not None
            held_out[fold == part] = fitted.probability(log_odds[fold == part])
        crossed[method] = held_out
    losses = {method: (held_out - label) ** 2 for method, held_out in crossed.items() if method in methods}
    ranked = sorted(losses, key=lambda method: (losses[method].mean(), METHODS.index(method)))
    best: Method = ranked[0] if ranked else "none"
    if "none" in losses:
        best = best if is_significant(losses["none"] - losses[best]) else "none"
    return _fit(best, log_odds, label) or Calibration("none"), crossed[best]


def _fit(method: Method, log_odds: np.ndarray, label: np.ndarray) -> Calibration | None:
    if method == "none":
        return Calibration("none")
    if len(np.unique(label)) < 2:
        return None
    match method:
        case "temperature":
            return _temperature(log_odds, label)
        case "sigmoid":
            return _sigmoid(log_odds, label)
        case "isotonic":
            return _isotonic(log_odds, label) if len(label) >= ISOTONIC_MIN_ROWS else None


def _temperature(log_odds: np.ndarray, label: np.ndarray) -> Calibration:
    from scipy.optimize import minimize_scalar
    from scipy.special import expit

    def loss(log_slope: float) -> float:
        share = np.clip(expit(np.exp(log_slope) * log_odds), 1e-12, 1 - 1e-12)
        return -float(np.mean(label * np.log(share) + (1 - label) * np.log1p(-share)))

    found = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded")
    return Calibration("temperature", slope=float(np.exp(found.x)))


def _sigmoid(log_odds: np.ndarray, label: np.ndarray) -> Calibration | None:
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=1e6).fit(log_odds[:, None], label)
    slope = float(fitted.coef_[0, 0])
    return Calibration("sigmoid", intercept=float(fitted.intercept_[0]), slope=slope) if slope > 0 else None


def _isotonic(log_odds: np.ndarray, label: np.ndarray) -> Calibration:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(log_odds, label)
    pairs = zip(fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist(), strict=True)
    return Calibration("isotonic", knots=tuple(pairs))
