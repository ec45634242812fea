"""Working time of an organisation: hours of the week, seasons of the year, and durations in working hours."""

from __future__ import annotations

import numpy as np

HOUR = 3600.0
DAY = 24 * HOUR
WEEK = 7 * DAY
FIRST_MONDAY = 4 * DAY  # 1970-01-05, in seconds since the epoch
PEAK_SEASON = 1.08
HOURS_A_DAY = 8.0

_OPENS, _DAYS_A_WEEK = 9.0, 5
_YEAR = 365.2425 * DAY
_BUSIEST_DAY, _CHRISTMAS = 80, 360  # days of the year


def _share_of_week() -> np.ndarray:
    """Share of a week's arrivals before each of its 169 hour marks, Monday 00:00 UTC first."""
    day = np.full(24, 0.01)
    day[8:18] = 1.0
    day[12] = 0.6
    day[18:22] = 0.1
    arrived = np.cumsum([0.0, *np.tile(day, _DAYS_A_WEEK), *np.full(48, 0.03)])
    shares: np.ndarray = arrived / arrived[-1]
    return shares


_SHARES = _share_of_week()


def moment_in_week(uniform: np.ndarray) -> np.ndarray:
    """Seconds after Monday 00:00 UTC by which the share ``uniform`` of a week's arrivals has arrived.

    >>> (moment_in_week(np.array([0.0, 1.0])) / DAY).tolist()
    [0.0, 7.0]
    """
    seconds: np.ndarray = np.interp(uniform, _SHARES, np.arange(169) * HOUR)
    return seconds


def season(seconds: np.ndarray) -> np.ndarray:
    """Activity at a time (seconds since the epoch) relative to the year's average.

    A mild yearly cycle with its maximum, at most ``PEAK_SEASON``, in March, and a dip to about a third at Christmas.
    """
    day = (seconds % _YEAR) / DAY
    wave = 1 + (PEAK_SEASON - 1) * np.cos(2 * np.pi * (day - _BUSIEST_DAY) / 365.2425)
    from_christmas = np.abs(day - _CHRISTMAS)
    from_christmas = np.minimum(from_christmas, 365.2425 - from_christmas)
    return wave * (1 - 0.65 * np.exp(-((from_christmas / 6) ** 2)))


def add_working_hours(seconds: np.ndarray, hours: np.ndarray) -> np.ndarray:
    """Times (whole seconds since the epoch) at which ``hours`` of work started at ``seconds`` are finished.

    Working hours are 9:00 to 17:00 UTC, Monday to Friday; work outside these hours starts when they begin.

    >>> friday_16 = np.array([np.datetime64("2026-01-02T16:00:00", "s").astype(float)])
    >>> add_working_hours(friday_16, np.array([2.0])).astype("datetime64[s]").tolist()
    [datetime.datetime(2026, 1, 5, 10, 0)]
    """
    week, rest = np.divmod(seconds - FIRST_MONDAY, WEEK)
    day, second = np.divmod(rest, DAY)
    today = np.clip(second / HOUR - _OPENS, 0, HOURS_A_DAY)
    hours_a_week = _DAYS_A_WEEK * HOURS_A_DAY
    worked = week * hours_a_week + np.where(day < _DAYS_A_WEEK, day * HOURS_A_DAY + today, hours_a_week) + hours
    week, rest = np.divmod(worked, hours_a_week)
    day, hour = np.divmod(rest, HOURS_A_DAY)
    finished: np.ndarray = np.ceil(FIRST_MONDAY + week * WEEK + day * DAY + (_OPENS + hour) * HOUR - 1e-3)
    return finished
