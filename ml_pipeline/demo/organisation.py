"""Simulated organisations: size, period and drifts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

DriftKind = Literal["covariate", "concept", "volume", "missing", "label"]

MAX_PEOPLE = 200
MAX_TEAMS = 12

_SHARES: tuple[DriftKind, ...] = ("covariate", "concept", "missing")  # kinds whose size is a share


@dataclass(frozen=True)
class Drift:
    """A change of an organisation's items, for all items created from ``at`` on.

    The change is immediate, or grows linearly over ``gradual_days``. The meaning of ``size`` depends on the kind:

    - ``covariate`` (0..1): share of new items that belong to a campaign. Campaign items have everyday topics and long
      texts, and come from the busiest people; pull requests grow by the factor 1 + size. The relation of text and
      author to the outcome does not change.
    - ``concept`` (0..1): degree to which the effect of topics, openings and diff sizes is reversed. At 0.5 they have no
      effect, at 1 hard items become easy. Everything visible at creation stays the same.
    - ``volume`` (> -1): items per week are multiplied by 1 + size.
    - ``missing`` (0..1): share of the priorities, descriptions, bodies and diff sizes filled in before that become
      missing.
    - ``label`` (> -1): story points, durations and the odds of a further review cycle are multiplied by 1 + size.

    Raises
    ------
    ValueError
        If the kind is unknown, the size is out of its range, ``at`` has no time zone, or the days are negative.
    """

    kind: DriftKind
    at: pd.Timestamp
    size: float = 1.0
    gradual_days: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(DriftKind):
            raise ValueError(f"drift kind {self.kind!r} is unknown. Use one of {', '.join(get_args(DriftKind))}")
        if self.kind in _SHARES and not 0 <= self.size <= 1:
            raise ValueError(f"size {self.size} of a {self.kind} drift is not a share. Use 0 to 1")
        if not self.size > -1:
            raise ValueError(f"size {self.size} of a {self.kind} drift is too small. Use more than -1")
        if self.at.tzinfo is None:
            raise ValueError(f"drift at {self.at} has no time zone. Use UTC")
        if self.gradual_days < 0:
            raise ValueError(f"gradual_days is {self.gradual_days}. Use 0 for a change at once")

    def strength(self, seconds: np.ndarray) -> np.ndarray:
        """The part of ``size`` reached at each time (seconds since the epoch)."""
        elapsed = seconds - self.at.timestamp()
        if self.gradual_days == 0:
            return self.size * (elapsed >= 0)
        return self.size * np.clip(elapsed / (self.gradual_days * 86400), 0, 1)


@dataclass(frozen=True)
class Organisation:
    """A tenant to simulate, from ``start`` to ``end`` (inclusive, UTC).

    ``issues_per_week`` and ``pull_requests_per_week`` are approximate averages over a year; ``people`` is the number at
    any time, because people who leave are replaced.

    Raises
    ------
    ValueError
        If a number is invalid; the message names tenant, field and value.
    """

    tenant_id: str
    seed: int
    start: pd.Timestamp
    end: pd.Timestamp
    issues_per_week: float
    pull_requests_per_week: float
    people: int
    teams: int
    drifts: tuple[Drift, ...] = ()

    def __post_init__(self) -> None:
        where = f"organisation {self.tenant_id!r}:"
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError(f"{where} start {self.start} and end {self.end} need a time zone. Use UTC")
        if self.start >= self.end:
            raise ValueError(f"{where} start {self.start} is not before end {self.end}")
        if self.seed < 0:
            raise ValueError(f"{where} seed is {self.seed}. Use 0 or more")
        if min(self.issues_per_week, self.pull_requests_per_week) < 0:
            raise ValueError(
                f"{where} {self.issues_per_week} issues and {self.pull_requests_per_week} pull requests a week. "
                "Use 0 or more"
            )
        if not 1 <= self.teams <= min(MAX_TEAMS, self.people) or self.people > MAX_PEOPLE:
            raise ValueError(
                f"{where} {self.people} people in {self.teams} teams. Use at most {MAX_PEOPLE} people, "
                f"in 1 to {MAX_TEAMS} teams of at least one person"
            )

    def share(self, kind: DriftKind, seconds: np.ndarray) -> np.ndarray:
        """Combined strength of the drifts of one kind at each time, at most 1."""
        total = sum((drift.strength(seconds) for drift in self.drifts if drift.kind == kind), np.zeros(len(seconds)))
        return np.minimum(total, 1)

    def missing_share(self, usual: float, seconds: np.ndarray) -> np.ndarray:
        """Share of missing values of a field at each time, ``usual`` without a drift."""
        return usual + (1 - usual) * self.share("missing", seconds)

    def factor(self, kind: DriftKind, seconds: np.ndarray) -> np.ndarray:
        """Product of ``1 + strength`` of the drifts of one kind at each time."""
        product = np.ones(len(seconds))
        for drift in self.drifts:
            if drift.kind == kind:
                product *= 1 + drift.strength(seconds)
        return product


DEMO_CHANGE = pd.Timedelta(days=42)  # before the end of the demo's history


def demo_organisations(now: pd.Timestamp, seed: int = 7) -> list[Organisation]:
    """Four tenants with ten months of history up to ``now``.

    acme and umbrella do not change. ``DEMO_CHANGE`` before ``now``, globex starts a campaign, which changes its items
    but not their outcomes (covariate drift), and the outcomes of initech's items change (concept drift).
    """
    start = now - pd.Timedelta(days=300)
    campaign = Drift("covariate", now - DEMO_CHANGE, size=0.5, gradual_days=14)
    upheaval = Drift("concept", now - DEMO_CHANGE)
    return [
        Organisation("acme", seed, start, now, 60, 40, people=24, teams=3),
        Organisation("globex", seed + 1, start, now, 75, 50, people=36, teams=4, drifts=(campaign,)),
        Organisation("initech", seed + 2, start, now, 100, 36, people=18, teams=2, drifts=(upheaval,)),
        Organisation("umbrella", seed + 3, start, now, 70, 40, people=28, teams=3),
    ]


def fleet(n: int, now: pd.Timestamp, seed: int = 7) -> list[Organisation]:
    """``n`` tenants without drift, named from "tenant-0001" on, with a year of history up to ``now``.

    Sizes are lognormal: half of the tenants create fewer than 6 issues and 4 pull requests per week, one in ten more
    than about 17 and 11. A tenant is the same in a fleet of any size.
    """
    start = now - pd.Timedelta(days=365)
    sizes = np.exp(np.random.default_rng(seed).normal(0.0, 0.8, size=n))
    organisations = []
    for number, size in enumerate(sizes, start=1):
        people = int(np.clip(round(6 * size), 3, MAX_PEOPLE))
        organisations.append(
            Organisation(
                tenant_id=f"tenant-{number:04d}",
                seed=seed * 1_000_000 + number,
                start=start,
                end=now,
                issues_per_week=6 * float(size),
                pull_requests_per_week=4 * float(size),
                people=people,
                teams=int(np.clip(people // 5, 1, MAX_TEAMS)),
            )
        )
    return organisations
