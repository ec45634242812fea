"""Result of a replay: what a policy did over a tenant's past, with values for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Fit:
    """A training or update that the policy (or the start of the replay) requested at the end of ``day``."""

    day: date
    action: str
    trigger: str
    severity: str | None
    reason: str
    verdict: str  # promote, fall back, reject or failed
    judgement: str
    version: int | None  # its number if it was promoted
    seconds: float


@dataclass(frozen=True)
class Rollback:
    """The rollback watch found a promoted version worse than the previous one, which serves again."""

    day: date
    version: int
    to: int
    reason: str


@dataclass
class BlockedTrigger:
    """A trigger that safeguards blocked for the same reason from ``first`` to ``last``."""

    first: date
    last: date
    days: int
    trigger: str
    blocked_by: tuple[str, ...]
    reason: str  # as given on the first day


@dataclass(frozen=True)
class AlertRaised:
    """The first day on which a monitor reported HIGH or CRITICAL after a day on which it did not."""

    day: date
    kind: str  # drift or degradation
    severity: str | None
    since: date | None  # first day of the change, as estimated by the monitor
    reason: str


@dataclass(frozen=True)
class DayLoss:
    """Number of outcomes that became known on a day, and the sums of their losses for three predictions."""

    day: date
    outcomes: int
    loss: float
    baseline: float
    rolling: float
    version: int | None  # serving at the end of the day


@dataclass
class Replay:
    """Replay of one policy on one tenant's past.

    Losses are summed over the outcomes, known by ``last``, of entities that arrived after the first training. ``loss``
    is that of the version that served when the entity arrived (the baseline, before the first promotion), ``baseline``
    that of the baseline of the first training, and ``rolling`` that of the median (binary: mean) of the last 50 labels
    known at that time.
    """

    model: str
    policy: str
    first: date
    last: date
    days: list[DayLoss] = field(default_factory=list)
    fits: list[Fit] = field(default_factory=list)
    blocked: list[BlockedTrigger] = field(default_factory=list)
    rollbacks: list[Rollback] = field(default_factory=list)
    alerts: list[AlertRaised] = field(default_factory=list)
    changes: tuple[date, ...] = ()
    interrupted: bool = False
    # Prediction per row of the frame, NaN for rows without one.
    values: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def trainings(self) -> int:
        """Number of full trainings that the policy requested, without the first one of the replay."""
        return sum(fit.action == "train" and fit.trigger != "first" for fit in self.fits)

    @property
    def updates(self) -> int:
        return sum(fit.action == "update" for fit in self.fits)

    @property
    def promotions(self) -> int:
        return sum(fit.verdict == "promote" and fit.trigger != "first" for fit in self.fits)

    @property
    def outcomes(self) -> int:
        return sum(day.outcomes for day in self.days)

    def mean_loss(self, of: str = "loss") -> float | None:
        """Mean of ``loss``, ``baseline`` or ``rolling`` over all outcomes; None without outcomes."""
        return sum(getattr(day, of) for day in self.days) / self.outcomes if self.outcomes else None

    @property
    def delays(self) -> list[dict[str, Any]]:
        """Days from each known change to the first alert before the next change; None without an alert."""
        found = []
        for change, end in zip(self.changes, [*self.changes[1:], date.max], strict=False):
            alert = next((alert for alert in self.alerts if change <= alert.day < end), None)
            delay = None if alert is None else (alert.day - change).days
            found.append({"change": change.isoformat(), "days": delay, "kind": alert.kind if alert else None})
        return found

    @property
    def estimated_delays(self) -> list[int]:
        """Days from the estimated start of each degradation to its alert."""
        return [(alert.day - alert.since).days for alert in self.alerts if alert.since is not None]

    def to_dict(self) -> dict[str, Any]:
        """All fields for JSON, with dates as text and the running mean of each loss per day."""
        summary = {
            "model": self.model,
            "policy": self.policy,
            "first": self.first,
            "last": self.last,
            "interrupted": self.interrupted,
            "outcomes": self.outcomes,
            "mean_loss": self.mean_loss(),
            "baseline_loss": self.mean_loss("baseline"),
            "rolling_loss": self.mean_loss("rolling"),
            "trainings": self.trainings,
            "updates": self.updates,
            "promotions": self.promotions,
            "delays": self.delays,
            "estimated_delays": self.estimated_delays,
            "alerts": [asdict(alert) for alert in self.alerts],
            "fits": [asdict(fit) for fit in self.fits],
            "blocked": [asdict(block) for block in self.blocked],
            "rollbacks": [asdict(rollback) for rollback in self.rollbacks],
            "days": self._daily_losses(),
        }
        return {key: _plain(part) for key, part in summary.items()}

    def _daily_losses(self) -> list[dict[str, Any]]:
        known, sums, rows = 0, {"loss": 0.0, "baseline": 0.0, "rolling": 0.0}, []
        for day in self.days:
            known += day.outcomes
            row: dict[str, Any] = {"day": day.day, "outcomes": day.outcomes, "version": day.version}
            for name in sums:
                sums[name] += getattr(day, name)
                row[name] = getattr(day, name) / day.outcomes if day.outcomes else None
                row[f"mean_{name}"] = sums[name] / known if known else None
            rows.append(row)
        return rows


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.isoformat() if isinstance(value, date) else value
