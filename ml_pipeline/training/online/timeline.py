"""What experts read: the known outcomes in the order in which they became known, and the rows to predict.

Time advances by nights. A row is predicted with the outcomes that were known at the midnight (UTC) before it, so a past
that is computed at once equals a past that was lived night by night.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ml_pipeline.timeutil import MICROSECONDS_PER_DAY

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the experts read of each row, computed by the fitted structure.

    ``leaves`` is int32 (rows, trees): the number of the leaf among all nodes of the forest. ``terms`` are TF-IDF terms
    as a sparse matrix with rows of norm 1 or 0, or None without text. ``group`` is an integer per row, -1 for a group
    that training did not know. ``values`` is float64 (rows, learners): predictions of the learners.
    """

    leaves: np.ndarray
    terms: Any
    group: np.ndarray
    values: np.ndarray

    def take(self, rows: np.ndarray) -> Encoded:
        """The rows at these positions."""
        terms = None if self.terms is None else self.terms[rows]
        return Encoded(self.leaves[rows], terms, self.group[rows], self.values[rows])

    def followed_by(self, other: Encoded) -> Encoded:
        """These rows, then the others."""
        return Encoded(*(_joined(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)))


@dataclass(frozen=True, eq=False)
class Known:
    """Outcomes in the order in which they became known: entity, grid position, label and night, and encoded rows.

    ``count`` is 1, or -1 for an entry that undoes an outcome which was revised that night. ``since`` is the night from
    which an entry decays: its own, or that of the outcome which it undoes.
    """

    entity: np.ndarray
    position: np.ndarray
    label: np.ndarray
    night: np.ndarray
    rows: Encoded
    count: np.ndarray
    since: np.ndarray

    @classmethod
    def of(cls, asked: Asked, encoded: Encoded, order: np.ndarray) -> Known:
        """The outcomes of the rows at the positions ``order``."""
        entity, position, label, night = (
            part[order] for part in (asked.entity, asked.position, asked.label, asked.outcome_night)
        )
        return cls(entity, position, label, night, encoded.take(order), np.ones(len(order), dtype=np.int64), night)

    def __len__(self) -> int:
        return len(self.night)

    def followed_by(self, other: Known) -> Known:
        """These outcomes, then others, which became known later."""
        joined = {one.name: _joined(getattr(self, one.name), getattr(other, one.name)) for one in fields(self)}
        return Known(**joined)

    def revised_by(self, newer: Known) -> Known:
        """``newer`` with an entry before each outcome of an entity that has one here, which undoes that one."""
        latest = pd.Series(np.arange(len(self)), index=self.entity)
        latest = latest[~latest.index.duplicated(keep="last")]
        earlier = latest.reindex(newer.entity).to_numpy(dtype="float64")
        again = np.flatnonzero(~np.isnan(earlier))
        if not len(again):
            return newer
        undone = self.take(earlier[again].astype(np.int64))
        undone = replace(undone, night=newer.night[again], count=-undone.count)
        place = np.argsort(np.concatenate([again - 0.5, np.arange(len(newer))]), kind="stable")
        return undone.followed_by(newer).take(place)

    def take(self, entries: np.ndarray) -> Known:
        """The entries at these positions."""
        parts = (self.entity, self.position, self.label, self.night)
        entity, position, label, night = (part[entries] for part in parts)
        rows, count, since = self.rows.take(entries), self.count[entries], self.since[entries]
        return Known(entity, position, label, night, rows, count, since)


class Asked(NamedTuple):
    """Rows to predict, one entry each: the night whose knowledge predicts it, and its outcome.

    ``label``, ``position`` (in the grid) and ``outcome_night`` are those of the outcome; a row without a known one has
    ``NEVER`` as ``outcome_night``. ``scale`` is the scale of the gains that its outcome gives.
    """

    entity: np.ndarray
    night: np.ndarray
    label: np.ndarray
    position: np.ndarray
    outcome_night: np.ndarray
    scale: np.ndarray

    def with_scale(self, order: np.ndarray, scale: np.ndarray) -> Asked:
        """A copy with the scales of the outcomes at the positions ``order``."""
        every = self.scale.copy()
        every[order] = scale
        return self._replace(scale=every)


def _joined(first: Any, second: Any) -> Any:
    if first is None:
        return None
    if isinstance(first, Encoded):
        return first.followed_by(second)
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    from scipy.sparse import vstack

    return vstack([first, second], format="csr")


def night_before(times: pd.Series) -> np.ndarray:
    """Days since 1970 (int64) of the last midnight at or before each time."""
    return np.asarray(times.to_numpy("datetime64[us]").astype("datetime64[D]").astype(np.int64))


def night_after(times: pd.Series) -> np.ndarray:
    """Days since 1970 (int64) of the first midnight after each time; ``NEVER`` for NaT.

    An outcome that is dated with a midnight counts from the next one on: in a source without times of day, the day of
    an outcome is all that is known, and its own row must not see it.
    """
    exact = times.to_numpy("datetime64[us]")
    missing = np.isnat(exact)
    microseconds = np.where(missing, 0, exact.astype(np.int64))
    return np.where(missing, NEVER, microseconds // MICROSECONDS_PER_DAY + 1)
