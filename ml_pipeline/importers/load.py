"""Loading of frames into tables: COPY into a temporary table, then one upsert; repeating it changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import sqlalchemy as sa
from psycopg2 import sql
from sqlalchemy.dialects.postgresql import Insert, insert
from sqlalchemy.schema import CreateTable

from ml_pipeline.importers.reading import CHUNK_ROWS
from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse


def import_tables(
    warehouse: Warehouse, tenant_id: str, issues: pd.DataFrame | None, pull_requests: pd.DataFrame | None
) -> None:
    """Load frames whose columns are named like those of ``source.issues`` and ``source.pull_requests``.

    Existing rows are updated in the given columns; of several rows with the same key, the last one is stored. Times
    without zone are UTC, blank text is stored as NULL. One transaction covers 20,000 rows.

    Raises
    ------
    ValueError
        If a frame has a column that the table does not have, or lacks the key or ``created_at``.
    """
    warehouse.add_tenant(tenant_id)
    for table, frame in ((tables.issues, issues), (tables.pull_requests, pull_requests)):
        if frame is None:
            continue
        _check_columns(table, frame, tenant_id)
        rows = last_of_each_key(frame, _key(table))
        for start in range(0, len(rows), CHUNK_ROWS):
            chunk = CopyRows.of(table, rows.iloc[start : start + CHUNK_ROWS])
            with warehouse.tenant(tenant_id) as connection:
                upsert(connection, tenant_id, chunk)


@dataclass(frozen=True)
class CopyRows:
    """Rows for a table in the text format of COPY, one line each; ``take`` selects those of a tenant."""

    table: sa.Table
    names: tuple[str, ...]
    lines: list[str]

    @classmethod
    def of(cls, table: sa.Table, frame: pd.DataFrame) -> CopyRows:
        """Rows from the frame's columns that the table has, except the tenant, which the transaction sets."""
        columns = [column for column in table.columns if column.name in frame.columns and column.name != "tenant_id"]
        cells = [_cells(frame[column.name], column.type) for column in columns]
        # In COPY's text format, unlike its CSV format, no data line can be mistaken for the end of the data.
        lines = ["\t".join(row) + "\n" for row in zip(*cells, strict=True)]
        return cls(table, tuple(column.name for column in columns), lines)

    def take(self, positions: Iterable[int]) -> CopyRows:
        return CopyRows(self.table, self.names, [self.lines[position] for position in positions])


def upsert(connection: sa.Connection, tenant_id: str, rows: CopyRows) -> None:
    """Insert or update rows of one tenant, with distinct keys; other columns of the table do not change.

    Call it once per table and transaction, because the temporary table is dropped with the transaction.
    """
    statements = _statements(rows.table, rows.names)
    connection.execute(statements.create)
    cursor: Any = connection.connection.cursor()  # psycopg2's, which can COPY
    cursor.copy_expert(statements.copy, BytesIO("".join(rows.lines).encode()))
    cursor.close()
    connection.execute(statements.insert, {"incoming_tenant": tenant_id})


class _Statements(NamedTuple):
    create: CreateTable
    copy: sql.Composed
    insert: Insert


@lru_cache(maxsize=64)
def _statements(table: sa.Table, names: tuple[str, ...]) -> _Statements:
    staging = sa.Table(
        f"incoming_{table.name}",
        sa.MetaData(),
        *(sa.Column(name, table.c[name].type) for name in names),
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
    )
    copy = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(staging.name), sql.SQL(", ").join(sql.Identifier(name) for name in names)
    )
    rows = sa.select(sa.bindparam("incoming_tenant", type_=sa.Text), *staging.columns)
    upserting = insert(table).from_select(["tenant_id", *names], rows)
    key = [column.name for column in table.primary_key]
    replaced = {name: upserting.excluded[name] for name in names if name not in key}
    return _Statements(CreateTable(staging), copy, upserting.on_conflict_do_update(index_elements=key, set_=replaced))


def last_of_each_key(frame: pd.DataFrame, key: Sequence[str]) -> pd.DataFrame:
    """The frame without the rows whose key occurs again later."""
    return frame[~frame.duplicated(list(key), keep="last")]


def _cells(values: pd.Series, kind: sa.types.TypeEngine[Any]) -> Sequence[str]:
    if isinstance(kind, sa.TIMESTAMP):
        times = pd.to_datetime(values, utc=True).dt.tz_localize(None).to_numpy("datetime64[us]")
        return [f"{time}Z" if time != "NaT" else r"\N" for time in np.datetime_as_string(times).tolist()]
    if isinstance(kind, sa.Text):
        return [
            value.replace("\\", r"\\").replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")
            if isinstance(value, str) and value
            else r"\N"
            for value in values.tolist()
        ]
    numbers = pd.to_numeric(values).astype("float64").tolist()
    if isinstance(kind, sa.Integer):
        return [str(int(number)) for number in numbers]
    return [repr(number) if number == number else r"\N" for number in numbers]


def _key(table: sa.Table) -> list[str]:
    return [column.name for column in table.primary_key if column.name != "tenant_id"]


def _check_columns(table: sa.Table, frame: pd.DataFrame, tenant_id: str) -> None:
    where = f"tenant {tenant_id}: frame for {table.fullname}"
    unknown = [name for name in frame.columns if name not in table.columns]
    if unknown:
        known = ", ".join(table.columns.keys())
        raise ValueError(f"{where} has columns {unknown}, which the table does not have. It has {known}")
    missing = [name for name in (*_key(table), "created_at") if name not in frame.columns]
    if missing:
        raise ValueError(f"{where} lacks {missing}. Every row needs them")
    if "tenant_id" in frame.columns and not (frame["tenant_id"] == tenant_id).all():
        others = sorted(set(frame["tenant_id"]) - {tenant_id})
        raise ValueError(f"{where} contains rows of the tenants {others[:5]}. Load each tenant separately")
