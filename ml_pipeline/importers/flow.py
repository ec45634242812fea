"""Steps of every import: read a chunk, convert it, quarantine invalid rows, load the others tenant by tenant."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from ml_pipeline.identifiers import BadIdentifier
from ml_pipeline.importers.checking import Problems, type_columns
from ml_pipeline.importers.files import printable
from ml_pipeline.importers.load import CopyRows, last_of_each_key, upsert
from ml_pipeline.importers.mapping import Column
from ml_pipeline.importers.reading import Chunk, Record, read_chunks
from ml_pipeline.importers.summary import UNKNOWN_TENANT, ImportFailed, ImportSummary
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse

_WEEK = pd.Timedelta(weeks=1)


@dataclass(frozen=True)
class Layout:
    """Layout of a kind of export: its columns and the table that they fill.

    ``finish`` converts typed columns to the table's columns and ``tenant_id``, and adds problems. ``fallback`` is the
    tenant of rows that cannot be read. ``enrich`` derives keys of JSON objects; layouts without it take CSV only.
    """

    table: sa.Table
    key: str
    columns: tuple[Column, ...]
    finish: Callable[[pd.DataFrame, Problems], pd.DataFrame]
    fallback: str = UNKNOWN_TENANT
    enrich: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    @property
    def times(self) -> list[str]:
        return [column.name for column in self.table.columns if isinstance(column.type, sa.TIMESTAMP)]


@dataclass(frozen=True)
class Parsed:
    """A checked chunk: ``rows`` to load, ``rejected`` (tenant_id, line, reason, content, kind) to quarantine."""

    rows: pd.DataFrame
    rejected: pd.DataFrame


@dataclass(frozen=True)
class _Source:
    """A file to import; ``label`` is its name in quarantine and messages."""

    path: Path
    label: str
    layout: Layout
    zone: ZoneInfo
    now: datetime

    @property
    def labels(self) -> list[str]:
        """All labels under which an earlier import of this file may have quarantined rows."""
        with_folder = "/".join(Path(os.path.realpath(self.path)).parts[-2:])
        return list(dict.fromkeys([self.label, printable(self.path.name), printable(with_folder)]))

    def parse(self) -> Iterator[Parsed]:
        for chunk in read_chunks(self.path, self.layout.columns, self.layout.enrich, self.label):
            yield check(chunk, self.layout, self.zone, self.now)


def import_file(
    warehouse: Warehouse,
    path: Path,
    layout: Layout,
    *,
    timezone: str,
    shift_to: pd.Timestamp | datetime | None,
    progress: Callable[[int], None] | None,
    label: str | None,
) -> ImportSummary:
    """Import one file; see :func:`ml_pipeline.importers.jira.import_jira` for the arguments.

    Raises
    ------
    ImportFailed
        If the file cannot be read to its end, the time zone is unknown, PostgreSQL rejects rows, or all rows are
        invalid.
    """
    source = _Source(path, printable(label or path.name), layout, time_zone(timezone), datetime.now(UTC))
    shifts = _shifts(source, shift_to) if shift_to is not None else {}
    load = _Load(warehouse, source, shifts)
    for parsed in source.parse():
        load.chunk(parsed)
        if progress is not None:
            progress(load.rows_read)
    summary = load.summary()
    if summary.rows_loaded == 0:
        found = "; ".join(f"{reason} ({count})" for reason, count in list(summary.reasons.items())[:3])
        raise ImportFailed(
            f"{source.label}: all {summary.rows_read:,} rows are invalid{f': {found}' if found else ''}. "
            "See ml.quarantine for each row, and docs/how-to/import.md for the required columns"
        )
    return summary


def time_zone(name: str) -> ZoneInfo:
    """The time zone called ``name``.

    Raises
    ------
    ImportFailed
        If it does not exist.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a folder of zones, such as "Europe"
        raise ImportFailed(f"timezone {name!r} is unknown. Write it like 'UTC' or 'Europe/Berlin'") from error


def check(chunk: Chunk, layout: Layout, zone: ZoneInfo, now: datetime) -> Parsed:
    """The valid rows of a chunk, and the rejected rows with their reasons."""
    raw = pd.DataFrame([record.values for record in chunk.records], columns=chunk.names)
    problems = Problems(raw.index)
    rows = layout.finish(type_columns(raw, layout.columns, zone, problems, now), problems)
    good = problems.good
    rejected = [_rejection(record, record.problem, record.detail, layout.fallback) for record in chunk.rejected]
    rejected += [
        _rejection(
            chunk.records[position], problems.kind[position], problems.value[position], rows["tenant_id"][position]
        )
        for position in np.flatnonzero(~good)
    ]
    return Parsed(rows[good], pd.DataFrame(rejected, columns=["tenant_id", "line", "reason", "content", "kind"]))


def _rejection(record: Record, kind: str, value: object, tenant_id: str) -> tuple[str, int, str, str, str]:
    reason = kind if not isinstance(value, str) else f"{kind}: {value[:200]!r}"
    return tenant_id, record.line, reason, record.storable_content, kind


