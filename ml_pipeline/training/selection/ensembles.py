"""Members of an ensemble: how they are fitted, weighted by what they foresaw, and continued."""

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
from ml_pipeline.training.learners.base import BOOSTERS, SQUARED, Matrix, Params, fit_learner
from ml_pipeline.training.learners.boosters import declared_rounds
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
CEILING = 10.0  # times the largest label
MEDIAN, RECENT_MEDIAN = "median", "recent_median"
ANCHORS = (MEDIAN, RECENT_MEDIAN)  # candidates that learn nothing
_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class Fit:
    """Members that could be fitted, equally weighted, and what became of the candidates that could not."""

    ensemble: Ensemble | None
    errors: dict[str, str]


def candidates(spec: ModelSpec) -> dict[str, Params]:
    """Learners of the race with their parameters, the declared one first."""
    declared: dict[str, Params] = {spec.training.estimator: spec.training.params}
    return declared | dict(spec.training.candidates)


def members_of(spec: ModelSpec) -> list[Member]:
    """The members that are to be fitted.

    Regression: each candidate from both offsets, and the offsets by themselves, which hold the vote back where the
    learners go astray together. Binary: each candidate once.
    """
    if spec.task == "binary":
        return [Member(name, "none") for name in candidates(spec)]
    pairs = [Member(name, offset, _scale(spec, name)) for name in candidates(spec) for offset in ("median", "recent")]
    target = spec.training.target
    return [*pairs, Member(MEDIAN, "median", target), Member(RECENT_MEDIAN, "recent", target)]


def plain_member(spec: ModelSpec) -> Member:
    """The declared estimator by itself, from the median of the labels: what its parameters are judged by."""
    return members_of(spec)[0]


def _scale(spec: ModelSpec, candidate: str) -> Scale:
    """A learner of squared errors sees logarithms where the loss is absolute: a mean of those is nearly a median."""
    above = spec.label.above
    wants_median = candidate in SQUARED and spec.training.loss == "absolute_error"
    return "log" if wants_median and above is not None and above >= -1 else spec.training.target


def fit_members(spec: ModelSpec, rows: pd.DataFrame, seed: int, members: Collection[Member] | None = None) -> Fit:
    """Fits members (all of :func:`members_of` unless given) on matured rows.

    A candidate that fails is left out with its error; without any that learns there is no ensemble.
    """
    chosen = members_of(spec) if members is None else list(members)
    kinds = sorted({wanted(member) for member in chosen if member.candidate not in ANCHORS})
    memo = TextMemo()
    fitted = {kind: fit_preprocessor(spec, rows, for_linear=kind == "linear", memo=memo) for kind in kinds}
    matrices = {kind: preprocessor.transform(rows) for kind, preprocessor in fitted.items()}
    preprocessors = {kind: replace(preprocessor, memo=None) for kind, preprocessor in fitted.items()}
    median = typical(spec, rows)
    done: list[Member] = []
    errors: dict[str, str] = {}
    for member in chosen:
        if member.candidate in ANCHORS:
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
    """``member`` with a learner that was fitted on ``matrix``, which has the rows of ``rows``.

    Raises
    ------
    FitError
        If the library refuses a parameter or the data.
    """
    params = candidates(spec)[member.candidate]
    target = to_scale(rows["label"].to_numpy(), member.scale) - offset_of(member, rows, median)
    weight = sample_weight(spec, rows)
    learner = fit_learner(member.candidate, params, _loss(spec, member), matrix, target, seed, weight)
    return replace(member, learner=learner)


def typical(spec: ModelSpec, rows: pd.DataFrame) -> float:
    """Where members that start from the median start: that of the labels; 0 log odds for a binary model."""
    return label_median(rows) if spec.task == "regression" else 0.0


def label_median(rows: pd.DataFrame) -> float:
    """Median of the labels, each counted by the column ``weight`` if there is one."""
    label = rows["label"].to_numpy(dtype="float64")
    if "weight" not in rows:
        return float(np.median(label))
    return float(weighted_median(label[None, :], rows["weight"].to_numpy(dtype="float64"))[0])


