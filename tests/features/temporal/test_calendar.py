"""Calendar, business calendar and waves against pandas' own calendar and dates that everybody can look up."""

from __future__ import annotations

import math

import holidays
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_pipeline.features.temporal.calendar import calendar_features
from ml_pipeline.specs.countries import UnknownCountry, check_country
from ml_pipeline.specs.temporal import Temporal

FAMILIES = ("calendar", "business", "cyclical", "fourier")


def columns(*times: str, zone: str = "UTC", country: str = "CZ", **families: bool) -> dict[str, np.ndarray]:
    event_time = pd.DatetimeIndex(times, tz="UTC").as_unit("us").asi8
    return calendar_features(Temporal(country=country, time_zone=zone, **families), event_time)


def by_pandas(at: pd.Timestamp) -> dict[str, float]:
    """The calendar family of one local time."""
    first = at.replace(day=1)
    quarter_start = at.to_period("Q").start_time
    return {
        "minute_of_day": at.hour * 60 + at.minute,
        "hour_of_week": at.day_of_week * 24 + at.hour,
        "quarter_of_day": at.hour // 6,
        "is_weekend": at.day_of_week >= 5,
        "week_of_month": (at.day + first.day_of_week - 1) // 7 + 1,
        "week_of_year": at.isocalendar().week,
        "day_of_year": at.day_of_year,
        "quarter": at.quarter,
        "half": 1 if at.month <= 6 else 2,
        "day_of_quarter": (at.normalize() - quarter_start).days + 1,
        "days_in_month": at.days_in_month,
        "days_to_month_end": at.days_in_month - at.day,
        "days_to_quarter_end": (at.to_period("Q").end_time.normalize() - at.normalize()).days,
        "is_month_start": at.is_month_start,
        "is_month_end": at.is_month_end,
        "is_quarter_start": at.is_quarter_start,
        "is_quarter_end": at.is_quarter_end,
        "is_year_start": at.is_year_start,
        "is_year_end": at.is_year_end,
    }


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kathmandu"])
@settings(max_examples=150, deadline=None)
@given(moment=st.datetimes(min_value=pd.Timestamp("1965-01-01"), max_value=pd.Timestamp("2060-12-31")))
def test_the_calendar_is_what_pandas_says_of_the_local_time(zone, moment):
    found = columns(str(moment), zone=zone, calendar=True)
    expected = by_pandas(pd.Timestamp(moment, tz="UTC").tz_convert(zone).tz_localize(None))
    assert {name: column[0] for name, column in found.items()} == {
        f"calendar_{name}": float(value) for name, value in expected.items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_is_on_alone_and_makes_the_columns_that_the_specification_names(family):
    chosen = Temporal(country="CZ", **{family: True})
    assert set(calendar_features(chosen, np.array([0, 10**15]))) == set(chosen.columns([]))
    assert all(len(column) == 0 for column in calendar_features(chosen, np.zeros(0, dtype="int64")).values())


def test_christmas_in_prague_is_a_holiday_and_the_days_about_it_are_counted():
    found = columns("2024-12-23 12:00", "2024-12-24 12:00", "2024-12-27 12:00", "2024-12-30 12:00", business=True)
    expected = {
        "is_holiday": [0, 1, 0, 0],
        "is_business_day": [1, 0, 1, 1],
        "days_since_holiday": [36, 0, 1, 4],  # from 17 November; 24 to 26 December are holidays, and 1 January
        "days_to_holiday": [1, 0, 5, 2],
        "days_to_nearest_holiday": [1, 0, 1, 2],
        "is_before_day_off": [1, 1, 1, 0],
        "is_after_day_off": [1, 0, 1, 1],
        "is_bridge_day": [1, 0, 1, 0],
        "business_day_of_month": [16, 16, 17, 18],
        "business_days_in_month": [19] * 4,
        "business_days_to_month_end": [3, 3, 2, 1],
    }
    assert {name: found[f"calendar_{name}"].tolist() for name in expected} == expected


def test_business_hours_are_those_of_the_local_clock_on_a_business_day():
    times = ("2024-07-01 06:59", "2024-07-01 07:00", "2024-07-01 13:30", "2024-07-01 15:00", "2024-07-06 08:00")
    found = columns(*times, zone="Europe/Prague", business=True)  # two hours ahead of UTC
    assert found["calendar_is_business_hour"].tolist() == [0, 1, 1, 0, 0]
    assert found["calendar_business_hours_left"].tolist() == [8, 8, 1.5, 0, 0]
    assert found["calendar_business_hours_passed"].tolist() == [0, 0, 6.5, 8, 0]


@pytest.mark.parametrize("country", ["US", "JP", "DE-BY", "IL"])
def test_business_days_are_counted_one_by_one(country):
    name, _, part = country.partition("-")
    free = holidays.country_holidays(name, subdiv=part or None, years=range(2022, 2026))
    days = pd.date_range("2023-01-01", "2024-12-31", tz="UTC")
    works = pd.Series([day.day_of_week < 5 and day.date() not in free for day in days], index=days)
    found = columns(*days.astype(str), country=country, business=True)
    months = works.groupby(days.strftime("%Y-%m"))
    assert found["calendar_is_business_day"].tolist() == works.astype(float).tolist()
    assert found["calendar_business_day_of_month"].tolist() == months.cumsum().tolist()
    assert found["calendar_business_days_in_month"].tolist() == months.transform("sum").tolist()


def test_a_part_of_a_country_has_holidays_of_its_own():
    epiphany = "2025-01-06 12:00"
    assert columns(epiphany, country="DE-BY", business=True)["calendar_is_holiday"].tolist() == [1]
    assert columns(epiphany, country="DE-HE", business=True)["calendar_is_holiday"].tolist() == [0]


def test_a_holiday_farther_than_a_year_is_not_looked_for():
    found = columns("1900-06-01", country="CZ", business=True)  # the calendar begins in 1951
    assert np.isnan(found["calendar_days_to_holiday"]).all()
    assert np.isnan(found["calendar_days_since_holiday"]).all()


def test_holidays_do_not_depend_on_which_other_years_have_events():
    days = pd.date_range("1949-01-01", "1954-12-31", freq="5D").astype(str)
    alone = [columns(day, business=True) for day in days]
    for name, column in columns(*days, business=True).items():
        np.testing.assert_array_equal(column, [one[name][0] for one in alone], err_msg=name)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("XX", "no holiday calendar for 'XX'. Write an ISO 3166-1 code in capitals, such as CZ or US"),
        ("cz", "no holiday calendar for 'cz'. Write an ISO 3166-1 code in capitals"),
        ("CZ-1", "no holiday calendar for 'CZ-1': CZ is known, it has no parts. Write CZ alone"),
        ("DE-XX", "DE is known, its parts are BB, BE"),
    ],
)
def test_a_country_without_a_calendar_is_refused_with_the_remedy(code, message):
    with pytest.raises(UnknownCountry, match=message.replace(".", r"\.")):
        check_country(code)