def _shifts(source: _Source, shift_to: pd.Timestamp | datetime) -> dict[str, pd.Timedelta]:
    """For each tenant, the whole weeks that move its newest time into the seven days up to ``shift_to``."""
    target = pd.Timestamp(shift_to)
    if target.tzinfo is None:
        raise ImportFailed(f"shift_to {target} has no time zone. Write it like 2026-01-31T00:00Z")
    newest: dict[str, pd.Timestamp] = {}
    with suppress(ImportFailed):  # the import loads the rows before the error and reports it
        for parsed in source.parse():
            times = parsed.rows[[name for name in source.layout.times if name in parsed.rows]].max(axis=1)
            for tenant, time in times.groupby(parsed.rows["tenant_id"]).max().items():
                newest[str(tenant)] = max(time, newest.get(str(tenant), time))
    return {tenant: (target - time) // _WEEK * _WEEK for tenant, time in newest.items()}


class _Load:
    """Writes chunks and counts the rows of one import."""

    def __init__(self, warehouse: Warehouse, source: _Source, shifts: dict[str, pd.Timedelta]) -> None:
        self._warehouse = warehouse
        self._source = source
        self._layout = source.layout
        self._shifts = shifts
        self._seen = np.empty(0, dtype=np.uint64)  # sorted hashes; a million keys take 8 MB
        self._cleared: set[str] = set()
        self._tenants: dict[str, None] = {}
        self._reasons: Counter[str] = Counter()
        self.rows_read = 0

    def chunk(self, parsed: Parsed) -> None:
        """Write a chunk, with one transaction per tenant."""
        loaded = last_of_each_key(parsed.rows, ["tenant_id", self._layout.key]).reset_index(drop=True)
        if self._shifts:
            shift = loaded["tenant_id"].map(self._shifts)
            times = [name for name in self._layout.times if name in loaded]
            loaded = loaded.assign(**{name: loaded[name] + shift for name in times})
        rows = CopyRows.of(self._layout.table, loaded)
        rejected = CopyRows.of(tables.quarantine, parsed.rejected.assign(file=self._source.label))
        rows_of, rejected_of = _positions(loaded["tenant_id"]), _positions(parsed.rejected["tenant_id"])
        first = {self._layout.fallback} - self._cleared
        for tenant in dict.fromkeys([*rows_of, *rejected_of, *first]):
            with self._refusals_named(tenant), self._warehouse.tenant(tenant) as connection:
                if tenant not in self._cleared:
                    old = tables.quarantine.c
                    of_file = (old.tenant_id == tenant, old.file.in_(self._source.labels))
                    connection.execute(sa.delete(tables.quarantine).where(*of_file))
                    self._cleared.add(tenant)
                if tenant in rows_of:
                    if tenant not in self._tenants:
                        try:
                            self._warehouse.make_known(connection, tenant)
                        except BadIdentifier as error:
                            raise ImportFailed(f"{self._source.label}: {error} with --tenant") from error
                        self._tenants[tenant] = None
                    upsert(connection, tenant, rows.take(rows_of[tenant]))
                if tenant in rejected_of:
                    upsert(connection, tenant, rejected.take(rejected_of[tenant]))
        self.rows_read += len(parsed.rows) + len(parsed.rejected)
        self._reasons.update(parsed.rejected["kind"].tolist())
        keys = np.unique(pd.util.hash_array(parsed.rows[self._layout.key].to_numpy(dtype=object), categorize=False))
        places = np.searchsorted(self._seen, keys)
        known = np.append(self._seen, np.uint64(0))[places] == keys
        known &= places < len(self._seen)
        self._seen = np.insert(self._seen, places[~known], keys[~known])

    @contextmanager
    def _refusals_named(self, tenant: str) -> Iterator[None]:
        """Add file and tenant to PostgreSQL's errors, which name neither."""
        try:
            yield
        except DBAPIError as error:
            detail = (str(error.orig).strip() or type(error.orig).__name__).splitlines()[0]
            if error.connection_invalidated:
                raise ImportFailed(
                    f"{self._source.label}, tenant {tenant}: the connection to PostgreSQL was lost after the first "
                    f"{self.rows_read:,} rows: {detail}. Those rows are loaded; import the file again"
                ) from error
            raise ImportFailed(
                f"{self._source.label}, tenant {tenant}: PostgreSQL rejects rows after the first {self.rows_read:,}: "
                f"{detail}. The rows before are loaded; correct the file, or report this error with the row"
            ) from error

    def summary(self) -> ImportSummary:
        quarantined = sum(self._reasons.values())
        return ImportSummary(
            file=self._source.label,
            rows_read=self.rows_read,
            rows_loaded=len(self._seen),
            duplicates=self.rows_read - quarantined - len(self._seen),
            quarantined=quarantined,
            reasons=dict(self._reasons.most_common()),
            tenants=tuple(self._tenants),
        )


def _positions(tenant_ids: pd.Series) -> dict[str, list[int]]:
    positions: dict[str, list[int]] = {}
    for position, tenant in enumerate(tenant_ids.tolist()):
        positions.setdefault(tenant, []).append(position)
    return positions
