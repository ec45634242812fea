"""Text columns to typed columns, and what is wrong with the rows that cannot be typed. Vectorised over a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from ml_pipeline.importers.mapping import Column
from ml_pipeline.importers.reading import MAX_TEXT

MAX_LEVEL = 500
# Jira writes times in the format of its "look and feel"; these are its defaults of the last releases.
JIRA_TIMES = (
    "%d/%b/%y %I:%M %p",
    "%d/%b/%Y %I:%M %p",
    "%d/%b/%y %H:%M",
    "%d/%b/%Y %H:%M",
    "%d/%b/%y",
    "%b %d, %Y, %I:%M %p",
)

_NO_VALUE = frozenset({"null", "none", "nan", "nat", "\\n"})
_ISO = r"\d{4}-\d{2}-\d{2}"
_ZONED = r":\d{2}.*(?:Z|[+-]\d{2}(?::?\d{2})?)$"


class Problems:
    """The first thing that is wrong with each row of a chunk."""

    def __init__(self, index: pd.Index) -> None:
        self.kind = pd.Series(None, index=index, dtype=object)
        self.value = pd.Series(None, index=index, dtype=object)

    def add(self, wrong: pd.Series, kind: str, values: pd.Series | None = None) -> None:
        """Marks the rows where ``wrong`` holds, unless they are marked already."""
        fresh = wrong & self.kind.isna()
        if fresh.any():
            self.kind[fresh] = kind
            if values is not None:
                self.value[fresh] = values[fresh]

    def told(self, position: int) -> str:
        """What is wrong with the row at a position, with the value."""
        kind, value = self.kind.iloc[position], self.value.iloc[position]
        return f"{kind}: {value[:200]!r}" if isinstance(value, str) else str(kind)

    @property
    def good(self) -> pd.Series:
        return self.kind.isna()


def type_columns(raw: pd.DataFrame, columns: Sequence[Column], zone: ZoneInfo, problems: Problems) -> pd.DataFrame:
    """The columns that ``raw`` has, one per name, typed: text and levels str or NaN, numbers float64, times in UTC.

    ``raw`` holds text; where a name comes more than once, a row takes the first that is not blank. A column that is
    required and absent counts as blank in every row.
    """
    typed: dict[str, pd.Series] = {}
    for column in columns:
        if column.name not in raw.columns and not column.required:
            continue
        text = _first_value(raw, column.name)
        if column.required:
            problems.add(text.isna(), f"{column.name} is missing")
        match column.kind:
            case "time":
                typed[column.name] = _times(column.name, text.str.strip(), zone, problems)
            case "number":
                typed[column.name] = _numbers(column.name, text.str.strip(), problems)
            case "level":
                typed[column.name] = _bounded(column.name, text.str.strip(), MAX_LEVEL, problems)
            case "text":
                typed[column.name] = _bounded(column.name, text, MAX_TEXT, problems)
    return pd.DataFrame(typed, index=raw.index)


def _first_value(raw: pd.DataFrame, name: str) -> pd.Series:
    result = pd.Series(None, index=raw.index, dtype="str")
    for position in [place for place, given in enumerate(raw.columns) if given == name]:
        candidate = raw.iloc[:, position].astype("str")
        result = result.where(result.notna(), candidate.where(candidate.str.strip() != ""))
    return result


def _bounded(name: str, text: pd.Series, longest: int, problems: Problems) -> pd.Series:
    problems.add((text.str.len() > longest).fillna(False), f"{name} is longer than {longest:,} characters")
    return text


def _numbers(name: str, text: pd.Series, problems: Problems) -> pd.Series:
    numbers = pd.to_numeric(text, errors="coerce").astype("float64")
    numbers = numbers.where(np.isfinite(numbers))
    problems.add(_has_value(text, numbers), f"{name} is not a number", text)
    problems.add(numbers < 0, f"{name} is negative", text)
    return numbers


def _times(name: str, text: pd.Series, zone: ZoneInfo, problems: Problems) -> pd.Series:
    times = parse_times(text, zone)
    problems.add(_has_value(text, times), f"{name} is not a time", text)
    return times


def _has_value(text: pd.Series, parsed: pd.Series) -> pd.Series:
    """Where there is text that was not parsed and is no way to write "no value"."""
    unparsed = text.notna() & parsed.isna()
    unparsed[unparsed] = ~text[unparsed].str.casefold().isin(_NO_VALUE)
    return unparsed


def parse_times(text: pd.Series, zone: ZoneInfo) -> pd.Series:
    """Times in UTC, NaT where the text is none: ISO 8601 or one of Jira's formats.

    A time without offset is local time in ``zone``. Of an hour that comes twice (the end of summer time) the second is
    meant; one that never was (its start) is moved to the next that was.

    >>> parse_times(pd.Series(["2021-03-02T10:00+02:00", "02/Mar/21 4:05 PM"]), ZoneInfo("UTC")).dt.hour.tolist()
    [8, 16]
    """
    text = text.str.replace(r"\s*(?:UTC|GMT)$", "Z", regex=True)
    iso = text.str.match(_ISO).fillna(False).astype(bool)
    times = pd.to_datetime(text.where(iso), format="ISO8601", utc=True, errors="coerce").astype("datetime64[us, UTC]")
    for layout in JIRA_TIMES:
        rest = times.isna() & text.notna() & ~iso
        if not rest.any():
            break
        times[rest] = pd.to_datetime(text[rest], format=layout, utc=True, errors="coerce").astype(times.dtype)
    local = times.notna() & ~text.str.contains(_ZONED).fillna(False).astype(bool)
    if zone.key != "UTC" and local.any():
        naive = times[local].dt.tz_localize(None)
        second = np.zeros(len(naive), dtype=bool)
        times[local] = naive.dt.tz_localize(zone, ambiguous=second, nonexistent="shift_forward").dt.tz_convert("UTC")
    return times
