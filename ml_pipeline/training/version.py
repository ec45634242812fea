"""``FittedModel``: what one version predicts with, and how it is written to files and read back."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ml_pipeline.features.preprocessing import Preprocessor
from ml_pipeline.specs import FeatureColumns, ModelSpec
from ml_pipeline.training.boosters import load_booster, save_booster
from ml_pipeline.training.intervals import Interval
from ml_pipeline.training.predictors import AnchoredBoosters, CalibratedBooster, Constant, Predictor

FORMAT = 1
# Types beyond skops' own defaults that a stored preprocessor may hold. The list inside a file is never believed.
TRUSTED_TYPES = [
    "numpy.dtype",
    "sklearn.impute._iterative.IterativeImputer",
    "sklearn.impute._iterative._ImputerTriplet",
    "sklearn.tree._tree.Tree",
]
_VERSION_FILE = "version.json"
_PREPROCESSOR_FILE = "preprocess.skops"


class VersionError(Exception):
    """The files of a version cannot be used; the message names the file, what is wrong and the remedy."""


@dataclass(frozen=True)
class FittedModel:
    """A predictor with its baseline and interval. ``candidate`` is the name it had in the race."""

    spec_name: str
    spec_hash: str
    candidate: str
    predictor: Predictor
    baseline: float
    interval: Interval | None
    at_least: float | None
    at_most: float | None

    @classmethod
    def of(cls, spec: ModelSpec, candidate: str, predictor: Predictor, baseline: float) -> FittedModel:
        """A model without an interval, its values kept inside the label's range in the reported unit."""
        low, high = spec.label.above, spec.label.at_most
        return cls(
            spec_name=spec.name,
            spec_hash=spec.hash,
            candidate=candidate,
            predictor=predictor,
            baseline=baseline,
            interval=None,
            at_least=None if low is None else low / spec.label.unit_size,
            at_most=None if high is None else high / spec.label.unit_size,
        )

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """One row per row of the feature frame, same index: value, lower, upper, baseline (float64, reported unit).

        ``lower`` and ``upper`` are NaN without an interval. Values and ends stay inside the label's range.

        Raises
        ------
        ValueError
            If the frame lacks a column that the version was trained with.
        """
        value = self._inside(self.predictor.predict(frame))
        if self.interval is None:
            lower = upper = np.full(len(frame), np.nan)
        else:
            lower, upper = (self._inside(end) for end in self.interval.around(value))
        columns = {"value": value, "lower": lower, "upper": upper, "baseline": np.full(len(frame), self.baseline)}
        return pd.DataFrame(columns, index=frame.index)

    def save(self, folder: Path) -> None:
        """Writes native booster files, ``preprocess.skops`` and ``version.json`` into ``folder``, made if absent.

        A constant needs ``version.json`` alone. No file holds a pickle.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if not isinstance(self.predictor, Constant):
            _save_preprocessor(self.predictor.preprocessor, folder / _PREPROCESSOR_FILE)
            for name, booster in _boosters(self.predictor).items():
                save_booster(booster, folder, name)
        content = {
            "format": FORMAT,
            "spec_name": self.spec_name,
            "spec_hash": self.spec_hash,
            "candidate": self.candidate,
            "predictor": _settings(self.predictor),
            "baseline": self.baseline,
            "interval": None if self.interval is None else asdict(self.interval),
            "at_least": self.at_least,
            "at_most": self.at_most,
        }
        (folder / _VERSION_FILE).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> FittedModel:
        """Reads what :meth:`save` wrote; predictions are the same to the last bit.

        Raises
        ------
        VersionError
            If a file is missing, of another format, or holds types that a preprocessor does not consist of.
        """
        path = folder / _VERSION_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise VersionError(f"{path}: format {content['format']}, not {FORMAT}. Retrain with this release")
            return cls(
                spec_name=content["spec_name"],
                spec_hash=content["spec_hash"],
                candidate=content["candidate"],
                predictor=_load_predictor(content["predictor"], folder),
                baseline=content["baseline"],
                interval=None if content["interval"] is None else Interval(**content["interval"]),
                at_least=content["at_least"],
                at_most=content["at_most"],
            )
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise VersionError(
                f"{folder}: not the complete files of a version ({type(error).__name__}: {error}). "
                "Restore its artifacts or roll back"
            ) from error

    def _inside(self, values: np.ndarray) -> np.ndarray:
        if self.at_least is None and self.at_most is None:
            return values
        return np.clip(values, self.at_least, self.at_most)


def _boosters(predictor: AnchoredBoosters | CalibratedBooster) -> dict[str, Any]:
    if isinstance(predictor, CalibratedBooster):
        return {"model": predictor.booster}
    return {"model": predictor.from_median, "model-recent": predictor.from_recent}


def _settings(predictor: Predictor) -> dict[str, Any]:
    if isinstance(predictor, Constant):
        return {"kind": "constant", "value": predictor.value}
    columns = {"columns": predictor.preprocessor.columns._asdict()}
    if isinstance(predictor, CalibratedBooster):
        return {"kind": "calibrated", "intercept": predictor.intercept, "slope": predictor.slope} | columns
    settings = {"median": predictor.median, "scale": predictor.scale, "weight": predictor.weight}
    return {"kind": "anchored", **settings} | columns


def _load_predictor(settings: dict[str, Any], folder: Path) -> Predictor:
    if settings["kind"] == "constant":
        return Constant(settings["value"])
    columns = FeatureColumns(**{kind: tuple(names) for kind, names in settings["columns"].items()})
    preprocessor = _load_preprocessor(folder / _PREPROCESSOR_FILE, columns)
    booster = load_booster(folder, "model")
    if settings["kind"] == "calibrated":
        return CalibratedBooster(preprocessor, booster, settings["intercept"], settings["slope"])
    recent = load_booster(folder, "model-recent")
    return AnchoredBoosters(preprocessor, booster, recent, settings["median"], settings["scale"], settings["weight"])


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
            f"{path}: holds types that no preprocessor consists of ({error}). Do not load it; find out who wrote it"
        ) from error
