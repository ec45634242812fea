"""Prediction intervals that adapt to the outcomes of a version's predictions, to keep their coverage under drift."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import fsum
from typing import Protocol

import numpy as np

from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.intervals.conformal import Interval, conformal_interval, residuals_of
from ml_pipeline.training.selection.predictors import Scale

MIN_OUTCOMES = 5  # known outcomes of new entities that are needed before the trained interval changes
RATE = 0.8  # share of its distance from the median residual by which an end moves per excess miss
ROUNDING = 1e-9
MOST_MISSES = 2  # excess misses that count at most; too few misses move an end in to the median residual at most


@dataclass(frozen=True)
class Predictions:
    """Predictions of one version, one entry per entity, as arrays of equal length.

    ``value``, ``lower``, ``upper`` and ``label`` are float64 in the reported unit, the times are datetime64[us].
    ``label`` is NaN and ``label_time`` NaT while the outcome is unknown; an outcome that is not a usable label has a
    time but no label. ``is_new`` marks entities that arrived after the version was trained. Older entities had already
    been open for a while: their residuals are used, but their misses are not counted.
    """

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    event_time: np.ndarray
    label_time: np.ndarray
    label: np.ndarray
    is_new: np.ndarray

    def known_at(self, now: np.datetime64, waiting_unit: float | None) -> Known:
        """The outcomes as known at ``now``, without later information.

        ``waiting_unit`` is the number of seconds in the label's unit if the label is the time since the event, else
        None.
        """
        known = self.label_time <= now
        there = (self.event_time <= now) & ~(known & np.isnan(self.label))
        label = np.where(known, self.label, np.nan)
        least = np.full(len(label), -np.inf)
        if waiting_unit is not None:
            least = (now - self.event_time).astype("timedelta64[us]").astype(np.float64) / 1e6 / waiting_unit
        least = np.where(known, label, least)
        usable = np.where(known, 1.0, self._usable(now))
        parts = (self.value, self.lower, self.upper, label, least, usable, self.is_new)
        return Known(*(part[there] for part in parts))

    def _usable(self, now: np.datetime64) -> np.ndarray:
        """Estimated probability that each entity open at ``now`` will get a usable label.

        It is the share with a usable label among the ended entities that had been open for longer. One usable label is
        added, so that it is never 0.
        """
        waited, ended = now - self.event_time, self.label_time <= now
        lasted = self.label_time - self.event_time
        with_label, without = (np.sort(lasted[ended & (np.isnan(self.label) == missing)]) for missing in (False, True))
        labelled, dropped = (
            1 + len(times) - np.searchsorted(times, waited, side="right") for times in (with_label, without)
        )
        return labelled / (labelled + dropped - 1)


@dataclass(frozen=True)
class Known:
    """Predictions and their outcomes as known at one time: ``label`` (NaN while open) and its lower bound ``least``.

    ``usable`` is the probability that the entity gets a usable label. An end is infinite if it is the limit of the
    label's range, because no outcome can lie beyond it.
    """

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    label: np.ndarray
    least: np.ndarray
    usable: np.ndarray
    is_new: np.ndarray

    def misses_too_many(self, pool: np.ndarray, scale: Scale, tail: float) -> tuple[float, float]:
        """Excess misses of new entities: outcomes below the lower and above the upper end, minus the expected share.

        The expected share is ``tail`` of all new entities at either end. An unknown outcome counts with the probability
        that it will be a miss: the share of misses among the residuals of ``pool`` (ascending, on ``scale``) that are
        still possible. An entity that is open for longer than its upper end is thus a miss before its outcome is known,
        and ends that were just moved out do not move again only because the covered outcomes come late. Entities count
        by their probability of a usable label.
        """
        here = {name: part[self.is_new] for name, part in vars(self).items()}
        value, label, least = here["value"], here["label"], here["least"]
        known = ~np.isnan(label)
        lower, upper, reached = (_from(value, end, scale) for end in (here["lower"], here["upper"], least))
        left = _above(pool, reached)
        below = (left - _above(pool, lower - 2 * ROUNDING)) / np.maximum(left, 1)
        above = np.where(least > here["upper"], 1.0, _above(pool, upper) / np.maximum(left, 1))
        below = np.where(known, label < here["lower"], np.clip(below, 0, 1))
        above = np.where(known, label > here["upper"], np.clip(above, 0, 1))
        due = tail * fsum(here["usable"])
        return fsum(here["usable"] * below) - due, fsum(here["usable"] * above) - due  # fsum: the same in any row order


def _from(value: np.ndarray, end: np.ndarray, scale: Scale) -> np.ndarray:
    """The residual of an outcome at ``end``; infinite for an infinite end."""
    residual, finite = end.copy(), np.isfinite(end)
    residual[finite] = residuals_of(end[finite], value[finite], scale)
    return residual


def _above(pool: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Number of elements of ``pool`` above each residual; equal ones, up to rounding, do not count."""
    return len(pool) - np.searchsorted(pool, residual + ROUNDING, side="right")


