"""Typing text columns: which texts are times and numbers, and what is said of those that are not."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_pipeline.importers.checking import Problems, parse_times, type_columns
from ml_pipeline.importers.mapping import Column

ZONE = ZoneInfo("UTC")


def parse(text: str, zone: str = "UTC") -> pd.Timestamp:
    return parse_times(pd.Series([text], dtype="str"), ZoneInfo(zone))[0]


def typed(column: Column, *texts: str, zone: str = "UTC", **options) -> tuple[list, list]:
    raw = pd.DataFrame({column.name: list(texts)})
    problems = Problems(raw.index)
    frame = type_columns(raw, [column], ZoneInfo(zone), problems, **options)
    values = [None if pd.isna(value) else value for value in frame[column.name]]
    return values, [None if pd.isna(kind) else kind for kind in problems.kind]


@pytest.mark.parametrize(
    "text",
    [
        "2021-03-02T16:05:00Z",
        "2021-03-02 16:05:00",
        "2021-03-02 16:05",
        "2021-03-02T18:05:00+02:00",
        "2021-03-02T16:05:00.000+0000",
        "2021-03-02T11:05:00-05",
        "2021-03-02 16:05:00 UTC",
        "02/Mar/21 4:05 PM",
        "2/Mar/2021 4:05 PM",
        "02/Mar/21 16:05",
    ],
)
def test_one_moment_is_read_from_each_of_its_spellings(text):
    assert parse(text) == datetime(2021, 3, 2, 16, 5, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2021-13-02", "03/02/2021", "1614700000", "2021", "yesterday", "2021-02-30 10:00"])
def test_a_text_that_is_no_time_or_could_be_two_is_not_read(text):
    assert pd.isna(parse(text))


def test_the_timezone_applies_to_times_without_offset_only():
    assert parse("2021-07-01 12:00", "Europe/Berlin").hour == 10
    assert parse("01/Jul/21 12:00 PM", "Europe/Berlin").hour == 10
    assert parse("2021-07-01T12:00Z", "Europe/Berlin").hour == 12
    assert parse("2021-07-01", "Europe/Berlin") == datetime(2021, 6, 30, 22, tzinfo=UTC)


def test_hours_that_come_twice_or_never_are_still_times():
    assert parse("2021-10-31 02:30", "Europe/Berlin") == datetime(2021, 10, 31, 1, 30, tzinfo=UTC)
    assert parse("2021-03-28 02:30", "Europe/Berlin") == datetime(2021, 3, 28, 1, 0, tzinfo=UTC)


def test_the_timezone_does_not_apply_to_an_hour_with_its_own_zone():
    assert parse("2021-07-01T12Z", "Europe/Berlin").hour == 12


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/Adak", "Pacific/Apia"])
@pytest.mark.parametrize(
    "text",
    [
        *("0000-01-01", "0001-01-01", "0001-01-01T00:00+12:00", "0000-12-31T23:00-05:00", "1969-12-30"),
        *("9999-12-31T23:59:59", "9999-12-31T23:59:59-12:00", "2262-04-12", "01/Jan/9999 1:00 PM", "1/Jan/68"),
    ],
)
def test_a_time_before_1970_or_more_than_a_day_ahead_is_a_problem(text, zone):
    _, problems = typed(Column("at", "time"), text, "2020-01-01", zone=zone)
    assert problems == ["at is before 1970 or more than a day ahead", None]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "10000-01-01",
            "2021-01-01T00:00+99:99",
            "2021-01-01T24:00",
            "2021-06-30T23:59:60Z",
            "infinity",
            "4713-01-01 BC",
        ),
        *(
            "\uff12\uff10\uff12\uff11-01-01",
            "2021-01-01T10:00\u221202:00",
            "2021-01-01" + " " * 100_000 + "x",
            "T12" * 100_000,
        ),
    ],
)
def test_a_time_that_never_was_is_a_problem(text):
    assert typed(Column("at", "time"), text, "2020-01-01")[1] == ["at is not a time", None]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Africa/Monrovia", "Pacific/Apia"])
def test_a_time_at_the_change_of_a_zones_clocks_is_a_time(zone):
    values, problems = typed(
        Column("at", "time"), "2021-03-28 02:30", "2021-10-31 02:30", "2011-12-30 10:00", zone=zone
    )
    assert None not in values and problems == [None] * 3


def test_a_time_is_compared_with_the_now_that_is_given():
    now = datetime(2021, 1, 1, tzinfo=UTC)
    _, problems = typed(Column("at", "time"), "2021-01-02", "2021-01-02 00:01", now=now)
    assert problems == [None, "at is before 1970 or more than a day ahead"]


NOTHING = ["NULL", "NaN", "None", r"\N", "NaT", "n/a", "N/A", "-", "--", "<NA>", "\u2014", " null "]


@pytest.mark.parametrize("kind", ["time", "number", "level"])
@pytest.mark.parametrize("nothing", NOTHING)
def test_a_way_to_write_no_value_is_a_missing_value_where_one_is_required(nothing, kind):
    good = {"time": "2021-01-01", "number": "1", "level": "A"}[kind]
    raw = pd.DataFrame({"it": [good, nothing]})
    problems = Problems(raw.index)
    type_columns(raw, [Column("it", kind, required=True)], ZONE, problems)
    assert problems.good.tolist() == [True, False]
    assert problems.message(1) == f"it is missing: {nothing!r}"


@pytest.mark.parametrize("nothing", NOTHING)
def test_a_way_to_write_no_value_is_unknown_where_none_is_required(nothing):
    for kind in ("time", "number"):
        assert typed(Column("it", kind), nothing) == ([None], [None])


@given(st.lists(st.datetimes(datetime(1980, 1, 1), datetime(2090, 1, 1)), min_size=1, max_size=20))
def test_iso_times_survive_being_written_and_read(times):
    texts = pd.Series([time.isoformat() for time in times], dtype="str")
    assert parse_times(texts, ZONE).dt.tz_localize(None).tolist() == [pd.Timestamp(time) for time in times]


def test_numbers_are_read_and_blanks_and_words_for_nothing_are_missing():
    values, problems = typed(Column("points", "number"), "0.0", " 5 ", "", "  ", "None", "NaN", "1e2")
    assert values == [0.0, 5.0, None, None, None, None, 100.0]
    assert problems == [None] * 7


@pytest.mark.parametrize(
    "text",
    ["five", "1,5", "inf", "0x10", "True", "1_000", "\uff11\uff12", "1 000", "--5", "1e", ".", "9" * 100_000 + "x"],
)
def test_a_text_that_is_no_number_is_a_problem(text):
    assert typed(Column("points", "number"), text)[1] == ["points is not a number"]


@pytest.mark.parametrize("text", ["1e400", "1E999999999", "9" * 400, "1e308", "1000000000000001"])
def test_a_number_whose_sum_could_overflow_is_a_problem(text):
    assert typed(Column("points", "number"), text, "1e15")[1] == ["points is larger than 1e+15", None]


def test_a_negative_number_is_a_problem():
    assert typed(Column("points", "number"), "-1", "-0.0")[1] == ["points is negative", None]


@pytest.mark.parametrize("blank", ["", "   "])
def test_a_required_value_must_not_be_blank(blank):
    assert typed(Column("key", "level", required=True), "A", blank)[1] == [None, "key is missing"]


def test_lengths_are_problems_only_beyond_the_limit():
    assert typed(Column("key", "level"), "x" * 500, "x" * 501)[1] == [None, "key is longer than 500 characters"]
    text = typed(Column("body", "text"), "x" * 1_000_000, "x" * 1_000_001)[1]
    assert text == [None, "body is longer than 1,000,000 characters"]


def test_levels_are_stripped_and_text_is_kept_as_it_is():
    assert typed(Column("team", "level"), " core ")[0] == ["core"]
    assert typed(Column("body", "text"), " a\n ", " ")[0] == [" a\n ", None]


def test_of_two_source_columns_a_row_takes_the_first_that_is_not_blank():
    raw = pd.DataFrame([["3", "8"], ["", "8"], ["", ""]], columns=["points", "points"])
    frame = type_columns(raw, [Column("points", "number")], ZONE, Problems(raw.index))
    assert frame["points"].fillna(-1).tolist() == [3, 8, -1]


@pytest.mark.parametrize("kind", ["number", "time", "level", "text"])
@pytest.mark.parametrize("nothing", ["", "  ", "NULL", "n/a", "-"])
def test_of_three_source_columns_a_row_takes_the_first_with_a_value(kind, nothing):
    value = "2021-01-01" if kind == "time" else "5"
    raw = pd.DataFrame([[nothing, value, value], [nothing, nothing, value]], columns=["it"] * 3)
    frame = type_columns(raw, [Column("it", kind)], ZONE, Problems(raw.index))
    assert frame["it"].notna().all() and frame["it"].nunique() == 1


def test_only_the_first_problem_of_a_row_is_reported():
    problems = Problems(pd.RangeIndex(2))
    problems.add(pd.Series([True, False]), "first")
    problems.add(pd.Series([True, True]), "second")
    assert problems.kind.tolist() == ["first", "second"]


@pytest.mark.parametrize("text", ["now", "today", " now ", "NOW"])
def test_the_time_of_the_import_is_no_time_of_a_row(text: str):
    assert parse_times(pd.Series([text]), ZoneInfo("UTC")).isna().all()
