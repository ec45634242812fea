"""The clients that a worker process uses for a tenant, and the as-of time of its work."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ml_pipeline.errors import UserError
from ml_pipeline.resources.registry import Registry
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec
from ml_pipeline.timeutil import DAY
from ml_pipeline.work.deployment.deployer import Deployer

if TYPE_CHECKING:
    import pandas as pd

    from ml_pipeline.resources.snapshots import Snapshots

LATEST = "latest"
LAST_YEAR = 9998  # a date means its end, and the end of 9999-12-31 is out of range


@dataclass(frozen=True)
class Clients:
    """Database, registry, snapshots and deployer; each is opened at its first use in this process."""

    settings: Settings

    @cached_property
    def warehouse(self) -> Warehouse:
        return Warehouse(self.settings)

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.settings)

    @cached_property
    def snapshots(self) -> Snapshots:
        from ml_pipeline.resources.snapshots import Snapshots

        return Snapshots(self.settings)

    @cached_property
    def deployer(self) -> Deployer:
        return Deployer(self.warehouse, self.registry)


class InvalidAsOf(UserError, ValueError):
    """The text of an as-of time is invalid; the message names it and the accepted forms."""


def parse_as_of(text: str) -> str:
    """``latest`` unchanged, or the as-of time as ISO text in UTC; a date means its end.

    Raises
    ------
    InvalidAsOf
        If the text is neither ``latest`` nor a date or time between 1970 and 9998.

    >>> parse_as_of("2020-06-30")
    '2020-07-01T00:00:00+00:00'
    """
    if text == LATEST:
        return text
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidAsOf(
            f"as-of is {text!r}. Write 'latest', a date (2026-01-31) or a time (2026-01-31T12:00)"
        ) from error
    if not 1970 <= time.year <= LAST_YEAR:
        raise InvalidAsOf(f"as-of is {text!r}. Write a date or time between the years 1970 and {LAST_YEAR}")
    if len(text) == len("2026-01-31"):
        time += DAY
    if time.tzinfo is None:
        time = time.replace(tzinfo=dt.UTC)
    return time.astimezone(dt.UTC).isoformat()


def resolve_as_of(as_of: str, spec: ModelSpec, rows: pd.DataFrame) -> dt.datetime:
    """The as-of time of a tenant: the given time, or for ``latest`` just after its newest row; at most now.

    A version with an as-of time in the future could not predict until that time.
    """
    import pandas as pd

    now = dt.datetime.now(dt.UTC)
    if as_of != LATEST:
        return min(dt.datetime.fromisoformat(as_of), now)
    times = [spec.source.event_time, *(name for name, column in spec.source.columns.items() if column.type == "time")]
    newest = rows[times].max().max()
    if pd.isna(newest):
        return dt.datetime.fromtimestamp(0, dt.UTC)
    just_after: dt.datetime = (newest + pd.Timedelta(microseconds=1)).to_pydatetime()
    return min(just_after, now)
