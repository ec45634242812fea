"""Ranges of partitions: never empty, never wider than asked for."""

from __future__ import annotations

import datetime as dt
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline import partitions
from ml_pipeline.partitions import END_TAG, START_TAG, EmptyRange, contiguous, tenant_day_range, tenant_range

KNOWN = ["zeta", "acme", "globex"]  # in the order in which they were added
START = partitions.days.start.date()
YESTERDAY = partitions.today() - dt.timedelta(days=1)


def test_a_range_of_tenants_is_named_by_its_ends():
    assert tenant_range(KNOWN, "zeta", "acme") == {START_TAG: "zeta", END_TAG: "acme"}


def test_an_unknown_tenant_is_refused():
    with pytest.raises(EmptyRange, match="tenant 'initech' has no partition"):
        tenant_range(KNOWN, "zeta", "initech")


def test_a_reversed_range_is_refused():
    with pytest.raises(EmptyRange, match="the range of tenants 'acme' to 'zeta' is reversed"):
        tenant_range(KNOWN, "acme", "zeta")


def test_a_rectangle_is_named_by_its_corners():
    tags = tenant_day_range(KNOWN, "acme", "globex", START, YESTERDAY)
    assert tags == {START_TAG: f"{START}|acme", END_TAG: f"{YESTERDAY}|globex"}


@pytest.mark.parametrize(
    ("since", "until"),
    [
        (YESTERDAY, START),
        (START - dt.timedelta(days=1), YESTERDAY),
        (START, partitions.today()),
    ],
    ids=["reversed", "before the window", "a day that is not over"],
)
def test_days_that_are_reversed_or_outside_the_window_are_refused(since: dt.date, until: dt.date):
    with pytest.raises(EmptyRange, match=f"the days {since} to {until} are not inside the monitoring window"):
        tenant_day_range(KNOWN, "acme", "acme", since, until)


@given(st.dates(dt.date(2000, 1, 1), dt.date(2100, 1, 1)))
def test_the_window_begins_on_a_first_of_month_two_to_three_months_back(today: dt.date):
    start = partitions.window_start(today)
    assert start.day == 1
    assert 59 <= (today - start).days <= 92


@given(st.lists(st.integers(0, 20), unique=True), st.sets(st.integers(0, 20)))
def test_contiguous_ranges_hold_exactly_the_wanted_in_the_fewest_ranges(known: list[int], wanted: set[int]):
    names = [str(number) for number in known]
    ranges = contiguous(names, [str(number) for number in wanted])
    covered = [names[names.index(first) : names.index(last) + 1] for first, last in ranges]
    assert [name for part in covered for name in part] == [name for name in names if int(name) in wanted]
    gaps = [names.index(after[0]) - names.index(before[1]) for before, after in itertools.pairwise(ranges)]
    assert all(gap > 1 for gap in gaps)
