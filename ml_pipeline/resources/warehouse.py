"""The door to PostgreSQL: one transaction per tenant behind row-level security, and a read-only door for operators."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NoSuchTableError, OperationalError, ProgrammingError

from ml_pipeline.errors import UserError
from ml_pipeline.identifiers import BadIdentifier, case_conflict, check_tenant_id
from ml_pipeline.resources import postgres, source_isolation, tables
from ml_pipeline.resources.source_types import unfit_columns
from ml_pipeline.settings import Settings, environment_value
from ml_pipeline.specs import ModelSpec

if TYPE_CHECKING:
    import pandas as pd

APP_ROLE = "ml_app"
OPERATOR_ROLE = "ml_operator"
_logger = logging.getLogger(__name__)
MIGRATIONS = Path(__file__).parent.parent / "migrations"


# Of the time that a tenant may take in a run: the rest is for saying so before its process is ended.
WAITING_SHARE = 0.9
LOCK_NOT_AVAILABLE = "55P03"
QUERY_CANCELED = "57014"
# The two numbers of a lock are signed where they are given, and unsigned where they are shown.
HOLDER = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2
    AND classid::bigint = (hashtext(:what)::bigint & 4294967295)
    AND objid::bigint = (hashtext(:tenant)::bigint & 4294967295) LIMIT 1
"""


class TenantBusy(UserError):
    """Another process has done the same for a tenant for too long; the message names tenant, work and remedy."""


class SourceUnreadable(UserError):
    """A model's source table cannot be read; the message names model, table and remedy."""


class SourceNotIsolated(SourceUnreadable):
    """A model's source would show a tenant the rows of others; the message says where, and the SQL that mends it."""


# Sources that were found isolated, by database and table: asked once in a process, not once a tenant.
_isolated: set[tuple[URL, str]] = set()


