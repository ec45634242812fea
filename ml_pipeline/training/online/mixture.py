"""``Mixture``: experts whose forecasts are distributions, weighted by how well they did, and refilled every night.

Only the structure (:mod:`ml_pipeline.training.online.structure`) is trained. Everything else follows from the outcomes
known the night before a row is predicted, so predictions that are computed later equal those that were made then.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from ml_pipeline.features.feedback import own_outcomes
from ml_pipeline.training.online.aggregation import Forecasts, scales, walk
from ml_pipeline.training.online.distributions import grown, nearest, quantile
from ml_pipeline.training.online.experts import Expert, Past, experts_of
from ml_pipeline.training.online.structure import Structure
from ml_pipeline.training.online.timeline import NEVER, Asked, Known, night_after, night_before
from ml_pipeline.training.online.weights import Weights


class Mixed(NamedTuple):
    """Mixture of each row over ``grid`` (rows, values), the weights in it (rows, experts), and what was said."""

    grid: np.ndarray
    mixture: np.ndarray
    share: np.ndarray
    forecasts: Forecasts


MOST_CORRECTED = 0.1  # share of the training labels that may be corrected before the learners sleep


@dataclass(frozen=True, eq=False)
class Mixture:
    """The experts of a version, as of its training.

    ``learns`` says whether outcomes move the weights; else they stay equal. ``as_of`` is the time (UTC,
    microseconds) at which the labels of the training were known; ``grid`` are the values of the distributions,
    ascending; ``known`` the outcomes that it was trained on; ``weights`` the state of the aggregation;
    ``residuals`` those of each learner on held-out rows.
    """

    task: Literal["regression", "binary"]
    learns: bool
    experts: tuple[str, ...]
    structure: Structure
    grid: np.ndarray
    known: Known
    weights: Weights
    as_of: np.datetime64
    residuals: tuple[np.ndarray, ...] = ()

    @property
    def night(self) -> int:
        """Days since 1970 of the last midnight before the training."""
        return int(self.as_of.astype("datetime64[D]").astype(np.int64))

    def predict(self, frame: pd.DataFrame, history: pd.DataFrame | None = None) -> np.ndarray:
        """Median of the mixture for each row, or the probability of 1; see :meth:`mixed`."""
        mixed = self.mixed(frame, history)
        return value_of(self.task, mixed.grid, mixed.mixture)

    def mixed(self, frame: pd.DataFrame, history: pd.DataFrame | None = None) -> Mixed:
        """The mixture for each row of ``frame``, with what was known the night before it.

        A row from before the training is predicted as of the training. ``history`` is the tenant's feature frame with
        the outcomes since the training, those of ``frame`` included; without it, nothing is known since. A label that
        ``history`` has corrected since the training counts as corrected; if more than a tenth of them are, learners
        that were fitted on them sleep.

        Raises
        ------
        ValueError
            If a frame lacks a column that the version was trained with.
        """
        asked, order, past = self._observed(frame, history)
        said = forecasts(self.named_experts, past)
        before = past.known.label[~past.fresh]
        asked = asked.with_scale(order, scales(np.concatenate([before, asked.label[order]]), len(before)))
        learnt = order if self.learns else order[:0]
        walked = walk(self.weights, said, past.grid, asked, learnt, until=int(asked.night.max()))
        rows = slice(len(frame))
        of_frame = Forecasts(said.cumulative[rows], said.awake[rows])
        return Mixed(past.grid, walked.mixture[rows], walked.share[rows], of_frame)

    def past(self, frame: pd.DataFrame, history: pd.DataFrame | None = None) -> Past:
        """What the experts read to predict the rows of ``frame``; see :meth:`mixed`."""
        _, _, past = self._observed(frame, history)
        rows = np.arange(len(frame))
        return replace(past, asked=past.asked.take(rows), night=past.night[rows], seen=past.seen[rows])

    def _observed(self, frame: pd.DataFrame, history: pd.DataFrame | None) -> tuple[Asked, np.ndarray, Past]:
        """The rows of ``frame``, then those of other outcomes; the order of new outcomes; what the experts read."""
        rows, late, trained, share = frame.assign(state="open"), frame.iloc[:0], self.known, 0.0
        if history is not None:
            history = history.loc[own_outcomes(history) & (history["state"] == "matured").to_numpy()]
            trained, share = self._corrected(history)
            late = self._late(history)
            rows = pd.concat([frame, self._newer(frame, history), late], ignore_index=True)
        asked, encoded = asked_rows(self.grid, rows, self.night), self.structure.encode(rows)
        known_at = rows["label_time"].to_numpy("datetime64[us]")
        order = in_order(asked, rows)
        order = order[(known_at[order] > self.as_of) & (asked.outcome_night[order] <= asked.night.max())]
        belated = np.arange(len(rows) - len(late), len(rows))
        grid = grown(self.grid, np.concatenate([trained.label, asked.label[belated], asked.label[order]]))
        asked = asked._replace(position=nearest(grid, np.where(np.isnan(asked.label), grid[0], asked.label)))
        known = replace(trained, position=nearest(grid, trained.label))
        if len(late):
            known = known.followed_by(Known.of(asked, encoded, belated))
            known = known.take(np.argsort(known.night, kind="stable"))
        at_once = len(known)
        known = known.followed_by(known.revised_by(Known.of(asked, encoded, order)))
        seen = at_once + np.searchsorted(known.night[at_once:], asked.night, side="right")
        past = Past(
            grid=grid,
            trained_grid=self.grid,
            known=known,
            asked=encoded,
            night=asked.night,
            seen=seen,
            trained_night=self.night,
            training=np.bincount(nearest(grid, trained.label), minlength=len(grid)) / len(trained),
            fresh=np.arange(len(known)) >= at_once,
            residuals=self.residuals,
            fit_holds=share <= MOST_CORRECTED,
        )
        return asked, order, past

    def _newer(self, frame: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
        """The outcomes of other rows that became known after the training and before the last night of ``frame``."""
        known_at = history["label_time"].to_numpy("datetime64[us]")
        last_night = night_before(frame["event_time"]).max()
        in_time = (known_at > self.as_of) & (night_after(history["label_time"]) <= last_night)
        found: pd.DataFrame = history.loc[in_time & ~history["entity_id"].isin(frame["entity_id"]).to_numpy()]
        return found

    def _late(self, history: pd.DataFrame) -> pd.DataFrame:
        """The outcomes that are dated within the time of the training, but came into the source after it."""
        night = night_after(history["label_time"])
        known_at = history["label_time"].to_numpy("datetime64[us]")
        in_time = (known_at <= self.as_of) & (night >= self.known.night.min(initial=NEVER))
        unknown = ~np.isin(history["entity_id"].to_numpy(dtype=str), self.known.entity)
        found: pd.DataFrame = history.loc[in_time & unknown]
        return found

    def _corrected(self, history: pd.DataFrame) -> tuple[Known, float]:
        """The outcomes of the training with the labels that ``history`` has now, and the share that differs."""
        before = history["label_time"].to_numpy("datetime64[us]") <= self.as_of
        now = pd.Series(history["label"].to_numpy(dtype="float64"), index=history["entity_id"].to_numpy(dtype=str))
        now = now[before]
        label = now[~now.index.duplicated(keep="last")].reindex(self.known.entity).to_numpy()
        label = np.where(np.isnan(label), self.known.label, label)
        return replace(self.known, label=label), float((label != self.known.label).mean()) if len(label) else 0.0

    @property
    def named_experts(self) -> list[tuple[str, Expert]]:
        """The experts with their names."""
        return experts_of(self.experts, self.structure.candidates, self.task)


def value_of(task: str, grid: np.ndarray, cumulative: np.ndarray) -> np.ndarray:
    """Median of each distribution, float64 in the reported unit; the probability of 1 for a binary model."""
    return np.asarray(1 - cumulative[..., 0]) if task == "binary" else quantile(grid, cumulative, 0.5)


def forecasts(experts: list[tuple[str, Expert]], past: Past, held_out: np.ndarray | None = None) -> Forecasts:
    """What the experts say; trained ones sleep for rows that are not held out (all are, unless given)."""
    said = []
    for _, expert in experts:
        forecast = expert.forecast(past)
        if expert.is_trained and held_out is not None:
            forecast[~held_out] = np.nan  # they know these labels
        said.append(forecast)
    return Forecasts.of(said)


def asked_rows(grid: np.ndarray, rows: pd.DataFrame, earliest: int) -> Asked:
    """The rows of a feature frame; one that arrived before the night ``earliest`` is predicted as of that night."""
    matured = (rows["state"] == "matured").to_numpy()
    label = rows["label"].to_numpy(dtype="float64")
    position = nearest(grid, np.where(matured, label, grid[0]))
    outcome_night = np.where(matured, night_after(rows["label_time"]), NEVER)
    entity = rows["entity_id"].to_numpy(dtype=str)
    night = np.maximum(night_before(rows["event_time"]), earliest)
    return Asked(entity, night, label, position, outcome_night, np.ones(len(rows)))


def in_order(asked: Asked, rows: pd.DataFrame) -> np.ndarray:
    """Positions of the rows with a known outcome, in the order in which it became known."""
    exact = rows["label_time"].to_numpy("datetime64[us]")
    order = np.lexsort((asked.entity, exact, asked.outcome_night))
    return np.asarray(order[asked.outcome_night[order] < NEVER])
