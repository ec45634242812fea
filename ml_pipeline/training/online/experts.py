"""Experts: forecasts of a row's outcome as a distribution, from the outcomes known the night before.

Each expert is a function of the past. Where it has nothing to say about a row, it sleeps: its forecast is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np

from ml_pipeline.specs.experts import LEARNERS, TRAINING, kind_and_number
from ml_pipeline.training.online.distributions import nearest
from ml_pipeline.training.online.timeline import Encoded, Known

SHRINKAGE = 10  # outcomes of all groups that count as much as the group's own
NEWEST_RESIDUALS = 50
SIMILAR_AT_ONCE = 512  # rows whose similarities are computed together
_DEEPEST, _HIGHEST = 30, 15  # half-lives before and after the version was trained that decay distinguishes


@dataclass(frozen=True, eq=False)
class Past:
    """The past of a version, and the rows to predict.

    ``trained_grid`` is the part of ``grid`` that training knew. ``night`` is the night whose knowledge predicts
    each row, ``seen`` the number of outcomes known then: an expert must not read the others. ``trained_night`` is
    the night at which the version was trained, ``training`` the distribution of its training labels over the grid,
    ``fresh`` says which known outcomes the structure was not fitted on, ``fit_holds`` is False if many labels that
    it was fitted on have been corrected, and ``residuals`` are earlier ones of each learner on held-out rows.
    """

    grid: np.ndarray
    trained_grid: np.ndarray
    known: Known
    asked: Encoded
    night: np.ndarray
    seen: np.ndarray
    trained_night: int
    training: np.ndarray
    fresh: np.ndarray
    residuals: tuple[np.ndarray, ...] = ()
    fit_holds: bool = True

    @cached_property
    def leaves(self) -> list[_Keys]:
        """For each tree, sums over the outcomes in a row's leaf; computed once for all forests."""
        trees = zip(self.known.rows.leaves.T, self.asked.leaves.T, strict=True)
        return [_Keys(known, asked, self.seen) for known, asked in trees]

    def one_hot(self) -> np.ndarray:
        """int64 (outcomes, values): 1 at the value of each outcome, -1 where it is undone."""
        found = np.zeros((len(self.known), len(self.grid)), dtype=np.int64)
        found[np.arange(len(self.known)), self.known.position] = self.known.count
        return found

    def decayed(self, half_life: float) -> np.ndarray:
        """int64 per outcome: its weight, doubled for each half-life by which it is newer."""
        return self.decay_of(self.known.since, half_life)

    def decay_of(self, night: np.ndarray, half_life: float) -> np.ndarray:
        """int64: the weight of an outcome that became known at the night.

        Integers make sums exact, so that they do not depend on what else is summed. Outcomes older than 30 half-lives
        before the training have the weight 1; the weight grows for 15 half-lives after it.
        """
        lives = np.clip((night - self.trained_night) / half_life, -_DEEPEST, _HIGHEST)
        return np.rint(2.0 ** (lives + _DEEPEST)).astype(np.int64)


class Expert(Protocol):
    """A way to forecast. ``is_trained`` says whether the structure that it reads was fitted on labels."""

    @property
    def is_trained(self) -> bool: ...

    def forecast(self, past: Past) -> np.ndarray:
        """Probability of each grid value, float64 (rows, values); a row of NaN where the expert sleeps."""


@dataclass(frozen=True)
class Window:
    """The last outcomes."""

    outcomes: int
    is_trained: ClassVar[bool] = False

    def forecast(self, past: Past) -> np.ndarray:
        total = _running(past.one_hot())
        return _shares(total[past.seen] - total[np.maximum(past.seen - self.outcomes, 0)])


@dataclass(frozen=True)
class HalfLife:
    """All outcomes; one counts half as much as another that is newer by the half-life."""

    days: float
    is_trained: ClassVar[bool] = False

    def forecast(self, past: Past) -> np.ndarray:
        return _shares(_running(past.one_hot() * past.decayed(self.days)[:, None])[past.seen])


