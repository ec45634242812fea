"""The moment at which a tenant's work stands."""

from __future__ import annotations

import datetime as dt

import pandas as pd
import pytest

from ml_pipeline.specs import load_specs
from ml_pipeline.work.context import InvalidAsOf, parse_as_of, resolve_as_of

SPEC = load_specs()["story_points"]


def rows(**times) -> pd.DataFrame:
    columns = {name: pd.to_datetime(times.get(name, [None]), utc=True) for name in ("created_at", "estimated_at")}
    return pd.DataFrame(columns | {"resolved_at": pd.to_datetime(times.get("resolved_at", [None]), utc=True)})


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("latest", "latest"),
        ("2026-01-31", "2026-02-01T00:00:00+00:00"),
        ("2026-01-31T12:00", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31T12:00+02:00", "2026-01-31T10:00:00+00:00"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00+00:00"),
    ],
)
def test_a_moment_is_latest_a_time_in_utc_or_the_end_of_a_date(text: str, moment: str):
    assert parse_as_of(text) == moment


@pytest.mark.parametrize("text", ["yesterday", "31.01.2026", "2026-02-30", "", "Latest"])
def test_anything_else_is_refused_with_what_is_accepted(text: str):
    with pytest.raises(InvalidAsOf, match="Write 'latest', a date") as caught:
        parse_as_of(text)
    assert repr(text) in str(caught.value)


def test_a_named_moment_is_the_same_for_every_tenant():
    moment = parse_as_of("2026-01-31T12:00")
    assert resolve_as_of(moment, SPEC, rows()) == dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize("as_of", ["latest", "2999-12-31"])
def test_nothing_stands_in_the_future(as_of: str):
    moment = resolve_as_of(parse_as_of(as_of), SPEC, rows(created_at=["2999-01-01"]))
    assert moment <= dt.datetime.now(dt.UTC)


def test_latest_is_just_after_the_newest_time_of_any_column():
    history = rows(
        created_at=["2026-01-01", "2026-01-05"], estimated_at=["2026-01-02", None], resolved_at=["2026-01-09"] * 2
    )
    assert resolve_as_of("latest", SPEC, history) == dt.datetime(2026, 1, 9, 0, 0, 0, 1, tzinfo=dt.UTC)


def test_latest_of_a_tenant_without_rows_is_before_everything():
    assert resolve_as_of("latest", SPEC, rows()[:0]) == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
