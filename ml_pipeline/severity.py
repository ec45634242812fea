"""How bad a drift or a degradation is."""

from __future__ import annotations

from typing import Literal

Severity = Literal["MEDIUM", "HIGH", "CRITICAL"]
RANK: dict[Severity | None, int] = {None: 0, "MEDIUM": 1, "HIGH": 2, "CRITICAL": 3}
