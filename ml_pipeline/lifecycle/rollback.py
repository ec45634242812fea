"""Whether a version that was activated stays: compared with the one before it, which keeps predicting in shadow.

Both versions' losses on the same entities are looked at 24 hours after the activation and daily from then on. Of two
equally good versions each is as often the better one, by as much: the signs of the paired differences are coin flips
(Fisher's sign-flip test), whose sum has a known spread whatever the differences are (de la Pena 1999). The looks share
one error rate by alpha spending (Lan and DeMets 1983), so that the whole watch keeps to it, however often it is run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ml_pipeline.lifecycle.promotion import Decision
from ml_pipeline.stats import losses

MIN_PAIRS = 20  # of fewer, nothing is said
ENOUGH_PAIRS = 200  # from which on a version that is provably not worse than tolerated is kept before the watch ends
FALSE_ROLLBACKS = 0.01  # of equally good versions, over the whole watch
EARLY_SHARES = (0.25, 0.45)  # of the error rate, for the first two looks: a bad version is to go within 48 hours
NOT_WORSE_Z = 2.326  # one-sided 99%

Numbers = dict[str, float | int | str | None]


@dataclass(frozen=True)
class Pairs:
    """Losses of a version and of the one before it on the same entities, and when these outcomes were known (UTC)."""

    losses: NDArray[np.float64]
    previous_losses: NDArray[np.float64]
    label_times: NDArray[np.datetime64]


def paired(
    task: Literal["regression", "binary"],
    outcomes: pd.DataFrame,
    predictions: pd.DataFrame,
    version: int,
    previous: int,
) -> Pairs:
    """The entities with an outcome that both versions predicted before it, live or in shadow, by label time.

    Of each version and entity the last prediction before the label time counts; of an entity that is reported more than
    once, the outcome that was known first.

    Parameters
    ----------
    outcomes : DataFrame
        ``entity_id``, ``label_time`` (aware), ``label``.
    predictions : DataFrame
        ``entity_id``, ``predicted_at`` (aware), ``value``, ``version``, ``origin``.
    """
    known = outcomes.dropna(subset=["label_time", "label"]).sort_values(["label_time", "entity_id", "label"])
    table = known.drop_duplicates("entity_id")[["entity_id", "label_time", "label"]]
    made = predictions[predictions["origin"] != "backtest"].dropna(subset=["value"])
    for number, name in ((version, "ours"), (previous, "theirs")):
        own = made.loc[made["version"] == number, ["entity_id", "predicted_at", "value"]].merge(
            table[["entity_id", "label_time"]], on="entity_id"
        )
        own = own[own["predicted_at"] < own["label_time"]].sort_values(["predicted_at", "value"])
        last = own.drop_duplicates("entity_id", keep="last").set_index("entity_id")["value"]
        table = table.assign(**{name: table["entity_id"].map(last)})
    both = table.dropna(subset=["ours", "theirs"])
    label = both["label"].to_numpy(np.float64)
    return Pairs(
        losses(task, label, both["ours"].to_numpy(np.float64)),
        losses(task, label, both["theirs"].to_numpy(np.float64)),
        both["label_time"].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[us]"),
    )


def watch(
    pairs: Pairs,
    *,
    task: Literal["regression", "binary"],
    version: int,
    previous: int | None,
    activated_at: datetime,
    now: datetime,
    tolerance: float = 0.05,
    max_days: int = 28,
    false_rollbacks: float = FALSE_ROLLBACKS,
) -> Decision:
    """What the watch over ``version`` has come to by ``now``: "watching", "keep" or "roll_back".

    Rolled back is a version whose mean loss lies more than ``tolerance`` above the previous one's, where the test finds
    it worse. Every look that was due is made again from the pairs known by then, so that the answer does not depend on
    when, or how often, this is called. After ``max_days``, or from 200 pairs on once it is provably within the
    tolerance, the version is kept.

    Parameters
    ----------
    pairs : Pairs
        Outcomes known before the activation or after ``now`` are left out here.
    previous : int or None
        None where no version served before: there is nothing to compare with, and the version is kept.
    activated_at, now : datetime
        Aware.
    false_rollbacks : float
        Share of watches over equally good versions that may end in a rollback.
    """
    who = f"version {version}"
    if previous is None:
        return Decision("keep", f"nothing_to_compare: no version served before {who}", {"version": version, "pairs": 0})
    against = f"version {previous}"
    start, end = _utc(activated_at), _utc(now)
    due = min(int((end - start) / np.timedelta64(1, "D")), max_days)
    numbers: Numbers = {
        "version": version,
        "previous": previous,
        "tolerance": tolerance,
        "false_rollbacks": false_rollbacks,
    }
    state = _seen(pairs, start, end, 0, 1.0, task)
    for look, spent in enumerate(_spending(false_rollbacks, max_days, due), start=1):
        state = _seen(pairs, start, start + np.timedelta64(look, "D"), look, spent, task)
        if state.worse and state.relative > tolerance:
            reason = f"worse: {who} has {state.sentence(against)}"
            return Decision("roll_back", reason, numbers | state.numbers)
        if state.pairs >= ENOUGH_PAIRS and state.upper < tolerance:
            reason = (
                f"not_worse: {who} has {state.sentence(against)}, and stays below {_percent(tolerance)} beyond chance"
            )
            return Decision("keep", reason, numbers | state.numbers)
    if due >= max_days:
        reason = f"not_shown_to_be_worse: in {max_days} days, {who} had {state.sentence(against)}"
        return Decision("keep", reason, numbers | state.numbers)
    reason = f"watching: day {due} of {max_days}, {who} has {state.sentence(against)}"
    return Decision("watching", reason, numbers | state.numbers)


@dataclass(frozen=True)
class _Look:
    """What one look sees of the pairs known by then."""

    look: int
    pairs: int
    mean: float
    previous_mean: float
    relative: float
    lower: float
    upper: float
    p_value: float
    allowed: float

    @property
    def worse(self) -> bool:
        return self.pairs >= MIN_PAIRS and self.p_value <= self.allowed

    @property
    def numbers(self) -> Numbers:
        known = {
            "mean_loss": self.mean,
            "previous_mean_loss": self.previous_mean,
            "relative_difference": self.relative,
            "relative_lower": self.lower,
            "relative_upper": self.upper,
        }
        finite = {name: value if math.isfinite(value) else None for name, value in known.items()}
        return {"look": self.look, "pairs": self.pairs, **finite, "p_value": self.p_value, "allowed": self.allowed}

    def sentence(self, against: str) -> str:
        if not self.pairs:
            return f"no outcome yet that {against} predicted too"
        bound = f", at least {_percent(self.lower)}" if math.isfinite(self.lower) else ""
        return (
            f"mean loss {self.mean:.4g} against {self.previous_mean:.4g} of {against} on {self.pairs} common entities "
            f"({_percent(self.relative)}{bound}; equally good versions differ as much in {self.p_value:.2g} of cases)"
        )


def _seen(
    pairs: Pairs,
    start: np.datetime64,
    end: np.datetime64,
    look: int,
    allowed: float,
    task: Literal["regression", "binary"],
) -> _Look:
    from scipy.special import ndtr, ndtri

    known = (pairs.label_times > start) & (pairs.label_times <= end)
    ours, theirs = pairs.losses[known], pairs.previous_losses[known]
    n = len(ours)
    if not n:
        return _Look(look, 0, math.nan, math.nan, math.nan, -math.inf, math.inf, 1.0, allowed)
    difference = ours - theirs
    # Few large errors decide the sum of unbounded differences; their square roots keep the sign and most of the size.
    weighed = difference if task == "binary" else np.sign(difference) * np.sqrt(np.abs(difference))
    size = float(np.sqrt(np.square(weighed).sum()))
    p_value = float(ndtr(-weighed.sum() / size)) if size > 0 else 1.0
    mean, previous_mean = float(ours.mean()), float(theirs.mean())
    error = float(difference.std(ddof=1) / np.sqrt(n)) if n > 1 else math.inf
    scale = previous_mean or math.nan
    relative = (mean - previous_mean) / scale if previous_mean else (math.inf if mean > 0 else 0.0)
    return _Look(
        look=look,
        pairs=n,
        mean=mean,
        previous_mean=previous_mean,
        relative=relative,
        lower=(mean - previous_mean + float(ndtri(allowed)) * error) / scale if allowed < 1 else -math.inf,
        upper=(mean - previous_mean + NOT_WORSE_Z * error) / scale,
        p_value=p_value,
        allowed=allowed,
    )


def _spending(total: float, max_days: int, due: int) -> Iterator[float]:
    """Error rate of each look that is due: the early ones have their shares, the others what is left in equal parts."""
    early = EARLY_SHARES[:max_days]
    left = 1 - sum(early) if max_days > len(early) else 0.0
    for look in range(due):
        yield total * (early[look] if look < len(early) else left / (max_days - len(early)))


def _utc(moment: datetime) -> np.datetime64:
    return pd.Timestamp(moment).tz_convert("UTC").tz_localize(None).to_datetime64()


def _percent(share: float) -> str:
    return f"{share:+.1%}" if math.isfinite(share) else "from none at all"
