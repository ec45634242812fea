"""A version of a tenant's model in the registry, and what is registered with a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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


@dataclass(frozen=True)
class Registration:
    """What is registered with the files of a new version.

    Parameters
    ----------
    key
        Hash of the work (snapshot and specification). The same work is registered once.
    semantic
        Semantic version, ``1.2.0``.
    as_of
        As-of time of the training rows, ISO 8601.
    metrics, params, tags
        What MLflow's pages show of the run; the tags are also those of the version.
    description
        Markdown of at most 5,000 characters, which MLflow's pages show with the version and with its run.
    """

    key: str
    semantic: str
    as_of: str
    metrics: Mapping[str, float]
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    description: str = ""
