"""``FittedModel``: the predictor of one version, with saving to files and loading."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.intervals.conformal import NEAR, Interval, near_share
from ml_pipeline.training.intervals.online import Known, adaptive_interval
from ml_pipeline.training.learners.base import Params
from ml_pipeline.training.mixture_files import MIXTURE, load_mixture, write_mixture
from ml_pipeline.training.online.distributions import quantile, share_within
from ml_pipeline.training.online.mixture import Mixture, value_of
from ml_pipeline.training.predictor_files import VersionError, load_predictor, write_predictor
from ml_pipeline.training.selection.predictors import Predictor

FORMAT = 5
_VERSION_FILE = "version.json"


@dataclass(frozen=True)
class FittedModel:
    """A predictor with its baseline value, its prediction interval and the residuals that the interval comes from.

    ``candidate`` is its name in the model selection; ``residuals`` ascend, at most 400.
    """

    spec_name: str
    spec_hash: str
    task: Literal["regression", "binary"]
    candidate: str
    predictor: Predictor | Mixture
    baseline: float
    interval: Interval | None
    at_least: float | None
    at_most: float | None
    residuals: tuple[float, ...] = ()
    coverage: float = 0.9  # nominal, of the interval of a mixture
    params: Params | None = None  # of the declared estimator, if a search replaced the declared ones

    @classmethod
    def of(cls, spec: ModelSpec, candidate: str, predictor: Predictor | Mixture, baseline: float) -> FittedModel:
        """A model without an interval; its predictions are clipped to the label's range in the reported unit."""
        low, high = spec.label.above, spec.label.at_most
        return cls(
            spec_name=spec.name,
            spec_hash=spec.hash,
            task=spec.task,
            candidate=candidate,
            predictor=predictor,
            baseline=baseline,
            interval=None,
            coverage=spec.training.interval,
            at_least=None if low is None else low / spec.label.unit_size,
            at_most=None if high is None else high / spec.label.unit_size,
        )

    def predict(self, frame: pd.DataFrame, history: pd.DataFrame | None = None) -> pd.DataFrame:
        """Predictions for the rows of a feature frame, with its index.

        Parameters
        ----------
        frame
            The rows to predict.
        history
            Feature frame of the tenant with the outcomes since the training, from which a mixture takes those that were
            known the night before each row. Other predictors do not read it.

        Returns
        -------
        DataFrame
            float64 columns. ``value``, ``lower``, ``upper`` and ``baseline`` are in the reported unit and clipped to
            the label's range; ``lower`` and ``upper`` are NaN without an interval. ``confidence`` is a probability: of
            the likelier class for a binary model; that the outcome is within 20% of the value for a regression
            (:func:`~ml_pipeline.training.intervals.conformal.near_share`), NaN without residuals. A mixture gives
            interval and confidence itself.

        Raises
        ------
        ValueError
            If the frame lacks a column that the version was trained with.
        """
        if isinstance(self.predictor, Mixture):
            mixed = self.predictor.mixed(frame, history)
            return self.from_distributions(mixed.grid, mixed.mixture).set_axis(frame.index)
        value = self._inside(self.predictor.predict(frame))
        lower, upper = self.ends(value)
        columns = {"value": value, "lower": lower, "upper": upper, "baseline": np.full(len(frame), self.baseline)}
        confidence = np.full(len(frame), np.nan)
        if self.task == "binary":
            confidence = np.maximum(value, 1 - value)
        elif self.interval is not None:
            confidence = near_share(value, np.array(self.residuals), self.interval.scale)
        return pd.DataFrame(columns | {"confidence": confidence}, index=frame.index)

    def from_distributions(self, grid: np.ndarray, cumulative: np.ndarray) -> pd.DataFrame:
        """:meth:`predict` for distributions over ``grid``, float64 (rows, values)."""
        value = self._inside(value_of(self.task, grid, cumulative))
        if self.task == "binary":
            lower = upper = np.full(len(value), np.nan)
            confidence = np.maximum(value, 1 - value)
        else:
            tail = (1 - self.coverage) / 2
            lower, upper = (self._inside(quantile(grid, cumulative, share)) for share in (tail, 1 - tail))
            near = NEAR * np.abs(value)
            confidence = share_within(grid, cumulative, value - near, value + near)
        baseline = np.full(len(value), self.baseline)
        return pd.DataFrame(
            {"value": value, "lower": lower, "upper": upper, "baseline": baseline, "confidence": confidence}
        )

    def ends(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper end of the interval around each value; NaN without an interval."""
        if self.interval is None:
            return np.full(len(value), np.nan), np.full(len(value), np.nan)
        lower, upper = (self._inside(end) for end in self.interval.around(value))
        return lower, upper

    def adapted(self, known: Known, coverage: float) -> FittedModel:
        """A copy whose interval and residuals are adapted to the known outcomes of its predictions."""
        if self.interval is None:
            return self
        lowest = -np.inf if self.at_least is None else self.at_least
        highest = np.inf if self.at_most is None else self.at_most
        lower = np.where(known.lower <= lowest, -np.inf, known.lower)
        upper = np.where(known.upper >= highest, np.inf, known.upper)
        known = replace(known, lower=lower, upper=upper)
        interval, residuals = adaptive_interval(self.interval, np.array(self.residuals), known, coverage)
        return replace(self, interval=interval, residuals=tuple(residuals.tolist()))

    def save(self, folder: Path) -> None:
        """Write ``version.json`` and one file per learner and preprocessor into ``folder``, creating it if needed.

        A baseline needs ``version.json`` only. The files contain no pickles.
        """
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "format": FORMAT,
            "spec_name": self.spec_name,
            "spec_hash": self.spec_hash,
            "task": self.task,
            "candidate": self.candidate,
            "predictor": write_mixture(self.predictor, folder)
            if isinstance(self.predictor, Mixture)
            else write_predictor(self.predictor, folder),
            "baseline": self.baseline,
            "interval": None if self.interval is None else asdict(self.interval),
            "at_least": self.at_least,
            "at_most": self.at_most,
            "residuals": self.residuals,
            "coverage": self.coverage,
            "params": None if self.params is None else dict(self.params),
        }
        (folder / _VERSION_FILE).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> FittedModel:
        """Load the files that :meth:`save` wrote; predictions are equal bit for bit.

        Raises
        ------
        VersionError
            If a file is missing, has another format, or contains types that a preprocessor does not use.
        """
        path = folder / _VERSION_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise VersionError(
                    f"{path}: its format is {content['format']}, this release reads {FORMAT}. Retrain with this release"
                )
            return cls(
                spec_name=content["spec_name"],
                spec_hash=content["spec_hash"],
                task=content["task"],
                candidate=content["candidate"],
                predictor=_load(content["predictor"], folder),
                baseline=content["baseline"],
                interval=None if content["interval"] is None else Interval(**content["interval"]),
                at_least=content["at_least"],
                at_most=content["at_most"],
                residuals=tuple(content["residuals"]),
                coverage=content["coverage"],
                params=content.get("params"),
            )
        except (OSError, BadZipFile, ValueError, KeyError) as error:
            raise VersionError(
                f"{folder}: the files of the version are incomplete or damaged ({type(error).__name__}: {error}). "
                "Restore its artifacts or roll back"
            ) from error

    def _inside(self, values: np.ndarray) -> np.ndarray:
        if self.at_least is None and self.at_most is None:
            return values
        return np.asarray(np.clip(values, self.at_least, self.at_most))


def _load(settings: dict[str, Any], folder: Path) -> Predictor | Mixture:
    return load_mixture(settings, folder) if settings["kind"] == MIXTURE else load_predictor(settings, folder)
