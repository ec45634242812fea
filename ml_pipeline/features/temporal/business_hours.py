"""Business calendar: holidays, business days and business hours of a country at each event time."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ml_pipeline.specs.countries import check_country

if TYPE_CHECKING:
    import numpy as np

OPENS, CLOSES = 9.0, 17.0
REACH = 366  # days, the longest distance to a holiday that is reported
MINUTES_A_DAY = 1440


def business_columns(country: str, wall_time: np.ndarray) -> dict[str, np.ndarray]:
    """Columns ``specs.temporal.BUSINESS`` of each event time, as float64 arrays by name.

    Business days are Monday to Friday except public holidays; business hours are 9 to 17 on a business day. Distances
    to holidays are in days, 0 on a holiday and NaN beyond 366 days.

    Parameters
    ----------
    country
        ISO 3166 code, ``CZ`` or ``DE-BY``.
    wall_time
        int64 minutes since 1970 on the local clock.

    Raises
    ------
    UnknownCountry
        If no holiday calendar exists for the code.
    """
    import numpy as np

    day, minute = np.divmod(wall_time, MINUTES_A_DAY)
    free = _holidays(country, day)
    holiday, works = np.isin(day, free), _works(day, free)
    month = day.astype("datetime64[D]").astype("datetime64[M]")
    begins, ends = (at.astype("datetime64[D]").astype("int64") for at in (month, month + 1))
    so_far, in_month = _business_days(begins, day + 1, free), _business_days(begins, ends, free)
    since, until = _distances(day, free)
    hour = minute / 60
    before, after = ~_works(day + 1, free), ~_works(day - 1, free)
    columns = {
        "calendar_is_holiday": holiday,
        "calendar_is_business_day": works,
        "calendar_is_business_hour": works & (hour >= OPENS) & (hour < CLOSES),
        "calendar_business_hours_left": np.where(works, CLOSES - np.clip(hour, OPENS, CLOSES), 0.0),
        "calendar_business_hours_passed": np.where(works, np.clip(hour, OPENS, CLOSES) - OPENS, 0.0),
        "calendar_business_day_of_month": so_far,
        "calendar_business_days_in_month": in_month,
        "calendar_business_days_to_month_end": in_month - so_far,
        "calendar_days_since_holiday": since,
        "calendar_days_to_holiday": until,
        "calendar_days_to_nearest_holiday": np.fmin(since, until),
        "calendar_is_before_day_off": before,
        "calendar_is_after_day_off": after,
        "calendar_is_bridge_day": works & before & after,
    }
    return {name: column.astype("float64") for name, column in columns.items()}


def _holidays(country: str, day: np.ndarray) -> np.ndarray:
    """Public holidays in the years of ``day`` and in the years before and after, as days since 1970, ascending.

    Computed year by year, so that the result for a year does not depend on which other years have events.
    """
    import numpy as np

    years = np.unique(day.astype("datetime64[D]").astype("datetime64[Y]").astype("int64") + 1970)
    wanted = np.unique(years[:, None] + np.array([-1, 0, 1]))
    found = [np.zeros(0, dtype="int64"), *(_holidays_of(country, int(year)) for year in wanted)]
    return np.unique(np.concatenate(found))


@cache
def _holidays_of(code: str, year: int) -> np.ndarray:
    import holidays
    import numpy as np

    country, _, part = check_country(code).partition("-")
    dates = holidays.country_holidays(country, subdiv=part or None, years=year, expand=False)
    return np.array(sorted(dates), dtype="datetime64[D]").astype("int64")


def _works(day: np.ndarray, free: np.ndarray) -> np.ndarray:
    import numpy as np

    return ((day + 3) % 7 < 5) & ~np.isin(day, free)


def _business_days(begin: np.ndarray, end: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Business days from ``begin`` to the day before ``end``."""
    import numpy as np

    first, last = begin.astype("datetime64[D]"), end.astype("datetime64[D]")
    return np.busday_count(first, last, holidays=free.astype("datetime64[D]"))


def _distances(day: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Days since the last and until the next holiday, 0 on a holiday; NaN beyond ``REACH``."""
    import numpy as np

    padded = np.concatenate([[np.nan], free, [np.nan]])
    since = day - padded[np.searchsorted(free, day, side="right")]
    until = padded[np.searchsorted(free, day) + 1] - day
    return np.where(since <= REACH, since, np.nan), np.where(until <= REACH, until, np.nan)