def _loss(spec: ModelSpec, member: Member) -> str:
    return "squared_error" if member.candidate in SQUARED and spec.task == "regression" else spec.training.loss


def sample_weight(spec: ModelSpec, rows: pd.DataFrame) -> np.ndarray | None:
    """Weight of each row in a fit: the column ``weight`` if there is one, halved for every half-life of age.

    None where every row counts alike.
    """
    given = rows["weight"].to_numpy(dtype="float64") if "weight" in rows else None
    half_life = spec.training.recency_half_life_days
    if half_life is None:
        return given
    age = (rows["event_time"].max() - rows["event_time"]).dt.total_seconds().to_numpy() / _SECONDS_PER_DAY
    recency = 0.5 ** (age / half_life)
    return recency if given is None else recency * given


def voting_weights(losses: np.ndarray, half_life_rows: float = HALF_LIFE_ROWS) -> np.ndarray:
    """Weight of each member from its losses on held-out rows, oldest first: (best loss / its loss) to the power 5.

    A row counts half as much as the hundredth after it, so that the members that follow a change come to the fore; of
    rare events a hundred rows say too little, and classifiers are weighed by all rows alike (an infinite half-life).
    Members of less than 2 % get none. Any weights make a valid ensemble; ``benchmarks.ablation`` compares these with
    those of stacking and with the best candidate alone.

    Parameters
    ----------
    losses
        Float64, rows x members, not negative.
    """
    decay = 0.5 ** (np.arange(len(losses))[::-1] / half_life_rows)
    mean = decay @ losses / decay.sum() + np.finfo(float).tiny
    weights = (mean.min() / mean) ** SHARPNESS
    weights /= weights.sum()
    weights[weights < LEAST_WEIGHT] = 0.0
    return weights / weights.sum()


def stacking_weights(values: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Weights of the linear combination, none negative, of least squared error on held-out rows (Breiman 1996).

    Scaled to sum to 1; equal ones where nothing combines to the labels.

    Parameters
    ----------
    values, label
        Float64, rows x members and per row, each member's answer for rows that it was not fitted on.
    """
    from scipy.optimize import nnls

    weights, _ = nnls(values, label)
    if not weights.sum():
        return np.full(values.shape[1], 1 / values.shape[1])
    weights = weights / weights.sum()
    weights[weights < LEAST_WEIGHT] = 0.0
    return weights / weights.sum()


def continued(spec: ModelSpec, ensemble: Ensemble, rows: pd.DataFrame, seed: int, share: float) -> Ensemble:
    """Every learner after ``rows``: boosters with ``share`` of a training's trees more, linear models a step on.

    The median of the rows becomes the offset. Preprocessing, weights and calibration stay.
    """
    label = rows["label"].to_numpy()
    median = typical(spec, rows)
    matrices = ensemble.matrices(rows)

    def after(member: Member) -> Member:
        if member.learner is None:
            return member
        params = candidates(spec)[member.candidate]
        target = to_scale(label, member.scale) - offset_of(member, rows, median)
        matrix, rounds = matrices[wanted(member)], update_rounds(params, share)
        learner = member.learner.continued(params, _loss(spec, member), matrix, target, seed, rounds)
        return replace(member, learner=learner)

    return replace(ensemble, members=tuple(map(after, ensemble.members)), median=median)


def update_rounds(params: Params, share: float) -> int:
    """Trees that an update adds to a booster."""
    return max(round(declared_rounds(params) * share), 1)


def room_to_grow(spec: ModelSpec, ensemble: Ensemble, share: float, most: float) -> int | None:
    """Updates until a booster has ``most`` times the trees of a training; None where no member is a booster."""
    left: list[int] = []
    for member in ensemble.members:
        if member.learner is not None and member.candidate in BOOSTERS:
            params = candidates(spec)[member.candidate]
            room = int(declared_rounds(params) * most) - member.learner.rounds
            left.append(max(room // update_rounds(params, share), 0))
    return min(left, default=None)
