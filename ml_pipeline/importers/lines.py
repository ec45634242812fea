"""Reading of a plain or gzip file as numbered lines of text, with bounded line length, time and memory."""

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
MAX_LINE = 8_000_000  # bytes: eight fields of the largest length
MAX_RECORD_LINES = 10_000
# gzip shrinks exports by a factor of 5 to 20, very repetitive ones by 100, and a file of zeros by 1,000.
MAX_RATIO = 200
FREE_TO_UNPACK = 64_000_000  # bytes; below this the ratio is not checked
MAX_UNPACKED = 50_000_000_000
_UNBOUNDED = 1 << 62
# Limit for reading lines again after broken records: bytes, plus a multiple of the bytes read so far.
FREE_TO_REREAD = 2_000_000
REREAD_FACTOR = 4
_SKIPPED_AT_ONCE = 1_000_000
_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Overlong(str):
    """The beginning of a line longer than ``MAX_LINE``; the rest was skipped."""


class RecordTooLong(csv.Error):
    """A CSV record that exceeds the limits on lines or characters."""


class Lines:
    """Decoded, numbered lines of a stream; the lines of the current record can be returned to the stream.

    The CSV reader iterates over it. Iteration raises ``RecordTooLong`` if a record exceeds its limits, and can continue
    afterwards.
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
        """Read the next line of the record; empty at the end of the stream."""
        line = self._given_back.popleft() if self._given_back else self._read()
        if line:
            self.number += 1
            self.record.append(line)
            self._record_size += len(line)
        return line

    def peek(self) -> str:
        """The next line, without reading it; empty at the end of the stream."""
        if not self._given_back:
            line = self._read()
            if not line:
                return ""
            self._given_back.append(line)
        return self._given_back[0]

    def start_record(self) -> int:
        """Start a new record and return the number of its first line."""
        self.record.clear()
        self._record_size = 0
        return self.number + 1

    def give_back_all_but_first(self) -> bool:
        """End the record after its first line and return the later lines to the stream; False if over the limit.

        Without the limit, a file in which every record runs to the end of the file would be read once per line.
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
    """The lines of a file, unpacked if it starts with the gzip signature; ``file`` is its name in errors.

    Raises
    ------
    ImportFailed
        If the file cannot be opened. While reading: if it cannot be decoded or unpacked, or unpacks to too many bytes.
    """
    try:
        with path.open("rb") as plain:
            if plain.peek(2)[:2] != _GZIP:
                yield Lines(plain, file, may_unpack=_UNBOUNDED)
                return
            status = os.fstat(plain.fileno())
            size = status.st_size if stat.S_ISREG(status.st_mode) else MAX_UNPACKED  # pipes have no size
            with gzip.GzipFile(fileobj=plain) as unpacked:
                may_unpack = min(MAX_UNPACKED, max(FREE_TO_UNPACK, MAX_RATIO * size))
                yield Lines(cast(IO[bytes], unpacked), file, may_unpack)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImportFailed(f"{path}: cannot be opened: {reason}. Check the path") from error