class Adaptable(Protocol):
    """A version with adaptable intervals, such as :class:`~ml_pipeline.training.fitted_model.FittedModel`."""

    def adapted(self, known: Known, coverage: float) -> Adaptable: ...

    def ends(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


def adaptive_interval(
    trained: Interval, residuals: np.ndarray, known: Known, coverage: float
) -> tuple[Interval, np.ndarray]:
    """The interval for predictions made now, and its residuals; ``trained`` while fewer than 5 outcomes are known.

    The interval starts from quantiles of all known residuals: those held out in training and those of later outcomes
    (:func:`conformal_interval`). Each end then moves out by 0.8 of its distance from the median residual per excess
    miss on its side (at most two), or in per missing miss (at most to the median residual). This is the error
    integration of conformal PID control (Angelopoulos, Candes and Tibshirani 2023); adaptive conformal inference (Gibbs
    and Candes 2021) moves the level instead of the ends. Both methods assume that outcomes are known at once; here,
    unknown ones count by their expectation. The result does not depend on the order in which outcomes became known.

    The method was chosen on the lead times of ``benchmarks.lead_time``. These had worse coverage or width there: moving
    the level, residuals weighted by age or by their probability of being known, ignoring open entities, starting on
    held-out rows, and the Kaplan-Meier estimate of outcomes that will never be known. With a rate of 0.5 the coverage
    was less even (mean distance from 90%: 2.2 points, 1.5 with 0.8); 0.7 to 0.9 were equally good.

    Parameters
    ----------
    trained
        The interval from training.
    residuals
        Residuals of the version's held-out part, on the scale of ``trained``.
    known
        Predictions of the version and their outcomes as known now.
    coverage
        Nominal coverage; half of the remainder is the expected share of misses at either end.
    """
    matured = ~np.isnan(known.label)
    if (matured & known.is_new).sum() < MIN_OUTCOMES:
        return trained, residuals
    scale = trained.scale
    pool = np.sort(np.concatenate([residuals, residuals_of(known.label[matured], known.value[matured], scale)]))
    start, middle = conformal_interval(pool, coverage, scale), float(np.median(pool))
    misses = known.misses_too_many(pool, scale, (1 - coverage) / 2)
    below, above = (max(RATE * min(number, MOST_MISSES), -1.0) for number in misses)
    lower = start.below - below * (middle - start.below)
    upper = start.above + above * (start.above - middle)
    return Interval(scale, lower, upper), pool


def waiting_unit(spec: ModelSpec) -> float | None:
    """Seconds in the label's unit if the label is the time from the event until it is known, else None.

    For such a label, the time that an entity has been open is a lower bound of its label.
    """
    if len(spec.label.value) != 1 or len(spec.label.times) != 1 or spec.label.times[0].delay:
        return None
    terms = [term.strip() for term in spec.label.value[0].split("-")]
    return spec.label.unit_size if terms == [spec.label.times[0].column, spec.source.event_time] else None


def live_intervals(
    version: Adaptable, made: Predictions, coverage: float, unit: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends, float64, that adaptation would have given new entities at their event times.

    This replays the past: each interval depends on the intervals before it and on what was known at its time. Other
    entities keep their ends. ``made`` is sorted by event time; ``unit`` is the result of :func:`waiting_unit`.
    """
    lower, upper = made.lower.copy(), made.upper.copy()
    replayed = replace(made, lower=lower, upper=upper)
    for row in np.flatnonzero(made.is_new):
        before = replace(replayed, **{name: part[:row] for name, part in vars(replayed).items()})
        adapted = version.adapted(before.known_at(made.event_time[row], unit), coverage)
        (lower[row],), (upper[row],) = adapted.ends(made.value[row : row + 1])
    return lower, upper
