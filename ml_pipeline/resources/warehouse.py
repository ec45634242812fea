"""Access to PostgreSQL: transactions of one tenant behind row-level security, and read-only ones over all tenants."""

from __future__ import annotations

import logging
import warnings
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


# Share of a tenant's time in a run that it may wait for a lock; the rest is left to report the error.
WAITING_SHARE = 0.9
LOCK_NOT_AVAILABLE = "55P03"
QUERY_CANCELED = "57014"
# The two numbers of a lock are signed as arguments and unsigned in pg_locks.
HOLDER = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2
    AND classid::bigint = (hashtext(:what)::bigint & 4294967295)
    AND objid::bigint = (hashtext(:tenant)::bigint & 4294967295) LIMIT 1
"""


class TenantBusy(UserError):
    """Another process has held a tenant's lock for too long; the message names tenant, work and remedy."""


class SourceUnreadable(UserError):
    """A model's source table cannot be read; the message names model, table and remedy."""


class SourceNotIsolated(SourceUnreadable):
    """A model's source could show a tenant the rows of others; the message names the gaps and the SQL to close them."""


# Sources that are isolated, by database and table: each process checks a source once, not once per tenant.
_isolated: set[tuple[URL, str]] = set()


class Warehouse:
    """The pipeline's database, with tenant isolation.

    Each transaction runs as a role to which row-level security applies, with the tenant set for this transaction only.
    A query without a filter therefore returns no rows of other tenants.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.database_url is None:
            raise postgres.DatabaseUnavailable(
                "DATABASE_URL is not set. Use an `ml-pipeline` command, which starts an embedded PostgreSQL, or export "
                "DATABASE_URL=postgresql://user:password@host:5432/name"
            )
        self.settings = settings
        self.url = postgres.parse_url(settings.database_url)

    def _url_as(self, role: str, **options: str) -> URL:
        timeout = f"{int(self.settings.statement_timeout * 1000)}"
        return postgres.url_with_options(self.url, role=role, timezone="UTC", statement_timeout=timeout, **options)

    @contextmanager
    def tenant(self, tenant_id: str) -> Iterator[sa.Connection]:
        """A transaction that reads and writes the rows of one tenant only; commits at the end, rolls back on error."""
        with self._begin(self._url_as(APP_ROLE)) as connection:
            connection.execute(sa.select(sa.func.set_config("app.tenant_id", tenant_id, True)))
            yield connection

    @contextmanager
    def advisory_lock(self, tenant_id: str, what: str) -> Iterator[None]:
        """Hold a tenant's lock for the work ``what``; another process that does the same work waits.

        Raises
        ------
        TenantBusy
            If the wait exceeds ``WAITING_SHARE`` of ``ML_PIPELINE_TENANT_TIMEOUT``.
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
                with self.tenant(tenant_id) as second:
                    pid = second.scalar(sa.text(HOLDER), {"what": f"ml_pipeline.{what}", "tenant": tenant_id})
                holder = "another process" if pid is None else f"the process behind PostgreSQL's session {pid}"
                raise TenantBusy(
                    f"tenant {tenant_id}: waited {seconds:.1f} s to {what}, which {holder} "
                    "still does. Look under Runs in Dagster: terminate the run if it hangs, otherwise raise "
                    "ML_PIPELINE_TENANT_TIMEOUT"
                ) from error
            _set_timeouts(connection, statement, lock)
            yield

    @contextmanager
    def operator(self) -> Iterator[sa.Connection]:
        """A read-only transaction over all tenants, for work that is not about a single tenant.

        The workers' login has no right to it.
        """
        with self._begin(self._url_as(OPERATOR_ROLE, default_transaction_read_only="on")) as connection:
            yield connection

    @contextmanager
    def _begin(self, url: URL) -> Iterator[sa.Connection]:
        connection = postgres.connect(postgres.engine(url))
        with connection, connection.begin():
            yield connection

    def migrate(self) -> None:
        """Run the migrations that are missing."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["url"] = self.url
        command.upgrade(config, "head")

    def tenants(self) -> list[str]:
        """All tenants, in the order in which they were added."""
        table = tables.tenants
        with self.operator() as connection:
            query = sa.select(table.c.tenant_id).order_by(table.c.created_at, table.c.tenant_id)
            return list(connection.scalars(query))

    def add_tenant(self, tenant_id: str) -> None:
        """Add the tenant unless it exists. Raises as :meth:`make_known`."""
        with self.tenant(tenant_id) as connection:
            self.make_known(connection, tenant_id)

    def make_known(self, connection: sa.Connection, tenant_id: str) -> None:
        """Add the tenant to ``source.tenants`` unless it exists, in the caller's transaction.

        Raises
        ------
        BadIdentifier
            If the id is not allowed, or differs from the id of another tenant only in upper and lower case.
        """
        check_tenant_id(tenant_id)
        added = insert(tables.tenants).values(tenant_id=tenant_id)
        try:
            # The conflict on the key is ignored. An id that differs only in case violates another index: an error.
            connection.execute(added.on_conflict_do_nothing(index_elements=[tables.tenants.c.tenant_id]))
        except IntegrityError as error:
            twin = case_conflict(tenant_id, self.tenants())
            raise BadIdentifier(
                f"tenant id {tenant_id!r} differs only in upper and lower case from tenant {twin!r}, and file systems "
                f"that ignore case would mix their files. Use {twin!r}, or choose another id"
            ) from error

    def read_source(self, spec: ModelSpec, tenant_id: str) -> pd.DataFrame:
        """The tenant's rows of a model's source, with the columns ``spec.source_columns``, in no particular order.

        The values have the types of :func:`~ml_pipeline.features.typed_columns.typed_rows`. A time that Python cannot
        represent (infinity, before the year 1 or after 9999) becomes unknown; the log gives the number of such rows.

        Raises
        ------
        SourceUnreadable
            If the table, a column or the server is missing, the statement exceeds its timeout, or a column contains a
            value that is not of its declared type.
        SourceNotIsolated
            If the database could show the tenant rows of others, and the source is not ``isolation: filter``.
        """
        from ml_pipeline.features.typed_columns import TypeMismatch, typed_rows

        found = self._source_rows(spec, tenant_id)
        *values, unreadable = zip(*found, strict=True) if found else [()] * (len(spec.source_columns) + 1)
        if count := sum(times > 0 for times in unreadable):
            _logger.warning(
                "tenant %s, model %s: %d of %d rows of %s have a time outside the years 1 to 9999, which is read as "
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
        # Without rows, times need no check, and the message about a wrong type comes from below, not from PostgreSQL.
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
                    f"{whose}: reading {spec.source.table} took longer than {self.settings.statement_timeout:g} s. "
                    f"Create an index on its column {spec.source.tenant}, or raise ML_PIPELINE_STATEMENT_TIMEOUT"
                ) from error
            if limit != 0 and isinstance(error, DataError | ProgrammingError):
                self._source_rows(spec, tenant_id, limit=0)  # raises an error that names the columns of a wrong type
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
        """Refuse a source in the pipeline's database that row-level security does not isolate.

        The catalogue is checked first, then the effect: without a tenant, and as an impossible one, no row is visible.
        """
        table = spec.source.table
        if spec.source.url is not None or spec.source.isolation == "filter" or (self.url, table) in _isolated:
            return
        schema, name = table.split(".")
        with self.tenant(source_isolation.NOBODY) as connection:
            found = source_isolation.gaps(connection, schema, name, spec.source.tenant, APP_ROLE)
        if found is None:
            return  # the error comes from reading it
        if not found and any(self._shows_rows(schema, name, nobody) for nobody in ("", source_isolation.NOBODY)):
            lets_through = "has policies that show rows without a tenant, or rows of other tenants: correct them"
            found = [source_isolation.Gap(table, lets_through, ())]
        if found:
            raise SourceNotIsolated(
                f"model {spec.name}: row-level security does not isolate the tenants in {table}, and the specification "
                f"does not set isolation: filter (only the pipeline's filter by {spec.source.tenant} isolates them): "
                f"{source_isolation.explained(found)}"
            )
        _isolated.add((self.url, table))

    def _shows_rows(self, schema: str, name: str, tenant_id: str) -> bool:
        try:
            with self.tenant(tenant_id) as connection:
                return source_isolation.shows_rows(connection, schema, name)
        except DataError:  # a policy on a numeric column cannot compare it with this text
            return False

    def source_tenants(self, spec: ModelSpec) -> list[str] | None:
        """The tenants with rows in a model's source; None if policies or rights hide them.

        For ``ml-pipeline doctor``: the pipeline itself trains for the tenants in ``source.tenants`` only.
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
        """Check that a model's table can be read and has its columns with fitting types; return how many were checked.

        Raises
        ------
        SourceUnreadable
            If a check fails; the message names every column that is missing or has a wrong type.
        SourceNotIsolated
            As :meth:`read_source`.
        """
        schema, name = spec.source.table.split(".")
        try:
            with self._source_connection(spec, "") as connection, warnings.catch_warnings():
                # Only the names are used, and of types that SQLAlchemy does not know it warns.
                warnings.filterwarnings("ignore", "Did not recognize type", sa.exc.SAWarning)
                found = {column["name"] for column in sa.inspect(connection).get_columns(name, schema)}
        except NoSuchTableError as error:
            raise SourceUnreadable(
                f"model {spec.name}: there is no table or view {spec.source.table}. Correct source.table"
            ) from error
        if spec.source.tenant not in found:
            raise SourceUnreadable(
                f"model {spec.name}: {spec.source.table}: the tenant's column {spec.source.tenant} is missing. Correct "
                "source.tenant or the table"
            )
        _isolated.discard((self.url, spec.source.table))
        # A query as well: the catalogue also lists columns of tables that cannot be read, and no base types of domains.
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
        """Insert rows; a row whose key exists is ignored."""
        if rows:
            connection.execute(insert(table).on_conflict_do_nothing(), rows)

    def upsert(self, connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows; a row whose key exists is replaced, and its ``computed_at`` and ``sequence`` are renewed."""
        if not rows:
            return
        statement = insert(table)
        key = [column.name for column in table.primary_key]
        updated = {name: statement.excluded[name] for name in rows[0] if name not in key}
        refreshed: dict[str, Any] = {"computed_at": sa.func.now()} if "computed_at" in table.c else {}
        if "sequence" in table.c:  # a replaced row becomes the newest
            refreshed["sequence"] = statement.excluded["sequence"]
        connection.execute(statement.on_conflict_do_update(index_elements=key, set_=updated | refreshed), rows)


def _set_timeouts(connection: sa.Connection, statement: str, lock: str) -> None:
    """Set both timeouts for the rest of the transaction."""
    values = {"statement_timeout": statement, "lock_timeout": lock}
    connection.execute(sa.select(*(sa.func.set_config(name, value, True) for name, value in values.items())))


def source_url(spec: ModelSpec) -> str:
    """The URL of a model's own database: ``source.url``, or the value of the variable that it names.

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
    """A source's columns, with NULL for times that Python cannot represent, and last the number of these per row."""
    declared = {name for name, column in spec.source.columns.items() if column.type == "time"}
    times = declared | {spec.source.event_time}
    unreadable: sa.ColumnElement[int] = sa.literal_column("0")
    columns: list[sa.ColumnElement[Any]] = []
    for name in spec.source_columns:
        column: sa.ColumnClause[Any] = sa.column(name)
        if name in times:
            # Literals without a type get that of the column: a date, or a time with or without zone.
            readable = column.between(sa.literal_column("'0001-01-02'"), sa.literal_column("'9999-12-30'"))
            columns.append(sa.case((readable, column)).label(name))
            unreadable = unreadable + sa.case((~readable, sa.literal_column("1")), else_=sa.literal_column("0"))
        else:
            columns.append(column)
    return [*columns, unreadable.label("__unreadable_times")]