@dataclass(frozen=True)
class ByGroup:
    """The last outcomes of the row's group, shrunk toward the last outcomes of all groups."""

    outcomes: int
    is_trained: ClassVar[bool] = False

    def forecast(self, past: Past) -> np.ndarray:
        everyone = Window(self.outcomes).forecast(past)
        keys = _Keys(past.known.rows.group, past.asked.group, past.seen)
        own = np.maximum(keys.sums(past.one_hot(), self.outcomes), 0)
        return np.asarray((own + SHRINKAGE * everyone) / (own.sum(axis=1, keepdims=True) + SHRINKAGE))


@dataclass(frozen=True)
class Training:
    """The labels that the version was trained on."""

    is_trained: ClassVar[bool] = False

    def forecast(self, past: Past) -> np.ndarray:
        return np.tile(past.training, (len(past.seen), 1))


@dataclass(frozen=True)
class Forest:
    """A forest whose leaves are refilled with known outcomes, which decay with the half-life; the splits stay.

    The forecast is the mean over the trees of the distribution in the row's leaf. Without ``prior``, a tree whose leaf
    is empty is left out. With it, the distribution of all known outcomes, decayed likewise, counts in each leaf as much
    as so many outcomes of the night.
    """

    half_life: float
    prior: float = 0.0
    is_trained: ClassVar[bool] = True

    def forecast(self, past: Past) -> np.ndarray:
        weighted = past.one_hot() * past.decayed(self.half_life)[:, None]
        of_all = np.zeros((len(past.seen), 1))
        if self.prior:
            newest = past.decay_of(past.night, self.half_life)[:, None]
            of_all = self.prior * newest * _shares(_running(weighted)[past.seen])
        total = np.zeros((len(past.seen), len(past.grid)))
        trees = np.zeros(len(past.seen))
        for leaf in past.leaves:
            counts = leaf.sums(weighted) + of_all
            size = counts.sum(axis=1)  # exact: what is undone was there
            total += counts / np.where(size > 0, size, 1)[:, None]
            trees += size > 0
        return _shares(np.where(trees[:, None] > 0, total, 0))


