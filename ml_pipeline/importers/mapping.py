"""Which column of an export fills which column of a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from ml_pipeline.importers.summary import ImportFailed

_CUSTOM_FIELD = re.compile(r"custom field \((.+)\)", re.IGNORECASE)
_LONGEST_NAME = 200
# How databases, spreadsheets and programs write that there is no value.
NO_VALUE = frozenset(
    [
        *("", "null", "(null)", "none", "(none)", "nil", "nan", "nat", "\\n", "n/a", "#n/a", "na", "<na>", "undefined"),
        *("-", "--", "\N{EN DASH}", "\N{EM DASH}"),
    ]
)
LONGEST_NO_VALUE = max(map(len, NO_VALUE))


@dataclass(frozen=True)
class Column:
    """A value that an importer knows: its name here, its kind, and the names that exports give it, best first.

    A dot in an alias is a step into a nested JSON object. The column's own name is always accepted.
    """

    name: str
    kind: Literal["level", "text", "number", "time"]
    aliases: tuple[str, ...] = ()
    required: bool = False

    @property
    def accepted(self) -> tuple[str, ...]:
        return (*self.aliases, self.name)


def is_no_value(text: str) -> bool:
    """Whether the text is blank or one of the ways to write that there is no value.

    >>> is_no_value(" NULL "), is_no_value(r"\\N"), is_no_value("0")
    (True, True, False)
    """
    text = text.strip()
    return len(text) <= LONGEST_NO_VALUE and text.casefold() in NO_VALUE


@lru_cache(maxsize=4096)
def normalised(name: str) -> str:
    """The name as it is compared: no case, blanks, underscores or Jira's ``Custom field (...)`` around it.

    >>> normalised("Custom field (Story Points)"), normalised("story_points")
    ('storypoints', 'storypoints')
    """
    name = name.strip()
    custom = _CUSTOM_FIELD.fullmatch(name)
    return re.sub(r"[\s_]+", "", custom[1] if custom else name).casefold()


def match_header(header: Sequence[str], columns: Iterable[Column], file: str) -> list[tuple[int, str]]:
    """Position in the header and column name, for every header field that is known.

    A column may be filled from several fields: Jira exports two kinds of story points, and custom fields of one name.
    They come best alias first, and under one alias as in the header.

    Raises
    ------
    ImportFailed
        If no field fills a required column; the message names those columns and their accepted names.
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
    """Takes the known columns out of JSON objects.

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
        """Column name -> text of the best alias with a value, for the columns that the object has; null is ''.

        Of one alias in two spellings (``createdAt``, ``created_at``) the first with a value counts.
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
