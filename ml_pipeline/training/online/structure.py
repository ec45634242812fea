"""The trained part of a mixture: preprocessing, the splits of a forest, and learners. Outcomes only refill it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ml_pipeline.features.encoding.preprocessing import Preprocessor, fit_preprocessor
from ml_pipeline.features.encoding.text import Text, TextMemo
from ml_pipeline.specs import ModelSpec
from ml_pipeline.specs.names import feature_name
from ml_pipeline.training.errors import FitError
from ml_pipeline.training.learners.boosters import BoostedTrees, fit_boosted
from ml_pipeline.training.learners.data import FitData
from ml_pipeline.training.online.timeline import Encoded
from ml_pipeline.training.selection.ensembles import (
    CEILING,
    OFFSETS,
    fit_member,
    members_of,
    sample_weight,
    typical,
)
from ml_pipeline.training.selection.predictors import Ensemble, Member, calibrated, to_scale, wanted

FOREST, TREES = "forest", "trees"
_LEAVES = 127
# Extremely randomised trees (Geurts, Ernst and Wehenkel 2006): each split tries one random threshold per column.
_FOREST_PARAMS: dict[str, float | int | str] = {
    "boosting": "rf",
    "extra_trees": True,
    "n_estimators": 80,
    "num_leaves": _LEAVES,
    "min_data_in_leaf": 5,
    "feature_fraction_bynode": 0.3,
    "bagging_freq": 1,
    "bagging_fraction": 0.8,
    "max_bin": 31,  # thresholds are drawn at random anyway, and fewer bins are quicker
}


@dataclass(frozen=True, eq=False)
class Structure:
    """What is fitted in a training and stays until the next one.

    The first member of ``fitted`` is the forest, the others are the ``candidates`` that could be fitted. ``groups``
    are the levels of ``group_column`` in training. The values of the candidates are probabilities if ``is_binary``.
    """

    fitted: Ensemble
    candidates: tuple[str, ...]
    group_column: str | None
    groups: tuple[str, ...]
    is_binary: bool = False

    @property
    def preprocessor(self) -> Preprocessor:
        """The preprocessing for trees."""
        return self.fitted.preprocessors[TREES]

    @property
    def forest(self) -> BoostedTrees:
        learner = self.fitted.members[0].learner
        assert isinstance(learner, BoostedTrees)
        return learner

    def learner(self, candidate: int) -> tuple[Preprocessor, np.ndarray] | None:
        """The preprocessing of a candidate and the gain of each column; None if it could not be fitted."""
        for member in self.fitted.members[1:]:
            if member.candidate == self.candidates[candidate] and member.learner is not None:
                return self.fitted.preprocessors[wanted(member)], member.learner.gain()
        return None

    def encode(self, frame: pd.DataFrame) -> Encoded:
        """What the experts read of the rows of a feature frame.

        Raises
        ------
        ValueError
            If the frame lacks a column that the version was trained with.
        """
        memo = TextMemo()
        kinds = self.fitted.preprocessors.items()
        matrices = {kind: replace(preprocessor, memo=memo).transform(frame) for kind, preprocessor in kinds}
        return self.encoded(frame, matrices, memo)

    def encoded(self, frame: pd.DataFrame, matrices: dict[str, Any], memo: TextMemo) -> Encoded:
        """:meth:`encode` for rows whose matrices, by kind, are already computed."""
        values = np.full((len(frame), len(self.candidates)), np.nan)
        for member in self.fitted.members[1:]:
            value = self.fitted.value_of(member, frame, matrices)
            values[:, self.candidates.index(member.candidate)] = calibrated(None, value) if self.is_binary else value
        leaves = self.forest.leaves(matrices[TREES]) + _LEAVES * np.arange(self.forest.rounds, dtype=np.int32)
        terms = None
        if self.preprocessor.vectorizer is not None:
            terms = memo.terms(Text(self.preprocessor.vectorizer, None), frame)
        group = np.zeros(len(frame), dtype=np.int64)
        if self.group_column is not None:
            group = pd.Index(self.groups).get_indexer(pd.Index(_levels(frame, self.group_column)))
        return Encoded(leaves, terms, group, values)


def fit_structure(
    spec: ModelSpec, frame: pd.DataFrame, fitted_on: np.ndarray, seed: int, with_learners: bool
) -> tuple[Structure, Encoded, dict[str, str]]:
    """Fit the preprocessing, a forest of extremely randomised trees, and the candidates.

    A candidate that fails is left out, and its error returned.

    Parameters
    ----------
    spec
        The model.
    frame
        Matured rows of a feature frame.
    fitted_on
        Positions of the rows to fit on.
    seed
        Seed of the fits.
    with_learners
        Whether the candidates of the specification are fitted.

    Returns
    -------
    Structure, Encoded, dict
        The structure, all rows of ``frame`` encoded by it, and the errors of candidates by name.

    Raises
    ------
    FitError
        If no forest can be fitted on the rows.
    """
    rows, memo = frame.iloc[fitted_on], TextMemo()
    candidates = learner_members(spec) if with_learners else []
    kinds = [TREES, *({wanted(member) for member in candidates} - {TREES})]
    preprocessors = {kind: fit_preprocessor(spec, rows, for_linear=kind != TREES, memo=memo) for kind in kinds}
    matrices = {kind: preprocessor.transform(frame) for kind, preprocessor in preprocessors.items()}
    fitted = [_forest(spec, rows, matrices[TREES][fitted_on], seed)]
    median, errors = typical(spec, rows), dict[str, str]()
    for member in candidates:
        try:
            fitted.append(fit_member(spec, member, rows, matrices[wanted(member)][fitted_on], median, seed))
        except FitError as error:
            errors[member.candidate] = str(error)
    ceiling = CEILING * float(rows["label"].abs().max()) if spec.task == "regression" else np.inf
    stored = {kind: replace(preprocessor, memo=None) for kind, preprocessor in preprocessors.items()}
    equal = np.full(len(fitted), 1 / len(fitted))
    levels = [feature_name(name) for name in spec.features.history if name in spec.features.categorical]
    column = levels[0] if levels else None
    groups = () if column is None else tuple(sorted(set(_levels(rows, column))))
    names = tuple(member.candidate for member in candidates)
    ensemble = Ensemble(stored, tuple(fitted), equal, "mean", median, ceiling)
    structure = Structure(ensemble, names, column, groups, spec.task == "binary")
    return structure, structure.encoded(frame, matrices, memo), errors


def learner_members(spec: ModelSpec) -> list[Member]:
    """One member per candidate; a regression starts from the median of the training labels."""
    return [one for one in members_of(spec) if one.candidate not in OFFSETS and one.offset != "recent"]


def _forest(spec: ModelSpec, rows: pd.DataFrame, matrix: np.ndarray, seed: int) -> Member:
    label = rows["label"].to_numpy(dtype="float64")
    target = label if spec.task == "binary" else to_scale(label, spec.training.target)
    data = FitData(matrix, target, seed, sample_weight(spec, rows))
    return Member(FOREST, "none", learner=fit_boosted("lightgbm", _FOREST_PARAMS, "squared_error", data))


def _levels(frame: pd.DataFrame, column: str) -> list[str]:
    return frame[column].astype(object).where(frame[column].notna(), "").astype(str).tolist()