@dataclass(frozen=True)
class Neighbours:
    """The outcomes of the rows with the most similar texts, by the cosine of their TF-IDF terms.

    It sleeps for a row that shares no term with a known one.
    """

    count: int
    is_trained: ClassVar[bool] = False

    def forecast(self, past: Past) -> np.ndarray:
        counts = np.zeros((len(past.seen), len(past.grid)))
        if past.asked.terms is None:
            return _shares(counts)
        for rows, positions, similar in self.nearest(past):
            chosen = past.known.position[positions]
            counted = (similar > 0) * past.known.count[positions]
            np.add.at(counts, (np.repeat(rows, positions.shape[1]), chosen.ravel()), counted.ravel())
        return _shares(counts)

    def nearest(self, past: Past) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Parts of (rows, positions of their nearest known outcomes, cosines); 0 marks a place that nobody takes."""
        found = []
        number = np.arange(len(past.known))
        for start in range(0, len(past.seen), SIMILAR_AT_ONCE):
            rows = np.arange(start, min(start + SIMILAR_AT_ONCE, len(past.seen)))
            limit = int(past.seen[rows].max(initial=0))
            if not limit:
                continue
            cosines = (past.asked.terms[rows] @ past.known.rows.terms[:limit].T).toarray()
            cosines[number[:limit] >= past.seen[rows][:, None]] = 0
            newest_first = cosines[:, ::-1]  # of equally similar ones, the newest
            order = np.argsort(-newest_first, axis=1, kind="stable")[:, : self.count]
            found.append((rows, limit - 1 - order, np.take_along_axis(newest_first, order, axis=1)))
        return found


@dataclass(frozen=True)
class Residuals:
    """A learner's prediction plus its newest residuals on rows that it was not fitted on.

    It sleeps without such residuals, and if so many labels were corrected that its fit does not hold.
    """

    learner: int
    is_trained: ClassVar[bool] = True

    def forecast(self, past: Past) -> np.ndarray:
        counts = np.zeros((len(past.seen), len(past.grid)))
        held_out = past.residuals[self.learner] if past.residuals else np.empty(0)
        fresh = np.flatnonzero(past.fresh & (past.known.count > 0))
        newer = past.known.label[fresh] - past.known.rows.values[fresh, self.learner]
        residuals = np.concatenate([held_out, newer])
        until = len(held_out) + np.searchsorted(fresh, past.seen)  # of the residuals that each row has seen
        value = past.asked.values[:, self.learner]
        rows = np.flatnonzero(np.isfinite(value) & (until > 0))
        if not len(rows) or not past.fit_holds:
            return _shares(counts)
        window = until[rows, None] - 1 - np.arange(NEWEST_RESIDUALS)
        spread = np.where(window >= 0, residuals[np.maximum(window, 0)], np.nan)
        there = np.isfinite(spread)
        outcome = nearest(past.trained_grid, np.where(there, value[rows, None] + spread, 0.0).ravel())
        place = np.searchsorted(past.grid, past.trained_grid)[outcome]
        np.add.at(counts, (np.repeat(rows, NEWEST_RESIDUALS), place), there.ravel().astype(float))
        return _shares(counts)


@dataclass(frozen=True)
class Probability:
    """The probability that a classifier predicts."""

    learner: int
    is_trained: ClassVar[bool] = True

    def forecast(self, past: Past) -> np.ndarray:
        value = past.asked.values[:, self.learner]
        return np.column_stack([1 - value, value])


KINDS: dict[str, Callable[[int], Expert]] = {
    "last": Window,
    "half_life": HalfLife,
    "group": ByGroup,
    "forest": Forest,
    "neighbours": Neighbours,
}


def experts_of(names: Iterable[str], candidates: Sequence[str], task: str) -> list[tuple[str, Expert]]:
    """The experts of a specification with their names; ``learners`` stands for one per candidate."""
    found: list[tuple[str, Expert]] = []
    for name in names:
        kind, number = kind_and_number(name)
        if kind == TRAINING:
            found.append((name, Training()))
        elif kind == LEARNERS:
            learner = Probability if task == "binary" else Residuals
            found += [(candidate, learner(position)) for position, candidate in enumerate(candidates)]
        elif kind == "forest" and task == "binary":
            found.append((name, Forest(number, prior=1.0)))
        else:
            found.append((name, KINDS[kind](number)))
    return found


class _Keys:
    """Sums over the known outcomes that have the same key as a row and were seen by it."""

    def __init__(self, known: np.ndarray, asked: np.ndarray, seen: np.ndarray) -> None:
        outcomes = len(known)
        place = known.astype(np.int64) * (outcomes + 1) + np.arange(outcomes)
        self._order = np.argsort(known, kind="stable")
        sorted_places = place[self._order]
        first = asked.astype(np.int64) * (outcomes + 1)
        self._start = np.searchsorted(sorted_places, first)
        self._stop = np.searchsorted(sorted_places, first + seen)

    def sums(self, values: np.ndarray, last: int | None = None) -> np.ndarray:
        """Sums of ``values`` (int64, outcomes x values) for each row, over the ``last`` outcomes if given."""
        running = _running(values[self._order])
        start = self._start if last is None else np.maximum(self._stop - last, self._start)
        return np.asarray(running[self._stop] - running[start])


def _running(values: np.ndarray) -> np.ndarray:
    """Sum of the first n rows, for n from 0 on."""
    return np.concatenate([np.zeros((1, values.shape[1]), dtype=values.dtype), np.cumsum(values, axis=0)])


def _shares(counts: np.ndarray) -> np.ndarray:
    """Counts as shares of their row's sum, NaN for a row without counts.

    A count is negative if an outcome was undone that is not in the window; it is 0 then.
    """
    counts = np.maximum(counts, 0)
    size = counts.sum(axis=1, keepdims=True)
    return np.asarray(np.where(size > 0, counts / np.where(size > 0, size, 1), np.nan))
