"""State of one tenant and model from which retraining is decided."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal, NamedTuple

from ml_pipeline.severity import Severity
from ml_pipeline.timeutil import SECONDS_PER_DAY

Action = Literal["train", "update"]


class Flags(NamedTuple):
    """Whether automatic retraining is on: in general, for the model, for the tenant. All three are needed."""

    master: bool = False
    model: bool = False
    tenant: bool = False


ALL_OFF = Flags()


@dataclass(frozen=True)
class DriftFinding:
    """The newest drift report. ``severity`` is that of the drift score alone, without the outcomes."""

    day: date
    status: Literal["stable", "drift", "insufficient_data"]
    severity: Severity | None = None
    score: float | None = None
    alert: bool = False
    reason: str = ""


@dataclass(frozen=True)
class DegradationFinding:
    """The newest degradation report: relative ``rise`` of the serving version's loss on ``outcomes`` outcomes."""

    day: date
    status: Literal["stable", "degraded", "insufficient_data"]
    severity: Severity | None = None
    rise: float | None = None
    since: date | None = None
    outcomes: int = 0


@dataclass(frozen=True)
class Champion:
    """The serving version, the as-of time of its training, and the time since which it serves."""

    number: int
    as_of: datetime
    deployed_at: datetime


@dataclass(frozen=True)
class LastFit:
    """A finished training or update: its as-of time, and whether its version was promoted."""

    at: datetime
    action: Action = "train"
    promoted: bool = True


@dataclass(frozen=True)
class Request:
    """A person's request for a training."""

    by: str
    reason: str = ""


@dataclass(frozen=True)
class CollectedState:
    """The part of the state that decides the triggers. A few queries collect it for the whole fleet. Times are aware.

    Parameters
    ----------
    matured : int
        Matured labels that a training could use.
    new_labels : int
        Matured labels that became known after the newest training or update; all before the first one.
    new_labels_since_training : int
        Matured labels that became known after the newest full training.
    weekly_items : float
        Mean number of new entities a week.
    last_fit : LastFit or None
        The newest finished training or update, promoted or not, whoever started it.
    last_training : LastFit or None
        The newest finished full training.
    consecutive_rejections : int
        Number of the newest full trainings in a row whose version was rejected.
    last_attempt : datetime or None
        Start of the newest run for the tenant and model, whatever its result.
    active_runs, fleet_trainings : int
        Runs under way for the tenant and model; trainings under way or approved in the whole fleet.
    updates_left : int or None
        Warm-start updates until the champion needs a full training; None without a limit.
    quality : float or None
        Data-quality score of the newest snapshot, 0 to 100.
    watching : bool
        Whether the rollback watch of the newest promoted version is undecided.
    is_online : bool
        Whether the model takes up outcomes every night (``training.ensemble: online``).
    """

    tenant: str
    model: str
    now: datetime
    matured: int
    new_labels: int
    new_labels_since_training: int
    weekly_items: float
    flags: Flags = ALL_OFF
    drift: DriftFinding | None = None
    degradation: DegradationFinding | None = None
    champion: Champion | None = None
    last_fit: LastFit | None = None
    last_training: LastFit | None = None
    consecutive_rejections: int = 0
    last_attempt: datetime | None = None
    active_runs: int = 0
    fleet_trainings: int = 0
    updates_left: int | None = None
    quality: float | None = None
    watching: bool = False
    is_online: bool = False
    rolled_back_at: datetime | None = None
    request: Request | None = None

    def __post_init__(self) -> None:
        if self.now.tzinfo is None:
            raise ValueError(
                f"tenant {self.tenant}, model {self.model}: now is {self.now.isoformat()}, a time without a zone. "
                "Give it in UTC"
            )

    def days_since(self, moment: datetime) -> float:
        """Days from ``moment`` to now; 0 if ``moment`` is after now, because the clock was set back."""
        return max(0.0, (self.now - moment).total_seconds() / SECONDS_PER_DAY)


@dataclass(frozen=True)
class State(CollectedState):
    """Everything that :func:`ml_pipeline.lifecycle.retraining.decide` reads.

    The additional fields take one query per tenant, which is only made for tenants with a trigger.

    Parameters
    ----------
    labels_since_change : int or None
        Matured labels of entities that arrived since the outcomes changed; None if no day of a change is known.
    quiet_hours : tuple of int or None
        Hours (UTC) with the tenant's least traffic, for a policy without ``off_peak`` hours.
    """

    labels_since_change: int | None = None
    quiet_hours: tuple[int, ...] | None = None
