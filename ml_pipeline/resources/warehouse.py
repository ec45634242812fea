"""The door to PostgreSQL: one transaction per tenant behind row-level security, and a read-only door for operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, NoSuchTableError

from ml_pipeline.features.typed_columns import UnfitValue, typed_rows
from ml_pipeline.resources import postgres, tables
from ml_pipeline.resources.source_types import unfit_columns
from ml_pipeline.settings import Settings, environment_value
from ml_pipeline.specs import ModelSpec

APP_ROLE = "ml_app"
OPERATOR_ROLE = "ml_operator"
MIGRATIONS = Path(__file__).parent.parent / "migrations"


class SourceUnreadable(Exception):
    """A model's source table cannot be read; the message names model, table and remedy."""


class Warehouse:
    """All SQL of the pipeline goes through this class.

    Each transaction runs as a role that row-level security binds, with the tenant set for that transaction alone: a
    forgotten filter finds no rows instead of somebody else's.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.database_url is None:
            raise postgres.DatabaseUnavailable(
                "DATABASE_URL is not set. `make up` and the `ml-pipeline` commands start an embedded PostgreSQL; "
                "for anything else export DATABASE_URL=postgresql://user:password@host:5432/name"
            )
        self.settings = settings
        self.url = postgres.parse_url(settings.database_url)

    def _url_as(self, role: str, **options: str) -> URL:
        timeout = f"{int(self.settings.statement_timeout * 1000)}"
        return postgres.url_with_options(self.url, role=role, timezone="UTC", statement_timeout=timeout, **options)

    @contextmanager
    def tenant(self, tenant_id: str) -> Iterator[sa.Connection]:
        """A transaction that sees and writes the rows of one tenant only; commits at the end, rolls back on error."""
        with self._begin(self._url_as(APP_ROLE)) as connection:
            connection.execute(sa.select(sa.func.set_config("app.tenant_id", tenant_id, True)))
            yield connection

    @contextmanager
    def alone(self, tenant_id: str, what: str) -> Iterator[None]:
        """One process at a time does ``what`` for a tenant; the others wait for it."""
        with self.tenant(tenant_id) as connection:
            lock = sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"ml_pipeline.{what}"), sa.func.hashtext(tenant_id))
            connection.execute(sa.select(lock))
            yield

    @contextmanager
    def operator(self) -> Iterator[sa.Connection]:
        """A read-only transaction that sees every tenant: for fleet status, never for a tenant's own work.

        One figure of those who agreed to share is the exception (``ml_pipeline.work.sharing``).
        """
        with self._begin(self._url_as(OPERATOR_ROLE, default_transaction_read_only="on")) as connection:
            yield connection

    @contextmanager
    def _begin(self, url: URL) -> Iterator[sa.Connection]:
        connection = postgres.connect(postgres.engine(url))
        with connection, connection.begin():
            yield connection

    def migrate(self) -> None:
        """Brings the schemas, roles, tables and policies up to date. Safe to call again."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["url"] = self.url
        command.upgrade(config, "head")

    def tenants(self) -> list[str]:
        """Every tenant, in the order in which they came."""
        table = tables.tenants
        with self.operator() as connection:
            query = sa.select(table.c.tenant_id).order_by(table.c.created_at, table.c.tenant_id)
            return list(connection.scalars(query))

    def add_tenant(self, tenant_id: str) -> None:
        """Makes the tenant known; nothing happens if it is."""
        with self.tenant(tenant_id) as connection:
            connection.execute(insert(tables.tenants).values(tenant_id=tenant_id).on_conflict_do_nothing())

    def read_source(self, spec: ModelSpec, tenant_id: str) -> pd.DataFrame:
        """The tenant's rows of a model's source, columns ``spec.source_columns``, in no particular order.

        Typed by :func:`~ml_pipeline.features.typed_columns.typed_rows`, from the values as the driver gave them.

        Raises
        ------
        SourceUnreadable
            If the table, a column or the server is missing, the statement runs into its timeout, or a column holds a
            value that is not of its declared type.
        """
        rows = self._source_rows(spec, tenant_id)
        values = zip(*rows, strict=True) if rows else [()] * len(spec.source_columns)
        try:
            return typed_rows(spec, dict(zip(spec.source_columns, values, strict=True)))
        except UnfitValue as error:
            raise SourceUnreadable(f"model {spec.name}, tenant {tenant_id}: {error}") from error

    def _source_rows(
        self, spec: ModelSpec, tenant_id: str, limit: int | None = None, missing: Sequence[str] = ()
    ) -> Sequence[sa.Row[Any]]:
        schema, name = spec.source.table.split(".")
        columns: list[sa.ColumnClause[Any]] = [
            sa.column(column) for column in spec.source_columns if column not in missing
        ]
        tenant: sa.ColumnClause[str] = sa.column(spec.source.tenant)
        query = sa.select(*columns).select_from(sa.table(name, schema=schema)).where(tenant == tenant_id)
        try:
            with self._source_connection(spec, tenant_id) as connection:
                result = connection.execute(query.limit(limit))
                problems = unfit_columns(connection, spec, result)
                rows = result.all()
        except DBAPIError as error:
            detail = str(error.orig).strip().splitlines()[0]
            whose = f"model {spec.name}, tenant {tenant_id}" if tenant_id else f"model {spec.name}"
            raise SourceUnreadable(
                f"{whose}: {spec.source.table} cannot be read: {detail}. "
                "Correct source.table and source.columns in the specification, or grant SELECT on it"
            ) from error
        problems = [f"{column} is missing. Correct source.columns or the table" for column in missing] + problems
        if problems:
            raise SourceUnreadable(f"model {spec.name}: {spec.source.table}: {'; '.join(problems)}")
        return rows

    def check_source(self, spec: ModelSpec) -> int:
        """Whether a model's table can be read and has its columns with fitting types; returns how many were checked.

        Raises
        ------
        SourceUnreadable
            If not; the message names every column that is missing or of another type.
        """
        schema, name = spec.source.table.split(".")
        try:
            with self._source_connection(spec, "") as connection:
                found = {column["name"] for column in sa.inspect(connection).get_columns(name, schema)}
        except NoSuchTableError as error:
            raise SourceUnreadable(
                f"model {spec.name}: there is no table or view {spec.source.table}. Correct source.table"
            ) from error
        if spec.source.tenant not in found:
            raise SourceUnreadable(
                f"model {spec.name}: {spec.source.table}: {spec.source.tenant} is missing, in which rows name their "
                "tenant. Correct source.tenant or the table"
            )
        # The catalogue shows a table's columns to those who may not read it, and not the base type of a domain.
        self._source_rows(spec, "", limit=0, missing=[name for name in spec.source_columns if name not in found])
        return len(spec.source_columns) + 1

    @contextmanager
    def _source_connection(self, spec: ModelSpec, tenant_id: str) -> Iterator[sa.Connection]:
        if spec.source.url is None:
            with self.tenant(tenant_id) as connection:
                yield connection
            return
        url = postgres.url_with_options(
            postgres.parse_url(source_url(spec)),
            timezone="UTC",
            default_transaction_read_only="on",
            statement_timeout=f"{int(self.settings.statement_timeout * 1000)}",
        )
        with self._begin(url) as connection:
            connection.execute(sa.select(sa.func.set_config("app.tenant_id", tenant_id, True)))
            yield connection

    def insert_missing(self, connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
        """Writes the rows whose key does not exist: what was said first stays."""
        if rows:
            connection.execute(insert(table).on_conflict_do_nothing(), rows)

    def upsert(self, connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
        """Writes rows; a row that exists under the same key is replaced, its server-side defaults kept fresh."""
        if not rows:
            return
        statement = insert(table)
        key = [column.name for column in table.primary_key]
        updated = {name: statement.excluded[name] for name in rows[0] if name not in key}
        refreshed = {"computed_at": sa.func.now()} if "computed_at" in table.c else {}
        connection.execute(statement.on_conflict_do_update(index_elements=key, set_=updated | refreshed), rows)


def source_url(spec: ModelSpec) -> str:
    """The URL of a model's own database, from the specification or from the variable that it names.

    Raises
    ------
    SourceUnreadable
        If the variable is not set.
    """
    url = spec.source.url or ""
    if not url.startswith("env:"):
        return url
    value = environment_value(url.removeprefix("env:"))
    if not value:
        raise SourceUnreadable(
            f"model {spec.name}: source.url names the variable {url.removeprefix('env:')}, which is not set. Export it"
        )
    return value