class Warehouse:
    """All SQL of the pipeline goes through this class.

    Each transaction runs as a role that row-level security binds, with the tenant set for that transaction alone: a
    forgotten filter finds no rows instead of somebody else's.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.database_url is None:
            raise postgres.DatabaseUnavailable(
                "DATABASE_URL is not set. The `ml-pipeline` commands start an embedded PostgreSQL; "
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
    def advisory_lock(self, tenant_id: str, what: str) -> Iterator[None]:
        """One process at a time does ``what`` for a tenant; the others wait for it.

        Raises
        ------
        TenantBusy
            If it takes nearly as long as a tenant may take in a run (``ML_PIPELINE_TENANT_TIMEOUT``).
        """
        seconds = WAITING_SHARE * self.settings.tenant_timeout
        key = sa.func.hashtext(f"ml_pipeline.{what}"), sa.func.hashtext(tenant_id)
        timeouts = [sa.func.current_setting(name) for name in ("statement_timeout", "lock_timeout")]
        with self.tenant(tenant_id) as connection:
            statement, lock = connection.execute(sa.select(*timeouts)).one()
            _set_timeouts(connection, "0", f"{max(1, int(1000 * seconds))}")
            try:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(*key)))
            except OperationalError as error:
                if getattr(error.orig, "pgcode", None) != LOCK_NOT_AVAILABLE:
                    raise
                raise TenantBusy(
                    f"tenant {tenant_id}: waited {seconds:.1f} s to {what}, which {self._holder(what, tenant_id)} "
                    "still does. See under Runs in Dagster whether it goes on; end what hangs, or raise "
                    "ML_PIPELINE_TENANT_TIMEOUT"
                ) from error
            _set_timeouts(connection, statement, lock)
            yield

    def _holder(self, what: str, tenant_id: str) -> str:
        """Who holds the lock of ``alone``, as the database knows it."""
        with self.tenant(tenant_id) as connection:
            pid = connection.scalar(sa.text(HOLDER), {"what": f"ml_pipeline.{what}", "tenant": tenant_id})
        return "another process" if pid is None else f"the process behind PostgreSQL's session {pid}"

    @contextmanager
    def operator(self) -> Iterator[sa.Connection]:
        """A read-only transaction that sees every tenant: for fleet status, never for a tenant's own work.

        The login of the workers may not.
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
        """Makes the tenant known; nothing happens if it is. Raises as :meth:`make_known`."""
        with self.tenant(tenant_id) as connection:
            self.make_known(connection, tenant_id)

    def make_known(self, connection: sa.Connection, tenant_id: str) -> None:
        """Writes the tenant into ``source.tenants`` unless it is there, in a transaction of the caller's.

        Raises
        ------
        BadIdentifier
            If the text can be no tenant's id, or differs only in case from the id of another tenant.
        """
        check_tenant_id(tenant_id)
        added = insert(tables.tenants).values(tenant_id=tenant_id)
        try:
            # Only the tenant itself may be there already: a twin by case is an error, not a row to be skipped.
            connection.execute(added.on_conflict_do_nothing(index_elements=[tables.tenants.c.tenant_id]))
        except IntegrityError as error:
            twin = case_conflict(tenant_id, self.tenants())
            raise BadIdentifier(
                f"tenant id {tenant_id!r} differs only in upper and lower case from tenant {twin!r}, and file systems "
                f"that know no case would mix their files. Use {twin!r}, or give another id"
            ) from error

    def read_source(self, spec: ModelSpec, tenant_id: str) -> pd.DataFrame:
        """The tenant's rows of a model's source, columns ``spec.source_columns``, in no particular order.

        Typed by :func:`~ml_pipeline.features.typed_columns.typed_rows`, from the values as the driver gave them. A time
        that PostgreSQL can store and Python cannot represent (infinity, before the year 1 or after 9999) is unknown;
        the log says of how many rows that holds.

        Raises
        ------
        SourceUnreadable
            If the table, a column or the server is missing, the statement runs into its timeout, or a column holds a
            value that is not of its declared type.
        SourceNotIsolated
            If the database would show the tenant rows of others, and the specification does not put up with that.
        """
        from ml_pipeline.features.typed_columns import TypeMismatch, typed_rows

        found = self._source_rows(spec, tenant_id)
        *values, unreadable = zip(*found, strict=True) if found else [()] * (len(spec.source_columns) + 1)
        if count := sum(times > 0 for times in unreadable):
            _logger.warning(
                "tenant %s, model %s: %d of %d rows of %s have a time outside of the years 1 to 9999, which counts as "
                "unknown. Correct it in the source",
                *(tenant_id, spec.name, count, len(found), spec.source.table),
            )
        try:
            return typed_rows(spec, dict(zip(spec.source_columns, values, strict=True)))
        except TypeMismatch as error:
            raise SourceUnreadable(f"model {spec.name}, tenant {tenant_id}: {error}") from error

    def _source_rows(
        self, spec: ModelSpec, tenant_id: str, limit: int | None = None, missing: Sequence[str] = ()
    ) -> Sequence[sa.Row[Any]]:
        schema, name = spec.source.table.split(".")
        tenant: sa.ColumnClause[str] = sa.column(spec.source.tenant)
        columns: list[sa.ColumnElement[Any]] = [
            sa.column(column) for column in spec.source_columns if column not in missing
        ]
        # Without rows there is no time to guard, and a column of another type is named below and not by PostgreSQL.
        chosen: sa.Select[Any] = sa.select(*(columns if limit == 0 else _with_readable_times(spec)))
        query = chosen.select_from(sa.table(name, schema=schema)).where(tenant == tenant_id)
        try:
            self._check_isolation(spec)
            with self._source_connection(spec, tenant_id) as connection:
                result = connection.execute(query.limit(limit))
                problems = unfit_columns(connection, spec, result)
                rows = list(result)
        except DBAPIError as error:
            whose = f"model {spec.name}, tenant {tenant_id}" if tenant_id else f"model {spec.name}"
            if getattr(error.orig, "pgcode", None) == QUERY_CANCELED:
                raise SourceUnreadable(
                    f"{whose}: {spec.source.table} was not read within {self.settings.statement_timeout:g} s. Index "
                    f"its column {spec.source.tenant}, or raise ML_PIPELINE_STATEMENT_TIMEOUT"
                ) from error
            if limit != 0 and isinstance(error, DataError | ProgrammingError):
                self._source_rows(spec, tenant_id, limit=0)  # names the columns of another type, if these are to blame
            detail = str(error.orig).strip().splitlines()[0]
            raise SourceUnreadable(
                f"{whose}: {spec.source.table} cannot be read: {detail}. "
                "Correct source.table and source.columns in the specification, or grant SELECT on it"
            ) from error
        problems = [f"{column} is missing. Correct source.columns or the table" for column in missing] + problems
        if problems:
            raise SourceUnreadable(f"model {spec.name}: {spec.source.table}: {'; '.join(problems)}")
        return rows

    def _check_isolation(self, spec: ModelSpec) -> None:
        """Refuses a source in the pipeline's own database in which row-level security does not keep tenants apart.

        First by the catalogue, then by trying: neither without a tenant nor as a tenant that cannot be is there a row.
        """
        table = spec.source.table
        if spec.source.url is not None or spec.source.isolation == "filter" or (self.url, table) in _isolated:
            return
        schema, name = table.split(".")
        with self.tenant(source_isolation.NOBODY) as connection:
            found = source_isolation.gaps(connection, schema, name, spec.source.tenant, APP_ROLE)
        if found is None:
            return  # reading it says that it is missing
        if not found and any(self._shows_rows(schema, name, nobody) for nobody in ("", source_isolation.NOBODY)):
            lets_through = "has policies that show rows to no tenant, or to a tenant that is not theirs: correct them"
            found = [source_isolation.Gap(table, lets_through, ())]
        if found:
            raise SourceNotIsolated(
                f"model {spec.name}: row-level security does not keep tenants apart in {table}, and source does not "
                f"say isolation: filter (the pipeline filters by {spec.source.tenant}, nothing else enforces it): "
                f"{source_isolation.explained(found)}"
            )
        _isolated.add((self.url, table))

    def _shows_rows(self, schema: str, name: str, tenant_id: str) -> bool:
        try:
            with self.tenant(tenant_id) as connection:
                return source_isolation.shows_rows(connection, schema, name)
        except DataError:  # a policy on a column of numbers cannot even compare with what is no tenant
            return False

    def source_tenants(self, spec: ModelSpec) -> list[str] | None:
        """The tenants that a model's source has rows of; None where its policies or rights do not let that be asked.

        For ``ml-pipeline doctor``: the pipeline itself takes the tenants of ``source.tenants`` and no other.
        """
        schema, name = spec.source.table.split(".")
        column: sa.ColumnClause[Any] = sa.column(spec.source.tenant)
        query = sa.select(column).distinct().select_from(sa.table(name, schema=schema)).where(column.is_not(None))
        own = spec.source.url is None and spec.source.isolation != "filter"
        try:
            with self.operator() if own else self._source_connection(spec, "") as connection:
                return sorted(str(tenant) for tenant in connection.scalars(query))
        except DBAPIError:
            return None

    def check_source(self, spec: ModelSpec) -> int:
        """Whether a model's table can be read and has its columns with fitting types; returns how many were checked.

        Raises
        ------
        SourceUnreadable
            If not; the message names every column that is missing or of another type.
        SourceNotIsolated
            As :meth:`read_source`.
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
        _isolated.discard((self.url, spec.source.table))
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
        refreshed: dict[str, Any] = {"computed_at": sa.func.now()} if "computed_at" in table.c else {}
        if "sequence" in table.c:  # written anew, it is the newest
            refreshed["sequence"] = statement.excluded["sequence"]
        connection.execute(statement.on_conflict_do_update(index_elements=key, set_=updated | refreshed), rows)


def _set_timeouts(connection: sa.Connection, statement: str, lock: str) -> None:
    """For the rest of the transaction, or until they are set again."""
    values = {"statement_timeout": statement, "lock_timeout": lock}
    connection.execute(sa.select(*(sa.func.set_config(name, value, True) for name, value in values.items())))


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


def _with_readable_times(spec: ModelSpec) -> list[sa.ColumnElement[Any]]:
    """A source's columns, times NULL where Python cannot represent them; last, how many of a row's times those are."""
    declared = {name for name, column in spec.source.columns.items() if column.type == "time"}
    times = declared | {spec.source.event_time}
    unreadable: sa.ColumnElement[int] = sa.literal_column("0")
    columns: list[sa.ColumnElement[Any]] = []
    for name in spec.source_columns:
        column: sa.ColumnClause[Any] = sa.column(name)
        if name in times:
            # Literals without a type take that of the column, be it a date or a time with zone or without.
            readable = column.between(sa.literal_column("'0001-01-02'"), sa.literal_column("'9999-12-30'"))
            columns.append(sa.case((readable, column)).label(name))
            unreadable = unreadable + sa.case((~readable, sa.literal_column("1")), else_=sa.literal_column("0"))
        else:
            columns.append(column)
    return [*columns, unreadable.label("__unreadable_times")]
