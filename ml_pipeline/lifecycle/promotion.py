"""Promotion: a new version must beat the baseline, and must not be worse than the champion on the same entities."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np

MIN_PAIRS = 30  # with so many pairs, a gain must only not be negative
SIGNIFICANT_PAIRS = 10  # with so many pairs, or so many recent ones, a significant gain counts
CONFIDENCE = 0.95  # of the two-sided interval of the gain
RESAMPLES = 2000  # of the bootstrap
MIXTURE_FLOOR = -0.10  # skill that a mixture must exceed on the test part
MIN_BLOCKS = 10  # the bootstrap resamples whole days if there are so many, else single entities

Numbers = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Decision:
    """A verdict with the sentence that explains it and the numbers behind it."""

    verdict: str
    reason: str
    numbers: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class BusinessValue:
    """Value of a business metric on the test part for a challenger and the baseline; None if it is undefined."""

    name: str
    title: str
    value: float | None
    baseline_value: float | None
    better: Literal["higher", "lower"] = "higher"
    gate: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the value reaches the gate; True without a gate."""
        if self.gate is None:
            return True
        if self.value is None:
            return False
        return self.value >= self.gate if self.better == "higher" else self.value <= self.gate

    def numbers(self) -> Numbers:
        key = f"business_{self.name}"
        numbers: Numbers = {key: self.value, f"{key}_baseline": self.baseline_value}
        return numbers if self.gate is None else numbers | {f"{key}_gate": self.gate}

    def sentence(self) -> str:
        value = "no value" if self.value is None else f"{self.value:.4g}"
        bound = "at least" if self.better == "higher" else "at most"
        return f"{self.name} {value}, needed {bound} {self.gate:.4g} ({self.title})"


@dataclass(frozen=True)
class Evidence:
    """Results of a challenger, of the champion and of the baseline, from which the promotion is decided.

    Parameters
    ----------
    metric : str
        Name of the headline metric.
    value, baseline_value : float
        The metric of the challenger and of the baseline on the test part.
    min_skill : float
        Skill that a promotion needs.
    candidate_is_baseline : bool
        Whether model selection selected the baseline.
    losses, champion_losses : array of shape (entities,)
        Loss per entity, for the same entities in the same order, predicted by fits that did not know the outcome. Both
        are empty without a champion.
    champion : int or None
        Number of the champion.
    label_times : array of datetime64 of shape (entities,), optional
        When the outcomes were known (UTC).
    changed_at : datetime64 or None
        When the outcomes changed, if a degradation was found. Outcomes since then are also compared separately.
    baseline_losses : array of shape (entities,), optional
        Losses of the baseline on the same entities, to find out whether the champion is worse than the baseline.
    business : tuple of BusinessValue
        Business metrics of the specification.
    is_mixture : bool
        Whether the challenger is a mixture. Unless ``min_skill`` is set, it may be up to 10% worse than the baseline on
        the test part: it selects nothing that would have to be proved, and follows later outcomes.
    """

    metric: str
    value: float
    baseline_value: float
    min_skill: float
    candidate_is_baseline: bool
    losses: np.ndarray
    champion_losses: np.ndarray
    champion: int | None = None
    label_times: np.ndarray | None = None
    changed_at: np.datetime64 | None = None
    baseline_losses: np.ndarray | None = None
    business: tuple[BusinessValue, ...] = ()
    is_mixture: bool = False


FALL_BACK = "fall_back"


def judge(evidence: Evidence) -> Decision:
    """Promote a challenger, reject it, or fall back to the baseline.

    - Baseline: the skill ``1 - value / baseline_value`` on the test part must exceed ``min_skill``. For a mixture
      (``is_mixture``) without a declared ``min_skill``, it must exceed -10%.
    - Champion: the gain (mean loss of the champion minus that of the challenger on the same entities) must not be
      negative. With fewer than 30 common entities it must be significant: its 95% interval, from a bootstrap of whole
      days, lies above 0. With fewer than 10, the champion stays.
    - Change of the outcomes: if one of the two is significantly better on the outcomes since ``changed_at`` alone,
      these decide.
    - Fallback: if the challenger does not beat the baseline, and the champion is significantly worse than the baseline
      on the same entities (only those since ``changed_at``, if it is given), the baseline serves instead.
    - Business metrics: a challenger that misses a gate is rejected.

    Parameters
    ----------
    evidence : Evidence
        Results of the challenger, of the champion and of the baseline.

    Returns
    -------
    Decision
        ``promote``, ``reject`` or ``fall_back``, with the reason and the numbers.

    >>> judge(Evidence("mae", 2.1, 2.0, 0.0, False, np.array([]), np.array([]))).reason
    'baseline_not_beaten: mae 2.1 against 2 of the baseline (skill -5.0%, needed more than 0.0%)'
    """
    decision = _against_baseline(evidence)
    if evidence.champion is not None:
        against_champion = _champion_against_baseline if decision.verdict == "reject" else _against_champion
        decision = against_champion(evidence, decision)
    for metric in evidence.business:
        decision = replace(decision, numbers=decision.numbers | metric.numbers())
    missed = [metric.sentence() for metric in evidence.business if not metric.reached]
    if decision.verdict != "promote" or not missed:
        return decision
    return replace(decision, verdict="reject", reason=f"gate_not_reached: {'; '.join(missed)}; {decision.reason}")


