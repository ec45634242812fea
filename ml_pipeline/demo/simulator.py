"""A seeded simulator of organisations: issues and pull requests with partly predictable outcomes.

Each week has its own random stream with one row of random numbers per item, so neither a later ``end`` nor a drift
changes earlier items.
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
    """Rows of ``source.issues`` and ``source.pull_requests`` of one tenant, without ``tenant_id``, oldest first."""

    issues: pd.DataFrame
    pull_requests: pd.DataFrame


def simulate(organisation: Organisation) -> History:
    """Simulate the data of an organisation as known at its ``end``; later outcomes are empty.

    Story points, durations and rework depend partly on what is visible at creation (type, team, author, priority, text,
    diff size, the team's open issues, the season) and partly on chance. Equal organisations give equal frames; a later
    ``end`` gives the same items with more outcomes, and further items.

    >>> from ml_pipeline.demo.simulator import Organisation
    >>> start, end = pd.Timestamp("2025-01-01", tz="UTC"), pd.Timestamp("2025-03-01", tz="UTC")
    >>> history = simulate(Organisation("acme", 7, start, end, 20, 10, people=8, teams=2))
    >>> history.issues["created_at"].is_monotonic_increasing
    True
    """
    staff = staff_of(organisation)
    return History(simulated_issues(organisation, staff), simulated_pull_requests(organisation, staff))
