"""Members of an ensemble: fitting, weighting by out-of-sample losses, and updating."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from ml_pipeline.features.encoding.preprocessing import fit_preprocessor
from ml_pipeline.features.encoding.text import TextMemo
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.errors import FitError
from ml_pipeline.training.learners.base import BOOSTERS, SQUARED, Params, fit_learner
from ml_pipeline.training.learners.boosters import declared_rounds
from ml_pipeline.training.learners.data import FitData, Matrix
from ml_pipeline.training.selection.predictors import (
    Ensemble,
    Member,
    Scale,
    offset_of,
    to_scale,
    wanted,
    weighted_median,
)

HALF_LIFE_ROWS = 100.0
SHARPNESS = 5.0
LEAST_WEIGHT = 0.02
CEILING = 10.0  # upper limit of a prediction, as a multiple of the largest label
MEDIAN, RECENT_MEDIAN = "median", "recent_median"
OFFSETS = (MEDIAN, RECENT_MEDIAN)  # candidates without a learner
_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Fit:
    """Fitted members with equal weights, and the errors of candidates that could not be fitted, by name."""

    ensemble: Ensemble | None
    errors: dict[str, str]


def candidates(spec: ModelSpec) -> dict[str, Params]:
    """Candidate learners with their parameters, the declared estimator first."""
    declared: dict[str, Params] = {spec.training.estimator: spec.training.params}
    return declared | dict(spec.training.candidates)


def members_of(spec: ModelSpec) -> list[Member]:
    """The members to fit.

    Regression: each candidate with both offsets, and the offsets alone, which limit the weighted median when all
    learners err in the same direction. Binary: each candidate once.
    """
    if spec.task == "binary":
        return [Member(name, "none") for name in candidates(spec)]
    pairs = [Member(name, offset, _scale(spec, name)) for name in candidates(spec) for offset in ("median", "recent")]
    target = spec.training.target
    return [*pairs, Member(MEDIAN, "median", target), Member(RECENT_MEDIAN, "recent", target)]


def plain_member(spec: ModelSpec) -> Member:
    """The declared estimator alone, with the median of the labels as offset; the parameter search judges by it."""
    return members_of(spec)[0]


def _scale(spec: ModelSpec, candidate: str) -> Scale:
    """Scale of a member: learners of squared error use logarithms for absolute loss, whose mean is near the median."""
    above = spec.label.above
    wants_median = candidate in SQUARED and spec.training.loss == "absolute_error"
    return "log" if wants_median and above is not None and above >= -1 else spec.training.target


def fit_members(spec: ModelSpec, rows: pd.DataFrame, seed: int, members: Collection[Member] | None = None) -> Fit:
    """Fit members (by default all of :func:`members_of`) on matured rows.

    A candidate that fails is left out and its error recorded. ``ensemble`` is None if every learner failed.
    """
    chosen = members_of(spec) if members is None else list(members)
    kinds = sorted({wanted(member) for member in chosen if member.candidate not in OFFSETS})
    memo = TextMemo()
    fitted = {kind: fit_preprocessor(spec, rows, for_linear=kind == "linear", memo=memo) for kind in kinds}
    matrices = {kind: preprocessor.transform(rows) for kind, preprocessor in fitted.items()}
    preprocessors = {kind: replace(preprocessor, memo=None) for kind, preprocessor in fitted.items()}
    median = typical(spec, rows)
    done: list[Member] = []
    errors: dict[str, str] = {}
    for member in chosen:
        if member.candidate in OFFSETS:
            done.append(member)
        elif member.candidate not in errors:
            try:
                done.append(fit_member(spec, member, rows, matrices[wanted(member)], median, seed))
            except FitError as error:
                errors[member.candidate] = str(error)
    if not any(member.learner is not None for member in done):
        return Fit(None, errors)
    weights = np.full(len(done), 1 / len(done))
    combine: Literal["median", "mean"] = "mean" if spec.training.ensemble == "stacking" else "median"
    ceiling = CEILING * float(rows["label"].abs().max()) if spec.task == "regression" else np.inf
    return Fit(Ensemble(preprocessors, tuple(done), weights, combine, median, ceiling), errors)


def fit_member(spec: ModelSpec, member: Member, rows: pd.DataFrame, matrix: Matrix, median: float, seed: int) -> Member:
    """``member`` with a learner fitted on ``matrix``, the preprocessed ``rows``.

    Raises
    ------
    FitError
        If the library rejects a parameter or the data.
    """
    params = candidates(spec)[member.candidate]
    target = to_scale(rows["label"].to_numpy(), member.scale) - offset_of(member, rows, median)
    data = FitData(matrix, target, seed, sample_weight(spec, rows))
    learner = fit_learner(member.candidate, params, _loss(spec, member), data)
    return replace(member, learner=learner)


def typical(spec: ModelSpec, rows: pd.DataFrame) -> float:
    """The median offset: the median of the labels, or 0 log odds for a binary model."""
    return label_median(rows) if spec.task == "regression" else 0.0


def label_median(rows: pd.DataFrame) -> float:
    """Median of the labels, weighted by the column ``weight`` if there is one."""
    label = rows["label"].to_numpy(dtype="float64")
    if "weight" not in rows:
        return float(np.median(label))
    return float(weighted_median(label[None, :], rows["weight"].to_numpy(dtype="float64"))[0])


def _loss(spec: ModelSpec, member: Member) -> str:
    return "squared_error" if member.candidate in SQUARED and spec.task == "regression" else spec.training.loss


def sample_weight(spec: ModelSpec, rows: pd.DataFrame) -> np.ndarray | None:
    """Sample weight of each row: the column ``weight`` if there is one, halved for every half-life of age.

    None if all rows have equal weight.
    """
    given = rows["weight"].to_numpy(dtype="float64") if "weight" in rows else None
    half_life = spec.training.recency_half_life_days
    if half_life is None:
        return given
    age = (rows["event_time"].max() - rows["event_time"]).dt.total_seconds().to_numpy() / _SECONDS_PER_DAY
    recency: np.ndarray = 0.5 ** (age / half_life)
    return recency if given is None else recency * given


def voting_weights(losses: np.ndarray, half_life_rows: float = HALF_LIFE_ROWS) -> np.ndarray:
    """Weight of each member from its losses on held-out rows, oldest first: (best loss / its loss) to the power 5.

    A row counts half as much as the hundredth row after it, so that members that follow a change get more weight. For
    classifiers all rows count equally (infinite half-life), because a hundred rows contain too few rare events. Weights
    below 2% become 0. ``benchmarks.ablation`` compares these weights with stacking and with the best candidate alone.

    Parameters
    ----------
    losses
        Float64, rows x members, not negative.
    """
    decay = 0.5 ** (np.arange(len(losses))[::-1] / half_life_rows)
    mean = decay @ losses / decay.sum() + np.finfo(float).tiny
    weights = (mean.min() / mean) ** SHARPNESS
    return _without_least(weights / weights.sum())


def stacking_weights(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Non-negative weights of the linear combination with least squared error on held-out rows (Breiman 1996).

    The weights are scaled to sum to 1; they are equal if the solution is all zero.

    Parameters
    ----------
    values
        Float64, rows x members: predictions of each member for rows that it was not fitted on.
    label
        Float64 per row.
    """
    from scipy.optimize import nnls

    weights, _ = nnls(values, label)
    if not weights.sum():
        return np.full(values.shape[1], 1 / values.shape[1])
    return _without_least(weights / weights.sum())


