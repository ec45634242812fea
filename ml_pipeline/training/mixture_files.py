"""Files of a version whose predictor is a mixture: its structure and known outcomes, none of them a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ml_pipeline.training.online.mixture import Mixture
from ml_pipeline.training.online.structure import Structure
from ml_pipeline.training.online.timeline import Encoded, Known
from ml_pipeline.training.online.weights import Weights
from ml_pipeline.training.predictor_files import VersionError, load_predictor, write_predictor
from ml_pipeline.training.selection.predictors import Ensemble

MIXTURE = "mixture"
_KNOWN = "known.npz"
_OUTCOMES = ("entity", "position", "label", "night", "count", "since")
_TERMS = ("data", "indices", "indptr")


def write_mixture(mixture: Mixture, folder: Path) -> dict[str, Any]:
    """Write the files of a mixture and return the entry of the predictor in ``version.json``."""
    structure, known = mixture.structure, mixture.known
    arrays = {name: getattr(known, name) for name in _OUTCOMES}
    arrays |= {"leaves": known.rows.leaves, "group": known.rows.group, "values": known.rows.values}
    if known.rows.terms is not None:
        arrays |= {f"terms_{name}": getattr(known.rows.terms, name) for name in _TERMS}
    np.savez_compressed(folder / _KNOWN, allow_pickle=False, **arrays)
    return {
        "kind": MIXTURE,
        "task": mixture.task,
        "learns": mixture.learns,
        "experts": mixture.experts,
        "as_of": str(mixture.as_of),
        "grid": mixture.grid.tolist(),
        "residuals": [values.tolist() for values in mixture.residuals],
        "weights": {name: values.tolist() for name, values in vars(mixture.weights).items()},
        "candidates": structure.candidates,
        "fitted": write_predictor(structure.fitted, folder),
        "group_column": structure.group_column,
        "groups": structure.groups,
        "terms": 0 if known.rows.terms is None else known.rows.terms.shape[1],
    }


def load_mixture(settings: dict[str, Any], folder: Path) -> Mixture:
    """The mixture that :func:`write_mixture` wrote, from its entry in ``version.json``.

    Raises
    ------
    VersionError
        If a file contains types that a preprocessor does not use.
    """
    fitted = load_predictor(settings["fitted"], folder)
    if not isinstance(fitted, Ensemble):
        raise VersionError(f"{folder}: its mixture has no forest. Restore its artifacts or roll back")
    structure = Structure(
        fitted=fitted,
        candidates=tuple(settings["candidates"]),
        group_column=settings["group_column"],
        groups=tuple(settings["groups"]),
        is_binary=settings["task"] == "binary",
    )
    return Mixture(
        task=settings["task"],
        learns=settings["learns"],
        experts=tuple(settings["experts"]),
        structure=structure,
        grid=np.array(settings["grid"]),
        known=_load_known(folder / _KNOWN, settings["terms"]),
        weights=Weights(**{name: np.array(values) for name, values in settings["weights"].items()}),
        as_of=np.datetime64(settings["as_of"]),
        residuals=tuple(np.array(values) for values in settings["residuals"]),
    )


def _load_known(path: Path, columns: int) -> Known:
    from scipy.sparse import csr_matrix

    # Opened here: numpy leaves a file open that it cannot read.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        terms = None
        if columns:
            parts = tuple(stored[f"terms_{name}"] for name in _TERMS)
            terms = csr_matrix(parts, shape=(len(stored["night"]), columns))
        rows = Encoded(stored["leaves"], terms, stored["group"], stored["values"])
        return Known(**{name: stored[name] for name in _OUTCOMES}, rows=rows)
