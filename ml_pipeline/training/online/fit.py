"""Fit of a mixture: structures at several times of the past, and one walk through it that gives the weights."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pandas as pd

from ml_pipeline.specs import ModelSpec
from ml_pipeline.specs.experts import LEARNERS
from ml_pipeline.stats import losses
from ml_pipeline.training.online.aggregation import Forecasts, Walked, scales, walk
from ml_pipeline.training.online.distributions import crps, grid_of
from ml_pipeline.training.online.experts import NEWEST_RESIDUALS, Past, experts_of
from ml_pipeline.training.online.mixture import (
    Mixture,
    asked_rows,
    forecasts,
    in_order,
    value_of,
)
from ml_pipeline.training.online.structure import Structure, fit_structure
from ml_pipeline.training.online.timeline import NEVER, Asked, Encoded, Known
from ml_pipeline.training.online.weights import Weights
from ml_pipeline.training.splits import Split


class ExpertRecord(NamedTuple):
    """An expert on held-out rows: mean loss and CRPS, and its weight at the end.

    The means are None if it slept for all of them.
    """

    name: str
    loss: float | None
    crps: float | None
    weight: float


@dataclass(frozen=True, eq=False)
class FittedMixture:
    """A mixture, and how it predicted the rows of the frame that it was fitted on, oldest structure first.

    ``held_out`` says for each row whether the structure that predicted it had not been fitted on it. ``errors`` are
    those of candidates that could not be fitted.
    """

    mixture: Mixture
    walked: Walked
    held_out: np.ndarray
    experts: list[ExpertRecord]
    errors: dict[str, str]


def fit_mixture(spec: ModelSpec, frame: pd.DataFrame, split: Split, as_of: datetime, seed: int) -> FittedMixture:
    """Fit a mixture on matured rows and walk through their past.

    One structure is fitted on the train part and predicts the validation part, one on what was known when the test
    part began, and predicts that. An expert whose structure was fitted on a row's label sleeps for that row, so that
    the weights come from rows that were predicted without their labels. The last structure is fitted on all rows and
    takes over the weights. With equal weights, the first structure is not needed.

    Parameters
    ----------
    spec
        The model.
    frame
        Matured rows of a feature frame.
    split
        Its parts.
    as_of
        Aware time from which the mixture serves; every label is known by then.
    seed
        Seed of the fits.

    Raises
    ------
    FitError
        If no forest can be fitted.
    """
    past = _TrainingRows.of(spec, frame, seed)
    said, held_out, residuals = _held_out_forecasts(past, _starts(spec, split, past.asked))
    asked = past.asked.with_scale(past.order, scales(past.asked.label[past.order]))
    learns = spec.training.ensemble == "online"
    learnt = past.order if learns else past.order[:0]
    walked = walk(Weights.equal(said.awake.shape[1]), said, past.grid, asked, learnt, until=NEVER - 1)
    structure, encoded, errors = past.fit_structure(np.arange(len(frame)))
    exact = pd.Timestamp(as_of).tz_convert("UTC").tz_localize(None).to_datetime64().astype("datetime64[us]")
    mixture = Mixture(
        task=spec.task,
        learns=learns,
        experts=spec.training.mixed_experts,
        structure=structure,
        grid=past.grid,
        known=Known.of(asked, encoded, past.order),
        weights=walked.weights,
        as_of=exact,
        residuals=residuals,
    )
    return FittedMixture(mixture, walked, held_out, _records(mixture, said, walked, asked, held_out), errors)


@dataclass(frozen=True, eq=False)
class _TrainingRows:
    """The rows of a fit: their grid, nights and outcomes, and the order in which the outcomes became known."""

    spec: ModelSpec
    frame: pd.DataFrame
    seed: int
    grid: np.ndarray
    asked: Asked
    order: np.ndarray

    @classmethod
    def of(cls, spec: ModelSpec, frame: pd.DataFrame, seed: int) -> _TrainingRows:
        grid = grid_of(frame["label"].to_numpy(dtype="float64"))
        asked = asked_rows(grid, frame, earliest=np.iinfo(np.int64).min)
        return cls(spec, frame, seed, grid, asked, in_order(asked, frame))

    def fit_structure(self, positions: np.ndarray) -> tuple[Structure, Encoded, dict[str, str]]:
        with_learners = LEARNERS in self.spec.training.mixed_experts
        return fit_structure(self.spec, self.frame, positions, self.seed, with_learners)

    def label_shares(self, positions: np.ndarray) -> np.ndarray:
        return np.bincount(self.asked.position[positions], minlength=len(self.grid)) / len(positions)


def _held_out_forecasts(
    past: _TrainingRows, starts: list[tuple[int, np.ndarray]]
) -> tuple[Forecasts, np.ndarray, tuple[np.ndarray, ...]]:
    """What the experts said about each row, which rows were held out from its structure, and the learners' residuals.

    Each structure serves from its start until the next one; the first also for all rows before.
    """
    asked, order = past.asked, past.order
    parts: list[Forecasts] = []
    arrived_in: list[np.ndarray] = []
    held_out = np.ones(len(past.frame), dtype=bool)
    residuals: tuple[np.ndarray, ...] = ()
    ends = [*(start for start, _ in starts[1:]), NEVER]
    for number, ((start, fitted_on), end) in enumerate(zip(starts, ends, strict=True)):
        structure, encoded, _ = past.fit_structure(fitted_on)
        here = np.flatnonzero((asked.night < end) & ((asked.night >= start) | (number == 0)))
        held_out[here] = ~np.isin(here, fitted_on)
        before_end = order[asked.outcome_night[order] < end]
        known = Known.of(asked, encoded, before_end)
        seen = Past(
            grid=past.grid,
            trained_grid=np.unique(past.grid[asked.position[fitted_on]]),
            known=known,
            asked=encoded.take(here),
            night=asked.night[here],
            seen=np.searchsorted(known.night, asked.night[here], side="right"),
            trained_night=start,
            training=past.label_shares(fitted_on),
            fresh=~np.isin(before_end, fitted_on),
            residuals=residuals,
        )
        experts = experts_of(past.spec.training.mixed_experts, structure.candidates, past.spec.task)
        # With equal weights, nothing is learnt from rows before the test part: nobody has to sleep for them.
        asleep = None if past.spec.training.ensemble == "mean" else held_out[here]
        parts.append(forecasts(experts, seen, asleep))
        arrived_in.append(here)
        matured = here[held_out[here] & (asked.outcome_night[here] <= end)]
        residuals = _with_newer(residuals, asked.label[matured, None] - encoded.values[matured])
    place = np.argsort(np.concatenate(arrived_in), kind="stable")
    cumulative, awake = (
        np.concatenate([getattr(part, name) for part in parts])[place] for name in ("cumulative", "awake")
    )
    return Forecasts(cumulative, awake), held_out, residuals


def _starts(spec: ModelSpec, split: Split, asked: Asked) -> list[tuple[int, np.ndarray]]:
    """The night from which each structure serves, and the positions that it is fitted on, in time order."""
    test = (int(asked.night[split.test].min()), split.refit)
    if spec.training.ensemble == "mean":
        return [test]
    return [(int(asked.night[split.validation].min()), split.train), test]


def _with_newer(residuals: tuple[np.ndarray, ...], newer: np.ndarray) -> tuple[np.ndarray, ...]:
    """The newest residuals of each learner, NaN left out."""
    known = residuals or tuple(np.empty(0) for _ in range(newer.shape[1]))
    joined = (np.concatenate([old, new[np.isfinite(new)]]) for old, new in zip(known, newer.T, strict=True))
    return tuple(values[-NEWEST_RESIDUALS:] for values in joined)


def _records(
    mixture: Mixture, said: Forecasts, walked: Walked, asked: Asked, held_out: np.ndarray
) -> list[ExpertRecord]:
    awake = np.ones((1, said.awake.shape[1]), dtype=bool)
    weights = walked.weights.among(awake)[0]
    records = []
    for position, (name, _) in enumerate(mixture.named_experts):
        rows = held_out & said.awake[:, position]
        cumulative, label = said.cumulative[rows, position], asked.label[rows]
        error = losses(mixture.task, label, value_of(mixture.task, mixture.grid, cumulative))
        score = crps(mixture.grid, cumulative, label)
        loss, mean_score = (float(values.mean()) if len(values) else None for values in (error, score))
        records.append(ExpertRecord(name, loss, mean_score, float(weights[position])))
    return records
