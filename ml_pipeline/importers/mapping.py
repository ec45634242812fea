"""Mapping of export columns to table columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from ml_pipeline.importers.summary import ImportFailed

_CUSTOM_FIELD = re.compile(r"custom field \((.+)\)", re.IGNORECASE)
_LONGEST_NAME = 200
# Texts by which databases, spreadsheets and programs write a missing value.
NO_VALUE = frozenset(
    [
        *("", "null", "(null)", "none", "(none)", "nil", "nan", "nat", "\\n", "n/a", "#n/a", "na", "<na>", "undefined"),
        *("-", "--", "\N{EN DASH}", "\N{EM DASH}"),
    ]
)
LONGEST_NO_VALUE = max(map(len, NO_VALUE))


@dataclass(frozen=True)
class Column:
    """A table column that an importer fills: its name, its kind, and its names in exports, best first.

    A dot in an alias refers to a nested JSON object. The column's own name is always accepted.
    """

    name: str
    kind: Literal["level", "text", "number", "time"]
    aliases: tuple[str, ...] = ()
    required: bool = False

    @property
    def accepted(self) -> tuple[str, ...]:
        return (*self.aliases, self.name)


def is_no_value(text: str) -> bool:
    """Whether the text is blank or means a missing value.

    >>> is_no_value(" NULL "), is_no_value(r"\\N"), is_no_value("0")
    (True, True, False)
    """
    text = text.strip()
    return len(text) <= LONGEST_NO_VALUE and text.casefold() in NO_VALUE


@lru_cache(maxsize=4096)
def normalised(name: str) -> str:
    """The name for comparison: without case, blanks, underscores and Jira's ``Custom field (...)``.

    >>> normalised("Custom field (Story Points)"), normalised("story_points")
    ('storypoints', 'storypoints')
    """
    name = name.strip()
    custom = _CUSTOM_FIELD.fullmatch(name)
    return re.sub(r"[\s_]+", "", custom[1] if custom else name).casefold()


def match_header(header: Sequence[str], columns: Iterable[Column], file: str) -> list[tuple[int, str]]:
    """Position and column name of every known field in the header.

    Several fields may fill one column: Jira exports two kinds of story points, and custom fields with equal names. They
    are sorted by alias, best first, then by position.

    Raises
    ------
    ImportFailed
        If a required column is missing; the message lists missing columns with their accepted names.
    """
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(header):
        if len(name) <= _LONGEST_NAME:
            positions.setdefault(normalised(name), []).append(position)
    matched: list[tuple[int, str]] = []
    missing: list[str] = []
    for column in columns:
        names = dict.fromkeys(normalised(alias) for alias in column.accepted)
        found = [(position, column.name) for name in names for position in positions.get(name, ())]
        matched += found
        if column.required and not found:
            missing.append(f"{column.name} (accepted: {', '.join(dict.fromkeys(column.accepted))})")
    if missing:
        shown = ", ".join(repr(name[:60]) for name in header[:20])
        raise ImportFailed(
            f"{file}: the header has no column for {'; '.join(missing)}. It has {shown}. "
            "Rename a column of the file to one of the accepted names"
        )
    return matched


class JsonMapping:
    """Extracts the known columns from JSON objects.

    >>> mapping = JsonMapping([Column("author", "level", ("user.login",)), Column("closed_at", "time")])
    >>> mapping.pick({"user": {"login": "ann", "id": 7}, "closedAt": None})
    {'author': 'ann', 'closed_at': ''}
    """

    def __init__(self, columns: Iterable[Column]) -> None:
        self._columns: dict[str, tuple[str, int]] = {}
        for column in columns:
            for rank, alias in enumerate(column.accepted):
                self._columns.setdefault(normalised(alias), (column.name, rank))
        steps = [path.split(".") for path in self._columns]
        self._parents = {".".join(path[:depth]) for path in steps for depth in range(1, len(path))}

    def pick(self, record: dict[str, Any]) -> dict[str, str]:
        """Text by column name, from the best alias with a value, for the columns of the object; null becomes ''.

        If an alias occurs in two spellings (``createdAt``, ``created_at``), the first one with a value is used.
        """
        best: dict[str, tuple[tuple[bool, int], str]] = {}
        for path, text in self._leaves(record, ""):
            name, alias = self._columns[path]
            rank = (is_no_value(text), alias)
            if name not in best or rank < best[name][0]:
                best[name] = (rank, text)
        return {name: text for name, (_, text) in best.items()}

    def _leaves(self, record: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
        for key, value in record.items():
            if len(key) > _LONGEST_NAME:
                continue
            path = prefix + normalised(key)
            if isinstance(value, dict):
                if path in self._parents:
                    yield from self._leaves(value, f"{path}.")
            elif path in self._columns and not isinstance(value, list):
                yield path, "" if value is None else str(value)
