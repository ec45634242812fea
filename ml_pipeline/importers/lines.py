"""A file, plain or gzip, as numbered lines of text: each bounded, and all of them in time and memory that are too."""

from __future__ import annotations

import csv
import gzip
import os
import stat
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from ml_pipeline.importers.summary import ImportFailed

MAX_CONTENT = 2_000
MAX_LINE = 8_000_000  # bytes: eight texts of the longest that a field may hold
MAX_RECORD_LINES = 10_000
# Exports shrink to a fifth or a twentieth under gzip, the most repetitive to a hundredth, and zeros to a thousandth.
MAX_RATIO = 200
FREE_TO_UNPACK = 64_000_000  # bytes: the ratio says nothing of a small file
MAX_UNPACKED = 50_000_000_000
_UNBOUNDED = 1 << 62
# What may be read again for the sake of records that did not end well: this much, and so many times what was read.
FREE_TO_REREAD = 2_000_000
REREAD_FACTOR = 4
_SKIPPED_AT_ONCE = 1_000_000
_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Overlong(str):
    """The beginning of a line that is longer than ``MAX_LINE``; the rest of it was skipped."""


class RecordTooLong(csv.Error):
    """A record of CSV that does not end within its bounds."""


class Lines:
    """Decoded lines of a stream with their number, of which the current record's may be given back.

    Iterating is for the CSV reader: it raises ``RecordTooLong`` where the record leaves its bounds, and may go on.
    """

    def __init__(self, stream: IO[bytes], file: str, may_unpack: int) -> None:
        self._stream = stream
        self._file = file
        self._may_unpack = may_unpack
        self._bytes = 0
        self._reread = 0
        self._given_back: deque[str] = deque()
        self._record_size = 0
        self.number = 0
        self.record: list[str] = []

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        if len(self.record) >= MAX_RECORD_LINES:
            raise RecordTooLong(f"a record of more than {MAX_RECORD_LINES:,} lines")
        if self._record_size > MAX_LINE:
            raise RecordTooLong(f"a record of more than {MAX_LINE:,} characters")
        line = self.take()
        if not line:
            raise StopIteration
        if isinstance(line, Overlong):
            raise RecordTooLong(f"a line of more than {MAX_LINE:,} bytes")
        return line

    def take(self) -> str:
        """The next line of the record, empty at the end of the stream."""
        line = self._given_back.popleft() if self._given_back else self._read()
        if line:
            self.number += 1
            self.record.append(line)
            self._record_size += len(line)
        return line

    def peek(self) -> str:
        """The line that comes next, empty at the end of the stream."""
        if not self._given_back:
            line = self._read()
            if not line:
                return ""
            self._given_back.append(line)
        return self._given_back[0]

    def start_record(self) -> int:
        """Forgets the lines of the record before; returns the number of the line that comes next."""
        self.record.clear()
        self._record_size = 0
        return self.number + 1

    def give_back_all_but_first(self) -> bool:
        """Lets the record end with its first line: the lines after it come again. False if that was done too often.

        Without that limit a file whose every record runs to its end would be read once for each of its lines.
        """
        again = self._record_size - len(self.record[0])
        if self._reread + again > FREE_TO_REREAD + REREAD_FACTOR * self._bytes:
            return False
        self._reread += again
        self._given_back.extendleft(reversed(self.record[1:]))
        self.number -= len(self.record) - 1
        del self.record[1:]
        return True

    def _read(self) -> str:
        where = f"{self._file}: line {self.number + 1}"
        try:
            line = self._stream.readline(MAX_LINE + 1)
            self._count(line, where)
            if self.number == 0:
                line = line.removeprefix(_BYTE_ORDER_MARK)
                if line.startswith(_GZIP):
                    raise ImportFailed(f"{self._file}: is compressed twice. Unpack it once and import it again")
            if len(line) > MAX_LINE:
                self._skip_rest(line, where)
                return Overlong(line[: 4 * MAX_CONTENT].decode("utf-8", "replace")[:MAX_CONTENT])
            return line.decode("utf-8")
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
            raise ImportFailed(
                f"{where}: cannot be read: {error}. The rows before are loaded; fetch the file again"
            ) from error

    def _skip_rest(self, line: bytes, where: str) -> None:
        while line and not line.endswith(b"\n"):
            line = self._stream.readline(_SKIPPED_AT_ONCE)
            self._count(line, where)

    def _count(self, line: bytes, where: str) -> None:
        self._bytes += len(line)
        if self._bytes > self._may_unpack:
            raise ImportFailed(
                f"{where}: the compressed file unpacks to more than {self._may_unpack:,} bytes, over {MAX_RATIO} times "
                "its size. The rows before are loaded; if it is an export, unpack it and import the plain file"
            )


@contextmanager
def open_lines(path: Path, file: str) -> Iterator[Lines]:
    """The lines of a file, unpacked if its first bytes are those of gzip; ``file`` is its name in errors.

    Raises
    ------
    ImportFailed
        If it cannot be opened. While reading: if it cannot be decoded or unpacked, or unpacks to too much.
    """
    try:
        with path.open("rb") as plain:
            if plain.peek(2)[:2] != _GZIP:
                yield Lines(plain, file, may_unpack=_UNBOUNDED)
                return
            status = os.fstat(plain.fileno())
            size = status.st_size if stat.S_ISREG(status.st_mode) else MAX_UNPACKED  # a pipe has no size
            with gzip.GzipFile(fileobj=plain) as unpacked:
                may_unpack = min(MAX_UNPACKED, max(FREE_TO_UNPACK, MAX_RATIO * size))
                yield Lines(cast(IO[bytes], unpacked), file, may_unpack)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImportFailed(f"{path}: cannot be opened: {reason}. Check the path") from error
