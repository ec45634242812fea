"""``FittedModel``: the predictor of one version, with saving to files and loading."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from ml_pipeline.features.encoding.preprocessing import Preprocessor
from ml_pipeline.specs import FeatureColumns, ModelSpec
from ml_pipeline.training.intervals.conformal import Interval, near_share
from ml_pipeline.training.intervals.online import Known, adaptive_interval
from ml_pipeline.training.learners.base import Params, load_learner
from ml_pipeline.training.selection.ensembles import OFFSETS
from ml_pipeline.training.selection.predictors import Baseline, Ensemble, Member, Predictor
from ml_pipeline.training.selection.probability_calibration import Calibration

FORMAT = 4
# Types, beyond skops' defaults, that a stored preprocessor may contain. The list inside a file is not trusted.
TRUSTED_TYPES = [
    "numpy.dtype",
    "sklearn.impute._iterative.IterativeImputer",
    "sklearn.impute._iterative._ImputerTriplet",
    "sklearn.tree._tree.Tree",
]
_VERSION_FILE = "version.json"


class VersionError(Exception):
    """The files of a version cannot be loaded; the message names the file, the fault and the remedy."""


@dataclass(frozen=True)
class FittedModel:
    """A predictor with its baseline value, its prediction interval and the residuals that the interval comes from.

    ``candidate`` is its name in the model selection; ``residuals`` ascend, at most 400.
    """

    spec_name: str
    spec_hash: str
    task: Literal["regression", "binary"]
    candidate: str
    predictor: Predictor
    baseline: float
    interval: Interval | None
    at_least: float | None
    at_most: float | None
    residuals: tuple[float, ...] = ()
    params: Params | None = None  # of the declared estimator, if a search replaced the declared ones

    @classmethod
    def of(cls, spec: ModelSpec, candidate: str, predictor: Predictor, baseline: float) -> FittedModel:
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
            at_least=None if low is None else low / spec.label.unit_size,
            at_most=None if high is None else high / spec.label.unit_size,
        )

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Predictions for the rows of a feature frame, with its index.

        Returns
        -------
        DataFrame
            float64 columns. ``value``, ``lower``, ``upper`` and ``baseline`` are in the reported unit and clipped to
            the label's range; ``lower`` and ``upper`` are NaN without an interval. ``confidence`` is a probability: of
            the likelier class for a binary model; that the outcome is within 20% of the value for a regression
            (:func:`~ml_pipeline.training.intervals.conformal.near_share`), NaN without residuals.

        Raises
        ------
        ValueError
            If the frame lacks a column that the version was trained with.
        """
        value = self._inside(self.predictor.predict(frame))
        lower, upper = self.ends(value)
        columns = {"value": value, "lower": lower, "upper": upper, "baseline": np.full(len(frame), self.baseline)}
        return pd.DataFrame(columns | {"confidence": self._confidence(value)}, index=frame.index)

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
        lowest, highest = (
            (-np.inf if self.at_least is None else self.at_least),
            (np.inf if self.at_most is None else self.at_most),
        )
        lower = np.where(known.lower <= lowest, -np.inf, known.lower)
        upper = np.where(known.upper >= highest, np.inf, known.upper)
        known = replace(known, lower=lower, upper=upper)
        interval, residuals = adaptive_interval(self.interval, np.array(self.residuals), known, coverage)
        return replace(self, interval=interval, residuals=tuple(residuals.tolist()))

    def _confidence(self, value: np.ndarray) -> np.ndarray:
        if self.task == "binary":
            return np.maximum(value, 1 - value)
        if self.interval is None:
            return np.full(len(value), np.nan)
        return near_share(value, np.array(self.residuals), self.interval.scale)

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
            "predictor": _write_predictor(self.predictor, folder),
            "baseline": self.baseline,
            "interval": None if self.interval is None else asdict(self.interval),
            "at_least": self.at_least,
            "at_most": self.at_most,
            "residuals": self.residuals,
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
                predictor=_load_predictor(content["predictor"], folder),
                baseline=content["baseline"],
                interval=None if content["interval"] is None else Interval(**content["interval"]),
                at_least=content["at_least"],
                at_most=content["at_most"],
                residuals=tuple(content["residuals"]),
                params=content.get("params"),
            )
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise VersionError(
                f"{folder}: the files of the version are incomplete or damaged ({type(error).__name__}: {error}). "
                "Restore its artifacts or roll back"
            ) from error

    def _inside(self, values: np.ndarray) -> np.ndarray:
        if self.at_least is None and self.at_most is None:
            return values
        return np.clip(values, self.at_least, self.at_most)


def _write_predictor(predictor: Predictor, folder: Path) -> dict[str, Any]:
    """Write the files of an ensemble and return the entry of the predictor in ``version.json``."""
    if isinstance(predictor, Baseline):
        return {"kind": "baseline", "value": predictor.value}
    for kind, preprocessor in predictor.preprocessors.items():
        _save_preprocessor(preprocessor, folder / f"preprocess-{kind}.skops")
    members = []
    for number, member in enumerate(predictor.members):
        if member.learner is not None:
            member.learner.save(folder, f"member-{number}")
        members.append({"candidate": member.candidate, "offset": member.offset, "scale": member.scale})
    calibration = predictor.calibration
    return {
        "kind": "ensemble",
        "members": members,
        "weights": predictor.weights.tolist(),
        "combine": predictor.combine,
        "median": predictor.median,
        "ceiling": predictor.ceiling if np.isfinite(predictor.ceiling) else None,
        "calibration": None if calibration is None else asdict(calibration),
        "columns": {kind: fitted.columns._asdict() for kind, fitted in predictor.preprocessors.items()},
    }


def _load_predictor(settings: dict[str, Any], folder: Path) -> Predictor:
    if settings["kind"] == "baseline":
        return Baseline(settings["value"])
    preprocessors = {
        kind: _load_preprocessor(
            folder / f"preprocess-{kind}.skops", FeatureColumns(**{key: tuple(names) for key, names in columns.items()})
        )
        for kind, columns in settings["columns"].items()
    }
    members = tuple(
        Member(**member, learner=None if member["candidate"] in OFFSETS else load_learner(folder, f"member-{n}"))
        for n, member in enumerate(settings["members"])
    )
    calibration = settings["calibration"]
    if calibration is not None:
        calibration["knots"] = tuple(tuple(knot) for knot in calibration["knots"])
    return Ensemble(
        preprocessors=preprocessors,
        members=members,
        weights=np.array(settings["weights"]),
        combine=settings["combine"],
        median=settings["median"],
        ceiling=np.inf if settings["ceiling"] is None else settings["ceiling"],
        calibration=None if calibration is None else Calibration(**calibration),
    )


def _save_preprocessor(preprocessor: Preprocessor, path: Path) -> None:
    import skops.io

    skops.io.dump(preprocessor.parts(), path, compression=zipfile.ZIP_DEFLATED, compresslevel=1)


def _load_preprocessor(path: Path, columns: FeatureColumns) -> Preprocessor:
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return Preprocessor(columns, **skops.io.load(path, trusted=TRUSTED_TYPES))
    except UntrustedTypesFoundException as error:
        raise VersionError(
            f"{path}: contains types that a preprocessor does not use ({error}). Do not load it; find out who wrote it"
        ) from error
