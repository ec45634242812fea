"""Calendar features of event times on a local clock: positions in week, month and year, with sines and cosines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ml_pipeline.features.temporal.business_hours import MINUTES_A_DAY, business_columns
from ml_pipeline.specs.temporal import WEEK_HARMONICS, YEAR_HARMONICS, Temporal

MINUTE = 60_000_000
MINUTES_A_WEEK = 7 * MINUTES_A_DAY
HOURS_A_YEAR = 366 * 24


def calendar_features(temporal: Temporal, event_time: np.ndarray) -> dict[str, np.ndarray]:
    """The ``calendar_*`` columns of the enabled feature families, one float64 array per name.

    Parameters
    ----------
    temporal
        ``features.temporal`` of the specification: families, country, time zone.
    event_time
        int64 microseconds since 1970 in UTC.

    Raises
    ------
    ml_pipeline.specs.countries.UnknownCountry
        If ``business`` is on and no holiday calendar exists for the country.
    """
    local = pd.DatetimeIndex(event_time.view("datetime64[us]")).tz_localize("UTC").tz_convert(temporal.time_zone)
    # Minutes since 1970 on the local clock.
    wall_time = local.tz_localize(None).to_numpy().astype("datetime64[m]").astype("int64")
    columns: dict[str, np.ndarray] = {}
    if temporal.calendar:
        columns |= _calendar(wall_time)
    if temporal.business and temporal.country is not None:
        columns |= business_columns(temporal.country, wall_time)
    if temporal.cyclical:
        columns |= _cyclical(wall_time)
    if temporal.fourier:
        columns |= _fourier(wall_time)
    return columns


def _begins(day: np.ndarray, months: int) -> tuple[np.ndarray, np.ndarray]:
    """First day of the month, quarter or year (``months`` 1, 3, 12) that contains each day, and of the next one."""
    month = day.astype("datetime64[D]").astype("datetime64[M]").astype("int64")
    first = month - month % months
    begins, ends = (
        at.astype("datetime64[M]").astype("datetime64[D]").astype("int64") for at in (first, first + months)
    )
    return begins, ends


def _calendar(wall_time: np.ndarray) -> dict[str, np.ndarray]:
    day, minute = np.divmod(wall_time, MINUTES_A_DAY)
    weekday = (day + 3) % 7
    month, next_month = _begins(day, 1)
    quarter, next_quarter = _begins(day, 3)
    year, next_year = _begins(day, 12)
    # The ISO year is that of the week's Thursday.
    thursday = day - weekday + 3
    which_quarter = month.astype("datetime64[D]").astype("datetime64[M]").astype("int64") % 12 // 3
    columns = {
        "calendar_minute_of_day": minute,
        "calendar_hour_of_week": weekday * 24 + minute // 60,
        "calendar_quarter_of_day": minute // 360,
        "calendar_is_weekend": weekday >= 5,
        "calendar_week_of_month": (day - month + (month + 3) % 7) // 7 + 1,
        "calendar_week_of_year": (thursday - _begins(thursday, 12)[0]) // 7 + 1,
        "calendar_day_of_year": day - year + 1,
        "calendar_quarter": which_quarter + 1,
        "calendar_half": which_quarter // 2 + 1,
        "calendar_day_of_quarter": day - quarter + 1,
        "calendar_days_in_month": next_month - month,
        "calendar_days_to_month_end": next_month - 1 - day,
        "calendar_days_to_quarter_end": next_quarter - 1 - day,
        "calendar_is_month_start": day == month,
        "calendar_is_month_end": day == next_month - 1,
        "calendar_is_quarter_start": day == quarter,
        "calendar_is_quarter_end": day == next_quarter - 1,
        "calendar_is_year_start": day == year,
        "calendar_is_year_end": day == next_year - 1,
    }
    return {name: column.astype("float64") for name, column in columns.items()}


def _cyclical(wall_time: np.ndarray) -> dict[str, np.ndarray]:
    """Sine and cosine of hour (period 24), weekday (7), day of month (length of the month) and month (12)."""
    day, minute = np.divmod(wall_time, MINUTES_A_DAY)
    month, next_month = _begins(day, 1)
    which_month = month.astype("datetime64[D]").astype("datetime64[M]").astype("int64") % 12
    columns = _waves("hour", minute // 60, 24) | _waves("weekday", (day + 3) % 7, 7)
    for length in (28, 29, 30, 31):
        waves = _waves("day", np.minimum(day - month, length - 1), length)
        of_length = next_month - month == length
        columns |= {name: np.where(of_length, wave, columns.get(name, wave)) for name, wave in waves.items()}
    return columns | _waves("month", which_month, 12)


def _fourier(wall_time: np.ndarray) -> dict[str, np.ndarray]:
    """Harmonics of the week, at minute resolution, and of a year of 366 days, at hour resolution."""
    day = wall_time // MINUTES_A_DAY
    of_week = (wall_time + 3 * MINUTES_A_DAY) % MINUTES_A_WEEK
    of_year = (wall_time - _begins(day, 12)[0] * MINUTES_A_DAY) // 60
    return _waves("week", of_week, MINUTES_A_WEEK, WEEK_HARMONICS) | _waves(
        "year", of_year, HOURS_A_YEAR, YEAR_HARMONICS
    )


def _waves(
    unit: str, position: np.ndarray, length: int, harmonics: Sequence[int] | None = None
) -> dict[str, np.ndarray]:
    """Sine and cosine of ``position`` (0 to ``length - 1``) in its cycle, from a table of the whole cycle.

    With the table, a value does not depend on how many rows are computed at once.
    """
    columns = {}
    for harmonic in harmonics or (1,):
        angle = 2 * np.pi * harmonic * np.arange(length) / length
        suffix = f"_{harmonic}" if harmonics else ""
        columns[f"calendar_{unit}_sin{suffix}"] = np.sin(angle)[position]
        columns[f"calendar_{unit}_cos{suffix}"] = np.cos(angle)[position]
    return columns
