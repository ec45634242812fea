"""Whether a new version may serve: it must beat the constant baseline, and the champion on the same entities."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

MIN_PAIRS = 30


@dataclass(frozen=True)
class Decision:
    """A verdict with the sentence that explains it and the numbers behind it."""

    verdict: str
    reason: str
    numbers: dict[str, float | int | str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """What is known of a challenger when it is judged.

    ``losses`` and ``champion_losses`` are per entity, for the same entities in the same order, each predicted by a fit
    that had not seen its outcome. Both are empty where there is no champion.
    """

    metric: str
    value: float
    baseline_value: float
    min_skill: float
    candidate_is_constant: bool
    losses: np.ndarray
    champion_losses: np.ndarray
    champion: int | None = None


def judge(evidence: Evidence) -> Decision:
    """Promote or reject a challenger.

    Against the baseline: skill ``1 - value / baseline_value`` on the test part must exceed ``min_skill``. Against the
    champion: the mean of the paired loss differences must not be negative. With fewer than 30 common entities, nothing
    can be said and the champion stays.

    >>> judge(Evidence("mae", 2.1, 2.0, 0.0, False, np.array([]), np.array([]))).reason
    'baseline_not_beaten: mae 2.1 against 2 of the constant (skill -5.0 %, needed more than 0.0 %)'
    """
    baseline = _against_baseline(evidence)
    if baseline.verdict == "reject" or evidence.champion is None:
        return baseline
    return _against_champion(evidence, baseline)


def _against_baseline(evidence: Evidence) -> Decision:
    skill = relative_gain(evidence.value, evidence.baseline_value)
    numbers: dict[str, float | int | str | None] = {
        "metric": evidence.metric,
        "value": evidence.value,
        "baseline_value": evidence.baseline_value,
        "skill": skill,
        "min_skill": evidence.min_skill,
    }
    compared = f"{evidence.metric} {evidence.value:.4g} against {evidence.baseline_value:.4g} of the constant"
    if evidence.candidate_is_constant:
        return Decision("reject", f"baseline_not_beaten: a constant won on the validation part ({compared})", numbers)
    needed = f"(skill {skill:.1%}, needed more than {evidence.min_skill:.1%})".replace("%", " %")
    if not skill > evidence.min_skill:
        return Decision("reject", f"baseline_not_beaten: {compared} {needed}", numbers)
    return Decision("promote", f"baseline_beaten: {compared} {needed}", numbers)


def _against_champion(evidence: Evidence, baseline: Decision) -> Decision:
    pairs = len(evidence.losses)
    who = f"champion version {evidence.champion}"
    numbers = baseline.numbers | {"champion": evidence.champion, "pairs": pairs}
    if pairs < MIN_PAIRS:
        reason = f"too_few_pairs: {pairs} of {MIN_PAIRS} entities that neither it nor {who} was fitted on"
        return Decision("reject", reason, numbers)
    difference = evidence.champion_losses - evidence.losses
    gain, error = float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(pairs))
    numbers |= {
        "mean_loss": float(evidence.losses.mean()),
        "champion_mean_loss": float(evidence.champion_losses.mean()),
    }
    numbers |= {"gain": gain, "gain_standard_error": error}
    compared = (
        f"mean loss {numbers['mean_loss']:.4g} against {numbers['champion_mean_loss']:.4g} of {who} "
        f"on {pairs} entities (gain {gain:.3g} +/- {error:.2g})"
    )
    if gain < 0:
        return Decision("reject", f"champion_not_beaten: {compared}", numbers)
    return Decision("promote", f"better: {compared}", numbers)


def relative_gain(value: float, baseline_value: float) -> float:
    """``1 - value / baseline_value``; 0 where the baseline makes no error and neither does the model.

    >>> relative_gain(1.5, 2.0)
    0.25
    """
    if baseline_value == 0:
        return 0.0 if value == 0 else float("-inf")
    return 1 - value / baseline_value


def losses(task: Literal["regression", "binary"], label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Loss per entity: absolute error, or squared error of the probability."""
    error = np.abs(np.asarray(label, dtype=float) - np.asarray(prediction, dtype=float))
    return error if task == "regression" else error**2
