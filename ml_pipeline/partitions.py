"""The only partition definitions: tenants, days, and tenant x day.

Dagster fixes the first day of a partition definition when it loads the code. The start of the monitoring window
therefore moves only when the services are restarted; until then, the window grows by one day each day.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import dagster as dg

from ml_pipeline.errors import UserError

START_TAG = "dagster/asset_partition_range_start"
END_TAG = "dagster/asset_partition_range_end"
PARTITION_TAG = "dagster/partition"

DATE, TENANT = "date", "tenant"


def window_start(today: dt.date) -> dt.date:
    """First day of the monitoring window: the first of the month two months back.

    The window moves, so that tenants x days stays below 100,000, the number of partitions that Dagster's pages support.

    >>> window_start(dt.date(2026, 1, 20))
    datetime.date(2025, 11, 1)
    """
    first = today.replace(day=1)
    for _ in range(2):
        first = (first - dt.timedelta(days=1)).replace(day=1)
    return first


def today() -> dt.date:
    """The current day in UTC."""
    return dt.datetime.now(dt.UTC).date()


tenants = dg.DynamicPartitionsDefinition(name="tenants")
days = dg.DailyPartitionsDefinition(start_date=window_start(today()).isoformat(), timezone="UTC")
tenant_days = dg.MultiPartitionsDefinition({DATE: days, TENANT: tenants})


class EmptyRange(UserError, ValueError):
    """A range contains no partition; Dagster would run it, do nothing, and report success."""


def tenant_range(known: Sequence[str], first: str, last: str) -> dict[str, str]:
    """Tags of one run for the tenants from ``first`` to ``last``, in the order in which they were added.

    Raises
    ------
    EmptyRange
        If a tenant has no partition, or the range is reversed.
    """
    for tenant in (first, last):
        if tenant not in known:
            raise EmptyRange(
                f"tenant {tenant!r} has no partition. Import its rows; the sensor new_tenants then adds the partition"
            )
    if known.index(first) > known.index(last):
        raise EmptyRange(f"the range of tenants {first!r} to {last!r} is reversed: the later one was added first")
    return {START_TAG: first, END_TAG: last}


def tenant_day_range(known: Sequence[str], first: str, last: str, since: dt.date, until: dt.date) -> dict[str, str]:
    """Tags of one run for a rectangle of tenants x days.

    Raises
    ------
    EmptyRange
        As ``tenant_range``, and if the days are reversed or outside the monitoring window.
    """
    tenants_tags = tenant_range(known, first, last)
    start = dt.date.fromisoformat(str(days.start.date()))
    if not start <= since <= until < today():
        raise EmptyRange(f"the days {since} to {until} are not inside the monitoring window, {start} to yesterday")
    keys = [
        dg.MultiPartitionKey({DATE: day.isoformat(), TENANT: tenants_tags[tag]})
        for day, tag in ((since, START_TAG), (until, END_TAG))
    ]
    return {START_TAG: keys[0], END_TAG: keys[1]}


def tenants_of(tags: Mapping[str, str], known: Sequence[str]) -> list[str]:
    """The tenants of a run's partition or range of partitions, in partition order; empty if a tenant is unknown.

    >>> tenants_of({"dagster/partition": "b"}, ["a", "b", "c"])
    ['b']
    >>> tenants_of({START_TAG: "2026-01-01|b", END_TAG: "2026-01-02|c"}, ["a", "b", "c", "d"])
    ['b', 'c']
    """
    single = tags.get(PARTITION_TAG)
    first, last = (tags.get(tag, single) for tag in (START_TAG, END_TAG))
    if first is None or last is None:
        return []
    first, last = first.rpartition("|")[2], last.rpartition("|")[2]
    if first not in known or last not in known:
        return []
    return list(known[known.index(first) : known.index(last) + 1])


def contiguous(known: Sequence[str], wanted: Sequence[str]) -> list[tuple[str, str]]:
    """The smallest number of ranges (first, last) of ``known`` that contain exactly the ``wanted`` tenants.

    >>> contiguous(["a", "b", "c", "d"], ["d", "a", "b"])
    [('a', 'b'), ('d', 'd')]
    """
    chosen = set(wanted)
    ranges: list[tuple[str, str]] = []
    previous_chosen = False
    for tenant in known:
        if tenant in chosen:
            ranges = [*ranges[:-1], (ranges[-1][0], tenant)] if previous_chosen else [*ranges, (tenant, tenant)]
        previous_chosen = tenant in chosen
    return ranges
