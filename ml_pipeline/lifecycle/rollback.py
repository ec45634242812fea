"""Rollback watch: compare a newly activated version with the previous one, which keeps predicting in shadow.

The watch tests the losses of both versions on the same entities 24 hours after the activation, and once a day from then
on. If the two versions are equally good, the sign of each paired difference is a coin flip (Fisher's sign-flip test),
and the spread of the sum is known for any size of the differences (de la Pena 1999). The daily tests share one error
rate by alpha spending (Lan and DeMets 1983). The error rate therefore holds for the whole watch, however often it runs.
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

from ml_pipeline.lifecycle.promotion import Decision, Numbers
from ml_pipeline.stats import losses

MIN_PAIRS = 20  # pairs that a rollback needs
ENOUGH_PAIRS = 200  # pairs that end the watch early, if the version is significantly better than the tolerance
FALSE_ROLLBACKS = 0.01  # share of equally good versions that are rolled back over the whole watch
EARLY_SHARES = (0.25, 0.45)  # of the error rate, for the first two tests: a bad version should go within 48 hours
NOT_WORSE_Z = 2.326  # one-sided 99%


@dataclass(frozen=True)
class Pairs:
    """Losses of a version and of the previous one on the same entities, and the label times of these outcomes (UTC)."""

    losses: NDArray[np.float64]
    previous_losses: NDArray[np.float64]
    label_times: NDArray[np.datetime64]


@dataclass(frozen=True)
class Activation:
    """The activation of a version that is watched.

    Parameters
    ----------
    version : int
        The version that serves since then.
    previous : int or None
        The version that served before, which keeps predicting in shadow; None without one.
    at : datetime
        Aware time of the activation.
    task : {"regression", "binary"}
        Task of the model.
    """

    version: int
    previous: int | None
    at: datetime
    task: Literal["regression", "binary"]


def paired(
    task: Literal["regression", "binary"],
    outcomes: pd.DataFrame,
    predictions: pd.DataFrame,
    version: int,
    previous: int,
) -> Pairs:
    """Losses of two versions on the entities that both predicted before the outcome was known.

    For each version and entity, the last prediction before the label time counts, live or in shadow. If an entity has
    several outcomes, the first one counts.

    Parameters
    ----------
    task : {"regression", "binary"}
        Decides the loss: absolute error, or squared error of the probability.
    outcomes : DataFrame
        ``entity_id``, ``label_time`` (aware), ``label``.
    predictions : DataFrame
        ``entity_id``, ``predicted_at`` (aware), ``value``, ``version``, ``origin``.
    version, previous : int
        Numbers of the two versions.

    Returns
    -------
    Pairs
        One pair per common entity, sorted by label time.
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
    activation: Activation,
    *,
    now: datetime,
    tolerance: float = 0.05,
    max_days: int = 28,
    false_rollbacks: float = FALSE_ROLLBACKS,
) -> Decision:
    """Result of the watch at ``now``: ``watching``, ``keep`` or ``roll_back``.

    A version is rolled back if the test finds it worse and its mean loss is more than ``tolerance`` above that of the
    previous version. It is kept after ``max_days``, or earlier if at least 200 pairs show with 99% confidence that its
    loss is within the tolerance. Each call repeats all daily tests that are due, with the pairs known on their days.
    The result therefore does not depend on the time or the number of the calls.

    Parameters
    ----------
    pairs : Pairs
        Pairs of the two versions; outcomes known before the activation or after ``now`` are ignored.
    activation : Activation
        The versions and the time of the activation. Without a previous version, the version is kept.
    now : datetime
        Aware time.
    tolerance : float
        Relative rise of the mean loss that is tolerated.
    max_days : int
        Length of the watch.
    false_rollbacks : float
        Share of watches over equally good versions that may end in a rollback.

    Returns
    -------
    Decision
        The result, with the sentence that explains it and the numbers of the last test.
    """
    version, previous = activation.version, activation.previous
    who = f"version {version}"
    if previous is None:
        return Decision("keep", f"nothing_to_compare: no version served before {who}", {"version": version, "pairs": 0})
    against = f"version {previous}"
    start, end = (
        pd.Timestamp(time).tz_convert("UTC").tz_localize(None).to_datetime64() for time in (activation.at, now)
    )
    due = min(int((end - start) / np.timedelta64(1, "D")), max_days)
    numbers: Numbers = {
        "version": version,
        "previous": previous,
        "tolerance": tolerance,
        "false_rollbacks": false_rollbacks,
    }
    state = _look(pairs, start, end, 0, 1.0, activation.task)
    for look, spent in enumerate(_spending(false_rollbacks, max_days, due), start=1):
        state = _look(pairs, start, start + np.timedelta64(look, "D"), look, spent, activation.task)
        if state.worse and state.relative > tolerance:
            reason = f"worse: {who} has {state.sentence(against)}"
            return Decision("roll_back", reason, numbers | state.numbers)
        if state.pairs >= ENOUGH_PAIRS and state.upper < tolerance:
            reason = f"not_worse: {who} has {state.sentence(against)}, significantly less than {_percent(tolerance)}"
            return Decision("keep", reason, numbers | state.numbers)
    if due >= max_days:
        reason = f"not_shown_to_be_worse: in {max_days} days, {who} had {state.sentence(against)}"
        return Decision("keep", reason, numbers | state.numbers)
    reason = f"watching: day {due} of {max_days}, {who} has {state.sentence(against)}"
    return Decision("watching", reason, numbers | state.numbers)


@dataclass(frozen=True)
class _Look:
    """Result of one test: of the pairs known at the time of the test."""

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
            return f"no outcome yet that {against} also predicted"
        bound = f", at least {_percent(self.lower)}" if math.isfinite(self.lower) else ""
        return (
            f"mean loss {self.mean:.4g} against {self.previous_mean:.4g} of {against} on {self.pairs} common entities "
            f"({_percent(self.relative)}{bound}; p = {self.p_value:.2g})"
        )


def _look(
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
    # A few large errors would dominate a sum of absolute errors; the square root keeps the sign and most of the size.
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
    """Error rate of each test that is due: the first two have fixed shares, the others share the rest equally."""
    early = EARLY_SHARES[:max_days]
    left = 1 - sum(early) if max_days > len(early) else 0.0
    for look in range(due):
        yield total * (early[look] if look < len(early) else left / (max_days - len(early)))


def _percent(share: float) -> str:
    return f"{share:+.1%}" if math.isfinite(share) else "from 0"