def _without_least(weights: np.ndarray) -> np.ndarray:
    """Weights that sum to 1, with those below 2% set to 0 and the others scaled to sum to 1 again."""
    kept: np.ndarray = np.where(weights < LEAST_WEIGHT, 0.0, weights)
    return np.asarray(kept / kept.sum())


def continued(spec: ModelSpec, ensemble: Ensemble, rows: pd.DataFrame, seed: int, share: float) -> Ensemble:
    """The ensemble updated with ``rows``.

    Boosters get more trees, ``share`` of those of a full training; linear models take one Newton step. The median of
    ``rows`` becomes the offset. Preprocessing, weights and calibration do not change.
    """
    label = rows["label"].to_numpy()
    median = typical(spec, rows)
    matrices = ensemble.matrices(rows)

    def after(member: Member) -> Member:
        if member.learner is None:
            return member
        params = candidates(spec)[member.candidate]
        target = to_scale(label, member.scale) - offset_of(member, rows, median)
        data, rounds = FitData(matrices[wanted(member)], target, seed), update_rounds(params, share)
        learner = member.learner.continued(params, _loss(spec, member), data, rounds)
        return replace(member, learner=learner)

    return replace(ensemble, members=tuple(map(after, ensemble.members)), median=median)


def update_rounds(params: Params, share: float) -> int:
    """Number of trees that an update adds to a booster."""
    return max(round(declared_rounds(params) * share), 1)


def room_to_grow(spec: ModelSpec, ensemble: Ensemble, share: float, most: float) -> int | None:
    """Updates until a booster has ``most`` times the trees of a training; None if no member is a booster."""
    left: list[int] = []
    for member in ensemble.members:
        if member.learner is not None and member.candidate in BOOSTERS:
            params = candidates(spec)[member.candidate]
            room = int(declared_rounds(params) * most) - member.learner.rounds
            left.append(max(room // update_rounds(params, share), 0))
    return min(left, default=None)