def test_a_wave_is_the_sine_of_the_place_in_the_cycle():
    found = columns("2024-02-29 18:00", cyclical=True, fourier=True)  # a Thursday
    turns = {"hour": 18 / 24, "weekday": 3 / 7, "day": 28 / 29, "month": 1 / 12}
    for unit, turn in turns.items():
        assert found[f"calendar_{unit}_sin"][0] == pytest.approx(math.sin(2 * math.pi * turn), abs=1e-12)
        assert found[f"calendar_{unit}_cos"][0] == pytest.approx(math.cos(2 * math.pi * turn), abs=1e-12)
    for unit, turn, harmonics in (("week", 3.75 / 7, 3), ("year", 59.75 / 366, 4)):
        for harmonic in range(1, harmonics + 1):
            angle = 2 * math.pi * turn * harmonic
            assert found[f"calendar_{unit}_sin_{harmonic}"][0] == pytest.approx(math.sin(angle), abs=1e-12)
            assert found[f"calendar_{unit}_cos_{harmonic}"][0] == pytest.approx(math.cos(angle), abs=1e-12)


def test_the_year_runs_from_its_first_hour_to_its_last():
    found = columns("2023-01-01 00:00", "2023-12-31 23:59", "2024-12-31 23:59", fourier=True)
    np.testing.assert_allclose(found["calendar_year_cos_1"], 1, atol=1e-3)
