"""A version of a tenant's model, as the registry knows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Version:
    """A registered version of one tenant's model."""

    tenant: str
    model: str
    number: int
    semantic: str
    run_id: str
    source: str
    tags: Mapping[str, str]

    @property
    def as_of(self) -> str:
        return self.tags["as_of"]
