"""A seeded generator of organisations: issues and pull requests whose outcomes are in part foreseeable.

What is created in a week comes from the week's own random stream, one row of random numbers per item, so neither a
later ``end`` nor a drift changes anything that came before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ml_pipeline.demo.issues import simulated_issues
from ml_pipeline.demo.organisation import Drift, DriftKind, Organisation, demo_organisations, fleet
from ml_pipeline.demo.pull_requests import simulated_pull_requests
from ml_pipeline.demo.staff import staff_of

__all__ = ["Drift", "DriftKind", "History", "Organisation", "demo_organisations", "fleet", "simulate"]


@dataclass
class History:
    """The rows of ``source.issues`` and ``source.pull_requests`` of one tenant, without ``tenant_id``, oldest first."""

    issues: pd.DataFrame
    pull_requests: pd.DataFrame


def simulate(organisation: Organisation) -> History:
    """What an organisation's tools hold at its ``end``: outcomes that come later are empty.

    Story points, durations and rework depend in part on what is visible at creation (type, team, author, priority,
    words, diff size, the team's open issues, the season) and in part on nothing that anybody can know. The same
    organisation gives the same frames; ``simulate`` with a later ``end`` gives the same items and fills in more.

    >>> from ml_pipeline.demo.simulator import Organisation
    >>> start, end = pd.Timestamp("2025-01-01", tz="UTC"), pd.Timestamp("2025-03-01", tz="UTC")
    >>> history = simulate(Organisation("acme", 7, start, end, 20, 10, people=8, teams=2))
    >>> history.issues["created_at"].is_monotonic_increasing
    True
    """
    staff = staff_of(organisation)
    return History(simulated_issues(organisation, staff), simulated_pull_requests(organisation, staff))
