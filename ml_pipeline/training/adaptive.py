"""Prediction intervals that follow the outcomes of a version's own predictions, so that a drift does not break them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.intervals import Interval, conformal_interval, residuals_of

MIN_OUTCOMES = 5  # known outcomes of new entities, below which the interval stays as it was trained
RATE = 0.2  # of half the width, by which a miss too many moves an end
MOST_MISSES = 5  # too many or too few, that count: an end moves by half the width at most


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
        return Known(*(part[there] for part in (self.value, self.lower, self.upper, label, least, self.is_new)))


@dataclass(frozen=True)
class Known:
    """Predictions and what is known of their outcomes: ``label`` (NaN while open), and the ``least`` it can be."""

    value: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    label: np.ndarray
    least: np.ndarray
    is_new: np.ndarray

    def misses_too_many(self, tail: float) -> tuple[float, float]:
        """Outcomes below the lower and above the upper end, less the share ``tail`` of those that are decided.

        An entity that has waited for longer than its lower end is decided there, one that has for longer than its
        upper end is a miss: neither has to be waited for, and slow outcomes do not count later than quick ones.
        """
        known = ~np.isnan(self.label)
        misses_below, misses_above = known & (self.label < self.lower), self.least > self.upper
        decided_below, decided_above = known | (self.least >= self.lower), known | misses_above
        below, above = (
            float(misses[self.is_new].sum() - tail * decided[self.is_new].sum())
            for misses, decided in ((misses_below, decided_below), (misses_above, decided_above))
        )
        return below, above


class Adaptable(Protocol):
    """A version whose intervals follow its outcomes: :class:`~ml_pipeline.training.version.FittedModel`."""

    def adapted(self, known: Known, coverage: float) -> Adaptable: ...

    def ends(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


def adaptive_interval(
    trained: Interval, residuals: np.ndarray, known: Known, coverage: float
) -> tuple[Interval, np.ndarray]:
    """The interval for predictions made now, and the residuals it stands on; ``trained`` while too little is known.

    Quantiles of all known residuals, those held out in training and those lived since (:func:`conformal_interval`),
    and each end is moved out by a fifth of half the width for every miss too many on its side, in for every miss too
    few: the error integration of conformal PID control (Angelopoulos, Candes and Tibshirani 2023), of which adaptive
    conformal inference (Gibbs and Candes 2021) is the kind that moves the level in place of the end. The entity to come
    counts as a miss, as it does in the quantile, for misses are heard of late. What is summed has no order: the same
    outcomes give the same interval, whenever each became known.

    Chosen on the lead times of ``benchmarks.lead_time``, where rates of .1 to .3 with and without older outcomes fading
    differed by less than the luck of small tenants; moving the level, weighting by age, correcting for the open ones
    by their probability of being known, and starting on the held-out rows were worse.

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
    pool = np.concatenate([residuals, residuals_of(known.label[lived], known.value[lived], scale)])
    start = conformal_interval(pool, coverage, scale)
    step = RATE * (start.above - start.below) / 2
    below, above = np.clip(1 + np.array(known.misses_too_many((1 - coverage) / 2)), -MOST_MISSES, MOST_MISSES)
    # Moving in, an end stops at the prediction.
    lower = min(start.below - step * below, max(start.below, 0.0))
    upper = max(start.above + step * above, min(start.above, 0.0))
    return Interval(scale, float(lower), float(upper)), np.sort(pool)


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
