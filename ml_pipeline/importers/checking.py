"""Conversion of text columns to typed columns, and the problems of invalid rows; vectorised over a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from ml_pipeline.importers.mapping import LONGEST_NO_VALUE, NO_VALUE, Column
from ml_pipeline.importers.reading import MAX_TEXT

MAX_LEVEL = 500
LARGEST_NUMBER = 1e15  # float64 is exact for whole numbers up to here, and sums of columns stay finite
EARLIEST = pd.Timestamp("1970-01-01", tz="UTC")
AHEAD = timedelta(days=1)  # tolerance for clocks that differ and for missing time zones
# Jira writes times in a configurable format; these are the defaults of its last releases.
JIRA_TIMES = (
    "%d/%b/%y %I:%M %p",
    "%d/%b/%Y %I:%M %p",
    "%d/%b/%y %H:%M",
    "%d/%b/%Y %H:%M",
    "%d/%b/%y",
    "%b %d, %Y, %I:%M %p",
)

_ISO = r"\d{4}-\d{2}-\d{2}"
_ZONED = r"[T ]\d{2}.*(?:[Zz]|[+-]\d{2}(?::?\d{2})?)$"
_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_LONGEST_TIME = 64  # the regular expression for a zone can be very slow on some longer texts


class Problems:
    """The first problem of each row of a chunk."""

    def __init__(self, index: pd.Index) -> None:
        self.kind = pd.Series(None, index=index, dtype=object)
        self.value = pd.Series(None, index=index, dtype=object)

    def add(self, wrong: pd.Series, kind: str, values: pd.Series | None = None) -> None:
        """Record a problem for the rows where ``wrong`` is true, unless they have one already."""
        fresh = wrong & self.kind.isna()
        if fresh.any():
            self.kind[fresh] = kind
            if values is not None:
                self.value[fresh] = values[fresh]

    def message(self, position: int) -> str:
        """The problem of the row at ``position`` in words, with the value."""
        kind, value = self.kind.iloc[position], self.value.iloc[position]
        return f"{kind}: {value[:200]!r}" if isinstance(value, str) else str(kind)

    @property
    def good(self) -> pd.Series:
        return self.kind.isna()


def type_columns(
    raw: pd.DataFrame, columns: Sequence[Column], zone: ZoneInfo, problems: Problems, now: datetime | None = None
) -> pd.DataFrame:
    """Typed columns from the text columns of ``raw``: text and levels as str or NaN, numbers float64, times in UTC.

    If a name occurs more than once, a row takes the first value that is not blank. A required column that is absent
    counts as blank in every row. Times must be between 1970 and a day after ``now`` (default: the current time).
    Problems of rows are added to ``problems``.
    """
    latest = pd.Timestamp(datetime.now(UTC) if now is None else now) + AHEAD
    typed: dict[str, pd.Series] = {}
    for column in columns:
        if column.name not in raw.columns and not column.required:
            continue
        text = _first_value(raw, column.name)
        if column.required:
            problems.add(_is_no_value(text), f"{column.name} is missing", text)
        match column.kind:
            case "time":
                typed[column.name] = _times(column.name, text.str.strip(), zone, latest, problems)
            case "number":
                typed[column.name] = _numbers(column.name, text.str.strip(), problems)
            case "level":
                typed[column.name] = _bounded(column.name, text.str.strip(), MAX_LEVEL, problems)
            case "text":
                typed[column.name] = _bounded(column.name, text, MAX_TEXT, problems)
    return pd.DataFrame(typed, index=raw.index)


def _first_value(raw: pd.DataFrame, name: str) -> pd.Series:
    """For each row, the first value among the columns with the name, else the first text that is not blank."""
    places = [place for place, given in enumerate(raw.columns) if given == name]
    texts = [raw.iloc[:, place].astype("str") for place in places]
    written = [text.mask(text.str.strip() == "") for text in texts]
    with_value = [text.mask(_is_no_value(text)) for text in written] if len(written) > 1 else []
    result = pd.Series(None, index=raw.index, dtype="str")
    for candidate in with_value + written:
        result = result.where(result.notna(), candidate)
    return result


def _is_no_value(text: pd.Series) -> pd.Series:
    """:func:`ml_pipeline.importers.mapping.is_no_value` for a column."""
    stripped = text.str.strip()
    short = stripped.where(stripped.str.len() <= LONGEST_NO_VALUE)
    return text.isna() | short.str.casefold().isin(NO_VALUE)


def _bounded(name: str, text: pd.Series, longest: int, problems: Problems) -> pd.Series:
    problems.add((text.str.len() > longest).fillna(False), f"{name} is longer than {longest:,} characters")
    return text


def _numbers(name: str, text: pd.Series, problems: Problems) -> pd.Series:
    text = text.mask(_is_no_value(text))
    written = text.where(text.str.len() <= MAX_LEVEL).str.fullmatch(_NUMBER).fillna(False).astype(bool)
    numbers = pd.to_numeric(text.where(written), errors="coerce").astype("float64")
    problems.add(text.notna() & ~written, f"{name} is not a number", text)
    problems.add(numbers < 0, f"{name} is negative", text)
    problems.add(written & ~(numbers <= LARGEST_NUMBER), f"{name} is larger than {LARGEST_NUMBER:g}", text)
    return numbers


def _times(name: str, text: pd.Series, zone: ZoneInfo, latest: pd.Timestamp, problems: Problems) -> pd.Series:
    text = text.mask(_is_no_value(text))
    times = parse_times(text, zone)
    problems.add(text.notna() & times.isna(), f"{name} is not a time", text)
    problems.add((times < EARLIEST) | (times > latest), f"{name} is before 1970 or more than a day ahead", text)
    return times


def parse_times(text: pd.Series, zone: ZoneInfo) -> pd.Series:
    """Times in UTC from ISO 8601 or Jira's formats; NaT for text that is not a time.

    A time without offset is local time in ``zone``. In an hour that occurs twice (end of summer time) it is in the
    second one; in an hour that does not exist (start of summer time) it is moved to the next existing time.

    >>> parse_times(pd.Series(["2021-03-02T10:00+02:00", "02/Mar/21 4:05 PM"]), ZoneInfo("UTC")).dt.hour.tolist()
    [8, 16]
    """
    # pandas parses "now" and "today" as the time of the import, whatever the format.
    text = text.where(text.str.contains(r"\d").fillna(False).astype(bool))
    text = text.where(text.str.len() <= _LONGEST_TIME).str.replace(r"\s*(?:UTC|GMT)$", "Z", regex=True)
    iso = text.str.match(_ISO).fillna(False).astype(bool)
    times = pd.to_datetime(text.where(iso), format="ISO8601", utc=True, errors="coerce").astype("datetime64[us, UTC]")
    for layout in JIRA_TIMES:
        rest = times.isna() & text.notna() & ~iso
        if not rest.any():
            break
        times[rest] = pd.to_datetime(text[rest], format=layout, utc=True, errors="coerce").astype(times.dtype)
    # Python's time zones end with the year 9999; later times are rejected with or without a zone.
    local = times.dt.year.between(1, 9998) & ~text.str.contains(_ZONED).fillna(False).astype(bool)
    if zone.key != "UTC" and local.any():
        naive = times[local].dt.tz_localize(None)
        second = np.zeros(len(naive), dtype=bool)
        times[local] = naive.dt.tz_localize(zone, ambiguous=second, nonexistent="shift_forward").dt.tz_convert("UTC")
    return times