def _against_baseline(evidence: Evidence) -> Decision:
    skill = relative_gain(evidence.value, evidence.baseline_value)
    numbers: Numbers = {
        "metric": evidence.metric,
        "value": evidence.value,
        "baseline_value": evidence.baseline_value,
        "skill": skill,
        "min_skill": evidence.min_skill,
    }
    compared = f"{evidence.metric} {evidence.value:.4g} against {evidence.baseline_value:.4g} of the baseline"
    if evidence.candidate_is_baseline:
        return Decision("reject", f"baseline_not_beaten: the baseline was selected in validation ({compared})", numbers)
    needed = f"(skill {skill:.1%}, needed more than {evidence.min_skill:.1%})"
    if not skill > evidence.min_skill:
        if evidence.is_mixture and evidence.min_skill == 0 and skill > MIXTURE_FLOOR:
            reason = f"near_baseline: {compared} (skill {skill:.1%}; a mixture needs more than {MIXTURE_FLOOR:.0%})"
            return Decision("promote", reason, numbers)
        return Decision("reject", f"baseline_not_beaten: {compared} {needed}", numbers)
    return Decision("promote", f"baseline_beaten: {compared} {needed}", numbers)


def _champion_against_baseline(evidence: Evidence, rejected: Decision) -> Decision:
    """Fall back if the baseline, which the challenger did not beat, is significantly better than the champion."""
    if evidence.baseline_losses is None:
        return rejected
    baseline = replace(evidence, losses=evidence.baseline_losses)
    chosen = np.ones(len(baseline.losses), dtype=bool) if evidence.changed_at is None else _since_change(baseline)
    pairs = _paired(baseline, chosen)
    if not pairs.significant:
        return rejected
    since = "" if evidence.changed_at is None else f" whose outcome was known since {evidence.changed_at}"
    sentence = f"the baseline has {pairs.sentence(f'champion version {evidence.champion}')}{since}"
    reason = f"champion_worse_than_baseline: {sentence}; the challenger is no better: {rejected.reason}"
    numbers = rejected.numbers | {"champion": evidence.champion} | pairs.numbers("baseline_")
    return Decision(FALL_BACK, reason, numbers)


def _against_champion(evidence: Evidence, baseline: Decision) -> Decision:
    who = f"champion version {evidence.champion}"
    all_pairs = _paired(evidence, np.ones(len(evidence.losses), dtype=bool))
    recent = _paired(evidence, _since_change(evidence))
    numbers = baseline.numbers | {"champion": evidence.champion} | all_pairs.numbers("")
    if evidence.changed_at is not None:
        numbers |= recent.numbers("recent_")
    if recent.significant:
        reason = f"better_since_change: {recent.sentence(who)} whose outcome was known since {evidence.changed_at}"
        return Decision("promote", reason, numbers)
    if recent.pairs >= SIGNIFICANT_PAIRS and recent.upper < 0:
        reason = f"worse_since_change: {recent.sentence(who)} whose outcome was known since {evidence.changed_at}"
        return Decision("reject", reason, numbers)
    if all_pairs.pairs < SIGNIFICANT_PAIRS:
        reason = f"too_few_pairs: {all_pairs.pairs} of {MIN_PAIRS} entities that neither it nor {who} was fitted on"
        return Decision("reject", reason, numbers)
    compared = all_pairs.sentence(who)
    if all_pairs.pairs < MIN_PAIRS and not all_pairs.significant:
        return Decision(
            "reject", f"too_few_pairs: {compared}, where {MIN_PAIRS} or a significant gain is needed", numbers
        )
    if all_pairs.gain < 0:
        return Decision("reject", f"champion_not_beaten: {compared}", numbers)
    return Decision("promote", f"better: {compared}", numbers)


