"""Prediction intervals that follow the outcomes of a version's own predictions, so that a drift does not break them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import fsum
from typing import Protocol

import numpy as np

from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.intervals.conformal import Interval, conformal_interval, residuals_of
from ml_pipeline.training.selection.predictors import Scale

MIN_OUTCOMES = 5  # known outcomes of new entities, below which the interval stays as it was trained
RATE = 0.8  # of its distance from the median residual, by which a miss too many moves an end
ROUNDING = 1e-9
MOST_MISSES = 2  # too many, that count; too few move an end in to the median residual at most


@dataclass(frozen=True)
class Predictions:
    """What a version has predicted, one entry an entity; arrays of one length.

    ``value``, ``lower``, ``upper`` and ``label`` are float64 in the reported unit, the times datetime64[us]. ``label``
    is NaN and ``label_time`` NaT while the outcome is not known; an outcome that is no usable label has a time alone.
    ``is_new`` marks entities that came after the version was made. The others had waited for a while already: their
    residuals count, and whether their intervals held does not.
    """

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    event_time: np.ndarray
    label_time: np.ndarray
    label: np.ndarray
    is_new: np.ndarray

    def known_at(self, now: np.datetime64, waiting_unit: float | None) -> Known:
        """What was known of them at ``now``; nothing that came later is looked at.

        ``waiting_unit``: seconds in the label's unit where the label is the time since the event, else None.
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
        """How probably each that is open at ``now`` gets a usable label.

        Of those that had waited for as long, and whose end is known, the share that did; one more is taken for granted,
        so that nothing is ruled out.
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
    """Predictions and what is known of their outcomes: ``label`` (NaN while open), and the ``least`` it can be.

    ``usable`` is the probability that there will be a label that counts. An end is infinite where the label's range
    ends there: no outcome can be beyond it.
    """

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    label: np.ndarray
    least: np.ndarray
    usable: np.ndarray
    is_new: np.ndarray

    def misses_too_many(self, pool: np.ndarray, scale: Scale, tail: float) -> tuple[float, float]:
        """Outcomes of new entities below the lower and above the upper end, less the share ``tail`` of all of them.

        An outcome that is not known counts with the probability that it will be a miss: the share of misses among the
        residuals of ``pool`` (ascending, on ``scale``) that it can still have. So an entity that has waited for longer
        than its upper end is a miss before its outcome comes, and ends that have just been moved out are not moved
        again because the outcomes that were inside are late. What will probably never have an outcome counts for less.
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
        return fsum(here["usable"] * below) - due, fsum(here["usable"] * above) - due  # whatever the order of the rows


def _from(value: np.ndarray, end: np.ndarray, scale: Scale) -> np.ndarray:
    """The residual of an outcome at ``end``; infinite ends have infinite ones."""
    residual, finite = end.copy(), np.isfinite(end)
    residual[finite] = residuals_of(end[finite], value[finite], scale)
    return residual


def _above(pool: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """How many of ``pool`` are above each residual. One that an end stands on is not, however it was rounded."""
    return len(pool) - np.searchsorted(pool, residual + ROUNDING, side="right")


class Adaptable(Protocol):
    """A version whose intervals follow its outcomes: :class:`~ml_pipeline.training.fitted_model.FittedModel`."""

    def adapted(self, known: Known, coverage: float) -> Adaptable: ...

    def ends(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


def adaptive_cadence(
    trained: Interval, residuals: np.ndarray, known: Known, coverage: float
) -> tuple[Interval, np.ndarray]:
    """The interval for predictions made now, and the residuals it stands on; ``trained`` while too little is known.

    Quantiles of all known residuals, those held out in training and those lived since (:func:`conformal_interval`),
    and each end is moved out by 0.8 of its distance from the median residual for every miss too many on its side (two
    at most), in for every miss too few (to the median residual at most): the error integration of conformal PID control
    (Angelopoulos, Candes and Tibshirani 2023), of which adaptive conformal inference (Gibbs and Candes 2021) is the
    kind that moves the level in place of the end. Both take for granted that outcomes come at once; here late ones
    count as expected. What is summed has no order: the
    same outcomes give the same interval, whenever each became known.

    Chosen on the lead times of ``benchmarks.lead_time``. Worse there, in coverage or in width: moving the level,
    residuals weighted by age or by their chance of being known, no count of what is open, starting on held-out rows,
    Kaplan and Meier's estimate of what will never be known. A rate of .5 covered less evenly (a mean distance from 90 %
    of 2.2 points, 1.5 with .8), .7 to .9 were alike.

    Parameters
    ----------
    residuals
        Of the version's held-out part, on the scale of ``trained``.
    coverage
        The nominal one; half of the rest is the share of misses due on either side.
    """
    lived = ~np.isnan(known.label)
    if (lived & known.is_new).sum() < MIN_OUTCOMES:
        return trained, residuals
    scale = trained.scale
    pool = np.sort(np.concatenate([residuals, residuals_of(known.label[lived], known.value[lived], scale)]))
    start, middle = conformal_interval(pool, coverage, scale), float(np.median(pool))
    misses = known.misses_too_many(pool, scale, (1 - coverage) / 2)
    below, above = (max(RATE * min(number, MOST_MISSES), -1.0) for number in misses)
    lower = start.below - below * (middle - start.below)
    upper = start.above + above * (start.above - middle)
    return Interval(scale, lower, upper), pool


def waiting_unit(spec: ModelSpec) -> float | None:
    """Seconds in the label's unit where the label is the time from the event to when it is known, else None.

    Of such a label an open entity tells something every day: it is at least as long as the entity has waited.
    """
    if len(spec.label.value) != 1 or len(spec.label.times) != 1 or spec.label.times[0].delay:
        return None
    terms = [term.strip() for term in spec.label.value[0].split("-")]
    return spec.label.unit_size if terms == [spec.label.times[0].column, spec.source.event_time] else None


def lived_intervals(
    version: Adaptable, made: Predictions, coverage: float, unit: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends that new entities would have got at their event times, float64; the others keep theirs.

    The past lived again: each interval follows from the intervals before it, and from what was known at its time.
    ``made`` is in the order of its event times; ``unit`` as in :func:`waiting_unit`.
    """
    lower, upper = made.lower.copy(), made.upper.copy()
    lived = replace(made, lower=lower, upper=upper)
    for row in np.flatnonzero(made.is_new):
        before = replace(lived, **{name: part[:row] for name, part in vars(lived).items()})
        adapted = version.adapted(before.known_at(made.event_time[row], unit), coverage)
        (lower[row],), (upper[row],) = adapted.ends(made.value[row : row + 1])
    return lower, upper
