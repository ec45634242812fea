"""The severity of a drift or a degradation, and the levels of alerts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Severity = Literal["MEDIUM", "HIGH", "CRITICAL"]
RANK: dict[Severity | None, int] = {None: 0, "MEDIUM": 1, "HIGH": 2, "CRITICAL": 3}
LEVELS = ("LOW", "MEDIUM", "HIGH", "CRITICAL")  # of alerts


def rank(level: str) -> int:
    """Position of a level; higher is worse.

    Raises
    ------
    ValueError
        If the level is unknown.

    >>> rank("HIGH") > rank("MEDIUM")
    True
    """
    if level not in LEVELS:
        raise ValueError(f"alert level is {level!r}; the levels are {', '.join(LEVELS)}")
    return LEVELS.index(level)


def highest(levels: Iterable[str]) -> str:
    """The worst of the levels."""
    return max(levels, key=rank)
