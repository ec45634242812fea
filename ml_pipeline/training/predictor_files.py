"""Files of a version's predictor: one per learner and preprocessor, none of them a pickle."""

from __future__ import annotations

import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ml_pipeline.features.encoding.preprocessing import Preprocessor
from ml_pipeline.specs import FeatureColumns
from ml_pipeline.training.learners.base import load_learner
from ml_pipeline.training.selection.ensembles import OFFSETS
from ml_pipeline.training.selection.predictors import Baseline, Ensemble, Member, Predictor
from ml_pipeline.training.selection.probability_calibration import Calibration

# Types, beyond skops' defaults, that a stored preprocessor may contain. The list inside a file is not trusted.
TRUSTED_TYPES = [
    "numpy.dtype",
    "sklearn.impute._iterative.IterativeImputer",
    "sklearn.impute._iterative._ImputerTriplet",
    "sklearn.tree._tree.Tree",
]


class VersionError(Exception):
    """The files of a version cannot be loaded; the message names the file, the fault and the remedy."""


def write_predictor(predictor: Predictor, folder: Path) -> dict[str, Any]:
    """Write the files of an ensemble and return the entry of the predictor in ``version.json``."""
    if isinstance(predictor, Baseline):
        return {"kind": "baseline", "value": predictor.value}
    import skops.io

    for kind, preprocessor in predictor.preprocessors.items():
        path = folder / f"preprocess-{kind}.skops"
        skops.io.dump(preprocessor.parts(), path, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
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


def load_predictor(settings: dict[str, Any], folder: Path) -> Predictor:
    """The predictor that :func:`write_predictor` wrote, from its entry in ``version.json``.

    Raises
    ------
    VersionError
        If a file contains types that a preprocessor does not use.
    """
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


def _load_preprocessor(path: Path, columns: FeatureColumns) -> Preprocessor:
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return Preprocessor(columns, **skops.io.load(path, trusted=TRUSTED_TYPES))
    except UntrustedTypesFoundException as error:
        raise VersionError(
            f"{path}: contains types that a preprocessor does not use ({error}). Do not load it; find out who wrote it"
        ) from error
