"""Files to chunks of records, with line numbers, in bounded memory."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from ml_pipeline.importers.mapping import Column, JsonMapping, match_header
from ml_pipeline.importers.summary import ImportFailed

MAX_TEXT = 1_000_000
MAX_CONTENT = 2_000
CHUNK_ROWS = 20_000
CHUNK_CHARACTERS = 4_000_000
_MAX_LINE = 32_000_000
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Record(NamedTuple):
    """One record of a file: the line where it starts, its raw text (cut), and its values or what is wrong with it."""

    line: int
    content: str
    values: Sequence[str] | dict[str, str] | None
    problem: str = ""
    detail: str | None = None


@dataclass
class Chunk:
    """Records in file order; ``names`` are the column names of the values (None: each record is a mapping)."""

    names: list[str] | None
    records: list[Record] = field(default_factory=list)
    rejected: list[Record] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.records) + len(self.rejected)


class _Lines:
    """Decoded lines of a stream with their number, of which the current record's may be given back."""

    def __init__(self, stream: IO[bytes], file: str) -> None:
        self._stream = stream
        self._file = file
        self._given_back: deque[str] = deque()
        self.number = 0
        self.record: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._given_back.popleft() if self._given_back else self._read()
        self.number += 1
        self.record.append(line)
        return line

    def peek(self) -> str:
        """The line that comes next, empty at the end of the stream."""
        if not self._given_back:
            try:
                self._given_back.append(self._read())
            except StopIteration:
                return ""
        return self._given_back[0]

    def start_record(self) -> int:
        """Forgets the lines of the record before; returns the number of the line that comes next."""
        self.record.clear()
        return self.number + 1

    def give_back_all_but_first(self) -> None:
        """Lets the record end with its first line: the lines after it come again."""
        self._given_back.extendleft(reversed(self.record[1:]))
        self.number -= len(self.record) - 1
        del self.record[1:]

    def _read(self) -> str:
        where = f"{self._file}: line {self.number + 1}"
        try:
            line = self._stream.readline(_MAX_LINE)
            if self.number == 0:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if not line:
                raise StopIteration
            text = line.decode("utf-8")
        except EOFError as error:
            raise ImportFailed(
                f"{where}: the compressed file ends too early. The rows before are loaded; fetch the file again"
            ) from error
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise ImportFailed(
                f"{where}: byte 0x{byte:02x} is not UTF-8. The rows before are loaded; save the file as UTF-8 and "
                "import it again"
            ) from error
        except (OSError, zlib.error) as error:
            raise ImportFailed(f"{where}: cannot be read: {error}. The rows before are loaded") from error
        if len(line) == _MAX_LINE:
            raise ImportFailed(f"{where}: is longer than {_MAX_LINE:,} bytes. Is this a CSV or JSON Lines file?")
        return text


def read_chunks(
    path: Path, columns: Sequence[Column], enrich: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> Iterator[Chunk]:
    """Chunks of at most 20,000 records or about 4 million characters, from CSV or (with ``enrich``) JSON Lines.

    Both may be compressed by gzip; the first bytes tell, not the name. ``enrich`` derives further keys of an object.

    Raises
    ------
    ImportFailed
        If the file is missing, its header lacks a required column, or it cannot be read to its end. In the last case
        the records before come first.
    """
    with _open(path) as stream:
        lines = _Lines(stream, path.name)
        first = lines.peek()
        names: list[str] | None = None
        if enrich is not None and first.lstrip().startswith("["):
            raise ImportFailed(
                f"{path.name}: holds one JSON array. Write an object a line, as `gh ... --jq '.[]'` or `jq -c '.[]'` do"
            )
        if enrich is not None and first.lstrip().startswith("{"):
            records = _json_records(lines, columns, enrich)
        else:
            names, records = _csv_records(lines, columns, path.name)
        yield from _chunks(names, records)


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as plain:
            compressed = plain.peek(2)[:2] == b"\x1f\x8b"
            with cast(IO[bytes], gzip.GzipFile(fileobj=plain) if compressed else plain) as stream:
                yield stream
    except OSError as error:
        raise ImportFailed(f"{path}: cannot be opened: {error.strerror or error}. Check the path") from error


def _chunks(names: list[str] | None, records: Iterable[Record]) -> Iterator[Chunk]:
    chunk, characters = Chunk(names), 0
    try:
        for record in records:
            if record.values is None:
                chunk.rejected.append(record)
            else:
                chunk.records.append(record)
                values = record.values.values() if isinstance(record.values, dict) else record.values
                characters += sum(map(len, values))
            if len(chunk) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
                yield chunk
                chunk, characters = Chunk(names), 0
    except ImportFailed:
        yield chunk
        raise
    yield chunk


def _csv_records(lines: _Lines, columns: Sequence[Column], file: str) -> tuple[list[str], Iterator[Record]]:
    delimiter = max(",;\t", key=lines.peek().count)
    csv.field_size_limit(MAX_TEXT)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise ImportFailed(f"{file}: line 1: the header is no CSV: {error}. Correct it") from error
    matched = match_header(header, columns, file)
    take = itemgetter(*(position for position, _ in matched))
    return [name for _, name in matched], _csv_rows(lines, reader, len(header), take)


def _csv_rows(lines: _Lines, reader: Any, width: int, take: Callable[[list[str]], Sequence[str]]) -> Iterator[Record]:
    while True:
        line = lines.start_record()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # A quote that is never closed swallows the rows after it: only its own line is set aside.
            lines.give_back_all_but_first()
            yield Record(line, lines.record[0][:MAX_CONTENT], None, _csv_problem(error))
            continue
        if not fields:
            continue
        content = "".join(lines.record)[:MAX_CONTENT]
        if len(fields) != width:
            yield Record(line, content, None, "wrong number of fields", f"{len(fields)}, not {width}")
        else:
            values = take(fields)
            yield _storable(line, content, values, values)


def _csv_problem(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"a field is longer than {MAX_TEXT:,} characters"
    return "broken quotes"


def _json_records(
    lines: _Lines, columns: Sequence[Column], enrich: Callable[[dict[str, Any]], dict[str, Any]]
) -> Iterator[Record]:
    mapping = JsonMapping(columns)
    for text in lines:
        line, content = lines.number, text[:MAX_CONTENT]
        lines.start_record()
        if not text.strip():
            continue
        try:
            decoded = json.loads(text)
        except (ValueError, RecursionError):
            decoded = None
        if not isinstance(decoded, dict):
            yield Record(line, content, None, "not a JSON object")
            continue
        values = mapping.pick(enrich(decoded))
        yield _storable(line, content, values, values.values())


def _storable(line: int, content: str, values: Sequence[str] | dict[str, str], texts: Iterable[str]) -> Record:
    """The record, rejected if PostgreSQL could not store its texts."""
    joined = "".join(texts)
    if "\x00" in joined:
        return Record(line, content, None, "NUL byte")
    try:
        joined.encode()
    except UnicodeEncodeError:
        return Record(line, content, None, "half of a surrogate pair, which is no character")
    return Record(line, content, values)
