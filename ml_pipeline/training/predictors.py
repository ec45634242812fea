"""The candidates: a constant, boosters that predict a departure from an anchor, and a calibrated classifier."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from ml_pipeline.features.preprocessing import Preprocessor, fit_preprocessor
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.boosters import continue_booster, fit_booster, predict_margin, rounds_of

if TYPE_CHECKING:
    from ml_pipeline.training.boosters import Booster

Scale = Literal["identity", "log"]
ANCHOR = "history_recent_median"
WEIGHTS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Constant:
    """The same value for every entity."""

    value: float

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return np.full(len(frame), self.value)


@dataclass(frozen=True)
class AnchoredBoosters:
    """Mean of two boosters, each the anchor plus ``weight`` times the departure from it that the booster predicts.

    One anchor is the median of the training labels, the other each row's own ``history_recent_median``: the first is
    steady, the second follows a level that moves after training, and neither alone is safe for every tenant. The weight
    shrinks the boosters toward their anchors where a tenant has few or noisy labels. All on the scale of the target.
    """

    preprocessor: Preprocessor
    from_median: Booster
    from_recent: Booster
    median: float
    scale: Scale
    weight: float = 1.0

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return self.weighted(self.components(frame), self.weight)

    def components(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Anchor and predicted departure of each row, averaged over the two boosters, on the scale of the target."""
        matrix = self.preprocessor.transform(frame)
        departure = (predict_margin(self.from_median, matrix) + predict_margin(self.from_recent, matrix)) / 2
        anchor = to_scale(np.float64(self.median), self.scale) + recent_anchor(frame, self.median, self.scale)
        return anchor / 2, departure

    def weighted(self, components: tuple[np.ndarray, np.ndarray], weight: float) -> np.ndarray:
        """Values in the reported unit, from what :meth:`components` returned."""
        anchor, departure = components
        return from_scale(anchor + weight * departure, self.scale)

    @property
    def rounds(self) -> int:
        """Trees of each booster."""
        return rounds_of(self.from_median)

    def continued(self, spec: ModelSpec, frame: pd.DataFrame, rounds: int, seed: int) -> AnchoredBoosters:
        """Both boosters with more trees, fitted on ``frame``, whose median becomes the anchor; the weight stays."""
        median = float(frame["label"].median())
        matrix = self.preprocessor.transform(frame)
        target = to_scale(frame["label"].to_numpy(), self.scale)
        departures = (
            target - to_scale(np.float64(median), self.scale),
            target - recent_anchor(frame, median, self.scale),
        )
        from_median, from_recent = (
            continue_booster(booster, spec.training, matrix, departure, seed, rounds)
            for booster, departure in zip((self.from_median, self.from_recent), departures, strict=True)
        )
        return replace(self, from_median=from_median, from_recent=from_recent, median=median)

    def with_best_weight(self, frame: pd.DataFrame) -> AnchoredBoosters:
        """The same boosters with the weight of the lowest mean absolute error on ``frame``, the smallest of equals."""
        components = self.components(frame)
        label = frame["label"].to_numpy()
        errors = [np.abs(self.weighted(components, weight) - label).mean() for weight in WEIGHTS]
        return replace(self, weight=WEIGHTS[int(np.argmin(errors))])


@dataclass(frozen=True)
class CalibratedBooster:
    """Probability from a booster's log odds m: sigmoid(intercept + slope * m) (Platt 1999)."""

    preprocessor: Preprocessor
    booster: Booster
    intercept: float = 0.0
    slope: float = 1.0

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return _sigmoid(self.intercept + self.slope * self.margin(frame))

    def margin(self, frame: pd.DataFrame) -> np.ndarray:
        return predict_margin(self.booster, self.preprocessor.transform(frame))

    @property
    def rounds(self) -> int:
        """Trees of the booster."""
        return rounds_of(self.booster)

    def continued(self, spec: ModelSpec, frame: pd.DataFrame, rounds: int, seed: int) -> CalibratedBooster:
        """The booster with more trees, fitted on ``frame``; the calibration stays."""
        matrix = self.preprocessor.transform(frame)
        label = frame["label"].to_numpy()
        return replace(self, booster=continue_booster(self.booster, spec.training, matrix, label, seed, rounds))

    def calibrated(self, frame: pd.DataFrame) -> CalibratedBooster:
        """The same booster with the sigmoid fitted on ``frame``, if that lowers the Brier score out of sample.

        Judged by fitting on every other row and scoring the rest, both ways. The calibration is declined too where a
        half has one class only, or where the slope would turn the order of the predictions around.
        """
        margin, label = self.margin(frame), frame["label"].to_numpy()
        even = np.arange(len(label)) % 2 == 0
        halves = [_platt(margin[half], label[half]) for half in (even, ~even)]
        sigmoid = _platt(margin, label)
        if sigmoid is None or halves[0] is None or halves[1] is None:
            return self
        crossed = np.where(even, _apply(halves[1], margin), _apply(halves[0], margin))
        if np.mean((crossed - label) ** 2) >= np.mean((_sigmoid(margin) - label) ** 2):
            return self
        return replace(self, intercept=sigmoid[0], slope=sigmoid[1])


Predictor = Constant | AnchoredBoosters | CalibratedBooster


def fit_anchored(spec: ModelSpec, frame: pd.DataFrame, seed: int) -> AnchoredBoosters:
    """Fits preprocessing and both boosters on matured rows; the weight is 1 until it is chosen on other rows."""
    preprocessor = fit_preprocessor(spec, frame)
    matrix = preprocessor.transform(frame)
    label = frame["label"].to_numpy()
    median = float(np.median(label))
    scale = spec.training.target
    target = to_scale(label, scale)
    from_median = fit_booster(spec.training, matrix, target - to_scale(np.float64(median), scale), seed)
    from_recent = fit_booster(spec.training, matrix, target - recent_anchor(frame, median, scale), seed)
    return AnchoredBoosters(preprocessor, from_median, from_recent, median, scale)


def fit_classifier(spec: ModelSpec, frame: pd.DataFrame, seed: int) -> CalibratedBooster:
    """Fits preprocessing and booster on matured rows with labels 0 and 1; not calibrated yet."""
    preprocessor = fit_preprocessor(spec, frame)
    return CalibratedBooster(
        preprocessor, fit_booster(spec.training, preprocessor.transform(frame), frame["label"].to_numpy(), seed)
    )


def recent_anchor(frame: pd.DataFrame, fallback: float, scale: Scale) -> np.ndarray:
    """Each row's recent median of known labels, ``fallback`` where none was known, on the scale of the target."""
    return to_scale(frame[ANCHOR].fillna(fallback).to_numpy(dtype="float64"), scale)


def to_scale(values: np.ndarray | np.float64, scale: Scale) -> np.ndarray:
    """Reported unit to the scale that a learner sees."""
    return np.asarray(np.log1p(values) if scale == "log" else values, dtype="float64")


def from_scale(values: np.ndarray, scale: Scale) -> np.ndarray:
    """The inverse of :func:`to_scale`."""
    return np.expm1(values) if scale == "log" else values


def _platt(margin: np.ndarray, label: np.ndarray) -> tuple[float, float] | None:
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(label)) < 2:
        return None
    fitted = LogisticRegression(C=1e6).fit(margin[:, None], label)
    slope = float(fitted.coef_[0, 0])
    return (float(fitted.intercept_[0]), slope) if slope > 0 else None


def _apply(sigmoid: tuple[float, float], margin: np.ndarray) -> np.ndarray:
    return _sigmoid(sigmoid[0] + sigmoid[1] * margin)


def _sigmoid(margin: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return expit(margin)