class _Paired(NamedTuple):
    """Mean losses on common entities, and the interval of the gain (champion minus challenger)."""

    pairs: int
    mean: float
    champion_mean: float
    gain: float
    lower: float
    upper: float

    @property
    def significant(self) -> bool:
        return self.pairs >= SIGNIFICANT_PAIRS and self.lower > 0

    def numbers(self, prefix: str) -> Numbers:
        known: Numbers = {f"{prefix}pairs": self.pairs}
        if self.pairs:
            known |= {f"{prefix}mean_loss": self.mean, f"{prefix}champion_mean_loss": self.champion_mean}
            known |= {f"{prefix}gain": self.gain}
            bounds = {f"{prefix}gain_lower": self.lower, f"{prefix}gain_upper": self.upper}
            known |= {name: bound if math.isfinite(bound) else None for name, bound in bounds.items()}
        return known

    def sentence(self, who: str) -> str:
        return (
            f"mean loss {self.mean:.4g} against {self.champion_mean:.4g} of {who} on {self.pairs} entities "
            f"(gain {self.gain:.3g}, {CONFIDENCE:.0%} between {self.lower:.2g} and {self.upper:.2g})"
        )


def _paired(evidence: Evidence, chosen: np.ndarray) -> _Paired:
    ours, theirs = evidence.losses[chosen], evidence.champion_losses[chosen]
    if not len(ours):
        return _Paired(0, 0.0, 0.0, 0.0, 0.0, 0.0)
    difference = theirs - ours
    days = None if evidence.label_times is None else evidence.label_times[chosen].astype("datetime64[D]")
    lower, upper = mean_interval(difference, days)
    return _Paired(len(ours), float(ours.mean()), float(theirs.mean()), float(difference.mean()), lower, upper)


def _since_change(evidence: Evidence) -> np.ndarray:
    if evidence.changed_at is None or evidence.label_times is None:
        return np.zeros(len(evidence.losses), dtype=bool)
    return evidence.label_times >= evidence.changed_at


def mean_interval(
    values: np.ndarray, blocks: np.ndarray | None = None, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Two-sided confidence interval of the mean: studentized bootstrap (Hall 1988) of whole blocks (Kunsch 1989).

    The same values give the same interval in any order. For a single value the interval is infinite.

    Parameters
    ----------
    values : array of shape (rows,)
    blocks : array of shape (rows,), optional
        Block of each value, such as its day. With fewer than ten blocks, or without them, each value is a block.
    confidence : float

    Returns
    -------
    tuple of float
        Lower and upper end.

    >>> [round(end, 2) for end in mean_interval(np.tile([1.0, 3.0], 20))]
    [1.69, 2.31]
    """
    if blocks is None or len(np.unique(blocks)) < MIN_BLOCKS:
        blocks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    order = np.lexsort((values, blocks))
    values, (_, number) = values[order], np.unique(blocks[order], return_inverse=True)
    count, total = np.bincount(number).astype(float), np.bincount(number, weights=values)
    n, mean = len(count), float(values.mean())
    if n < 2:
        return -math.inf, math.inf
    drawn = np.random.default_rng(0).integers(0, n, size=(RESAMPLES, n))
    counts, totals = count[drawn], total[drawn]
    means = totals.sum(axis=1) / counts.sum(axis=1)
    error = float(np.sqrt(np.square(total - mean * count).sum() * n / (n - 1)) / count.sum())
    spread = np.square(totals - means[:, None] * counts).sum(axis=1) * n / (n - 1)
    errors = np.sqrt(spread) / counts.sum(axis=1)
    drawn_well = errors > 0
    if error == 0 or not drawn_well.any():
        return mean, mean
    studentized = (means[drawn_well] - mean) / errors[drawn_well]
    low, high = np.quantile(studentized, [(1 - confidence) / 2, (1 + confidence) / 2])
    return mean - float(high) * error, mean - float(low) * error


def relative_gain(value: float, baseline_value: float) -> float:
    """Skill ``1 - value / baseline_value``; if ``baseline_value`` is 0: 0 for a ``value`` of 0, else minus infinity.

    >>> relative_gain(1.5, 2.0)
    0.25
    """
    if baseline_value == 0:
        return 0.0 if value == 0 else float("-inf")
    return 1 - value / baseline_value
