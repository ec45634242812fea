"""Reading of files in chunks of records, with line numbers, in bounded time and memory."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from sys import getsizeof
from typing import Any, NamedTuple

from ml_pipeline.importers.lines import MAX_CONTENT, MAX_LINE, Lines, Overlong, RecordTooLong, open_lines
from ml_pipeline.importers.mapping import Column, JsonMapping, is_no_value, match_header
from ml_pipeline.importers.summary import ImportFailed

MAX_TEXT = 1_000_000
MAX_FIELDS = 10_000
MAX_FIELDS_OF_A_COLUMN = 100
# Values in a JSON object with all nested ones; a pull request with 250 commits and 100 reviews has about 12,000.
MAX_JSON_VALUES = 200_000
CHUNK_ROWS = 20_000
CHUNK_CHARACTERS = 4_000_000
# After this number of unreadable records, and ten times as many as readable ones, the file is not such an export.
GIVE_UP_AFTER = 50_000
GIVE_UP_RATIO = 10

_EMPTY_TEXT = 40  # bytes, so that blank values count too; less than Python's own size of a text
_TOO_LONG_TEXT = f"a field is longer than {MAX_TEXT:,} characters"
_FieldsToValues = Callable[[list[str]], Sequence[str]]
_Enrich = Callable[[dict[str, Any]], dict[str, Any]]


class Record(NamedTuple):
    """One record of a file: its first line number, its raw text (shortened), and its values or its problem."""

    line: int
    content: str
    values: Sequence[str] | dict[str, str] | None
    problem: str = ""
    detail: str | None = None

    @property
    def size(self) -> int:
        """Approximate memory of its text in bytes; 4 per character if any character needs 4."""
        values = self.values.values() if isinstance(self.values, dict) else self.values or ()
        return max(sum(map(getsizeof, values)) - _EMPTY_TEXT * len(values), getsizeof(self.content) - _EMPTY_TEXT)

    @property
    def storable_content(self) -> str:
        """The raw text without NUL, which PostgreSQL does not store."""
        return self.content.replace("\x00", "\N{REPLACEMENT CHARACTER}")


@dataclass
class Chunk:
    """Records in file order; ``names`` are the column names of the values, or None if each record is a mapping."""

    names: list[str] | None
    records: list[Record] = field(default_factory=list)
    rejected: list[Record] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records) + len(self.rejected)


def read_chunks(
    path: Path, columns: Sequence[Column], enrich: _Enrich | None = None, file: str | None = None
) -> Iterator[Chunk]:
    """Chunks of at most 20,000 records or about 4 million characters, from CSV or (with ``enrich``) JSON Lines.

    Compression by gzip is detected from the first bytes. ``enrich`` derives further keys of a JSON object, which are
    used where the object itself has no value. ``file`` is the name for errors, by default the file's own.

    Raises
    ------
    ImportFailed
        If the file is missing, its header lacks a required column, it cannot be read to its end, or almost no record is
        readable. In the last two cases, the records before the error are returned first.
    """
    file = path.name if file is None else file
    with open_lines(path, file) as lines:
        first = lines.peek()
        names: list[str] | None = None
        if enrich is not None and first.lstrip().startswith("["):
            raise ImportFailed(
                f"{file}: contains one JSON array. Write one object per line, with `gh ... --jq '.[]'` or `jq -c '.[]'`"
            )
        if enrich is not None and first.lstrip().startswith("{"):
            records = _json_records(lines, columns, enrich)
        else:
            names, records = _csv_records(lines, columns, file)
        yield from _chunks(names, records, file)


def _chunks(names: list[str] | None, records: Iterable[Record], file: str) -> Iterator[Chunk]:
    chunk, characters, read, rejected = Chunk(names), 0, 0, 0
    try:
        for record in records:
            if record.values is not None:
                chunk.records.append(record)
                read += 1
            else:
                chunk.rejected.append(record)
                rejected += 1
                if rejected >= GIVE_UP_AFTER and rejected >= GIVE_UP_RATIO * read:
                    raise ImportFailed(
                        f"{file}: line {record.line}: {rejected:,} records before it cannot be read, and {read:,} can. "
                        f"The last is: {record.problem}. The rows before are loaded; is this a CSV or JSON Lines file?"
                    )
            characters += record.size
            if len(chunk) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
                yield chunk
                chunk, characters = Chunk(names), 0
    except ImportFailed:
        yield chunk
        raise
    yield chunk


def _csv_records(lines: Lines, columns: Sequence[Column], file: str) -> tuple[list[str], Iterator[Record]]:
    delimiter = max(",;\t", key=lines.peek().count)
    csv.field_size_limit(MAX_TEXT)
    new_reader = partial(csv.reader, delimiter=delimiter, strict=True)
    reader = new_reader(lines)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise ImportFailed(f"{file}: line 1: the header is not valid CSV: {error}. Correct it") from error
    if len(header) > MAX_FIELDS:
        raise ImportFailed(f"{file}: the header has {len(header):,} columns. Export at most {MAX_FIELDS:,}")
    matched = match_header(header, columns, file)
    most, name = max((fields, name) for name, fields in Counter(name for _, name in matched).items())
    if most > MAX_FIELDS_OF_A_COLUMN:
        raise ImportFailed(f"{file}: the header has {most:,} columns for {name}. Keep at most {MAX_FIELDS_OF_A_COLUMN}")
    positions = [position for position, _ in matched]

    def record(line: int, content: str, fields: list[str]) -> Record:
        if len(fields) != len(header):
            return Record(line, content, None, "wrong number of fields", f"{len(fields)}, not {len(header)}")
        values = tuple(fields[position] for position in positions)
        return _storable(line, content, values, values)

    return [name for _, name in matched], _csv_rows(lines, reader, new_reader, record)


def _csv_rows(
    lines: Lines,
    reader: Iterator[list[str]],
    new_reader: Callable[[list[str]], Iterator[list[str]]],
    record: Callable[[int, str, list[str]], Record],
) -> Iterator[Record]:
    while True:
        line = lines.start_record()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # An unclosed quote would include the rows after it; only its own line is quarantined.
            first, *others = lines.record
            yield Record(line, first[:MAX_CONTENT], None, _csv_problem(error))
            if lines.give_back_all_but_first():
                continue
            for number, text in enumerate(others, line + 1):
                yield from _alone(number, text, new_reader, record)
            continue
        if fields:
            yield record(line, "".join(lines.record)[:MAX_CONTENT], fields)


def _alone(
    line: int,
    text: str,
    new_reader: Callable[[list[str]], Iterator[list[str]]],
    record: Callable[[int, str, list[str]], Record],
) -> Iterator[Record]:
    """The record of a single line that was part of a broken record."""
    content = text[:MAX_CONTENT]
    try:
        if isinstance(text, Overlong):
            raise RecordTooLong(f"a line of more than {MAX_LINE:,} bytes")
        for fields in new_reader([text]):
            if fields:
                yield record(line, content, fields)
    except csv.Error as error:
        yield Record(line, content, None, _csv_problem(error))


def _csv_problem(error: csv.Error) -> str:
    if isinstance(error, RecordTooLong):
        return str(error)
    if "field limit" in str(error):
        return _TOO_LONG_TEXT
    return "broken quotes"


def _json_records(lines: Lines, columns: Sequence[Column], enrich: _Enrich) -> Iterator[Record]:
    mapping = JsonMapping(columns)
    known = {column.name for column in columns}
    while text := lines.take():
        line, content = lines.number, text[:MAX_CONTENT]
        lines.start_record()
        if not text.strip():
            continue
        try:
            decoded = _json_object(text)
        except ValueError as error:
            yield Record(line, content, None, str(error))
            continue
        values = mapping.pick(decoded)
        for name, value in enrich(decoded).items():
            if name in known and value is not None and is_no_value(values.get(name, "")):
                values[name] = str(value)
        yield _storable(line, content, values, values.values())


def _json_object(text: str) -> dict[str, Any]:
    """The JSON object of one line. Numbers stay text, so that large ones are neither rejected nor rounded.

    Raises
    ------
    ValueError
        If the line is not a JSON object, or is too large; the message is the reason for the quarantine.
    """
    if isinstance(text, Overlong):
        raise ValueError(f"a line of more than {MAX_LINE:,} bytes")
    if sum(map(text.count, ",[{")) > MAX_JSON_VALUES:
        raise ValueError(f"a JSON object of more than {MAX_JSON_VALUES:,} values")
    try:
        decoded = json.loads(
            text, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_first_with_value
        )
    except RecursionError:
        raise ValueError("a JSON object that is nested too deeply") from None
    except ValueError:
        decoded = None
    if not isinstance(decoded, dict):
        raise ValueError("not a JSON object")
    return decoded


def _first_with_value(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object; for a repeated key, the first value that is not blank."""
    result = dict(pairs)
    if len(result) < len(pairs):
        for key, value in reversed(pairs):
            if value is not None and not (isinstance(value, str) and is_no_value(value)):
                result[key] = value
    return result


def _storable(line: int, content: str, values: Sequence[str] | dict[str, str], texts: Iterable[str]) -> Record:
    """The record, rejected if one of its texts is too long or PostgreSQL cannot store it."""
    texts = list(texts)
    joined = "".join(texts)
    if len(joined) > MAX_TEXT and max(map(len, texts)) > MAX_TEXT:
        return Record(line, content, None, _TOO_LONG_TEXT)
    if "\x00" in joined:
        return Record(line, content, None, "NUL byte")
    try:
        joined.encode()
    except UnicodeEncodeError:
        return Record(line, content, None, "half of a surrogate pair, which is not a character")
    return Record(line, content, values)
