"""Connections to PostgreSQL, embedded or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from ml_pipeline.errors import UserError

DATABASE = "ml_pipeline"


class DatabaseUnavailable(UserError):
    """PostgreSQL cannot be reached; the message names server and remedy, never the password."""


def parse_url(url: str) -> URL:
    """The URL with the driver psycopg2, which Dagster's storage needs.

    Raises
    ------
    DatabaseUnavailable
        If it is not a PostgreSQL URL.

    >>> parse_url("postgres://ann:x@db/shop").drivername
    'postgresql+psycopg2'
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise DatabaseUnavailable(
            "The database URL cannot be parsed. Write postgresql://user:password@host:5432/name"
        ) from error
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise DatabaseUnavailable(
            f"The database URL names {parsed.get_backend_name()!r}; only PostgreSQL is supported. "
            "Write postgresql://user:password@host:5432/name"
        )
    return parsed.set(drivername="postgresql+psycopg2")


def url_with_options(url: URL, **options: str) -> URL:
    """The URL with server settings (``role``, ``search_path``, ...) for every connection."""
    given = url.query.get("options", "")
    added = " ".join(f"-c {name}={value}" for name, value in options.items())
    return url.update_query_dict({"options": f"{given} {added}".strip()})


def plain(url: URL) -> str:
    """The URL as text, with its password."""
    return url.render_as_string(hide_password=False)


_engines: dict[URL, sa.Engine] = {}

# Resets all state that one use of a connection could leave to the next: settings such as the tenant, the role, cursors,
# temporary tables, notifications and locks. Settings and role return to those of the connection's URL.
FORGET = "RESET ALL; RESET ROLE; CLOSE ALL; DISCARD TEMP; UNLISTEN *; SELECT pg_advisory_unlock_all()"


def engine(url: URL) -> sa.Engine:
    """The engine of a URL, one per process; a connection loses its session state when it returns to the pool.

    The pool keeps two connections: one can hold a lock while the other is used.
    """
    if url not in _engines:
        made = sa.create_engine(
            url, pool_size=2, max_overflow=8, pool_pre_ping=True, pool_recycle=1800, pool_reset_on_return=None
        )
        sa.event.listen(made, "reset", _forget)
        _engines[url] = made
    return _engines[url]


def _forget(connection: Any, _record: object, state: sa.pool.PoolResetState) -> None:
    if state.terminate_only:
        return
    connection.rollback()
    connection.autocommit = True  # saves the round trip that ends a transaction
    try:
        with connection.cursor() as cursor:
            cursor.execute(FORGET)
    finally:
        connection.autocommit = False


FULL = ("too many clients", "remaining connection slots", "too many connections")


@sa.event.listens_for(sa.Engine, "handle_error")
def _explain_full_server(context: ExceptionContext) -> None:
    """Replaces the error of a full server by one with a remedy, for Dagster's and MLflow's connections too."""
    said = str(context.original_exception)
    if any(words in said for words in FULL):
        raise DatabaseUnavailable(
            f"PostgreSQL accepts no more connections: {said.strip().splitlines()[-1].strip()}. Lower "
            "ML_PIPELINE_WORKERS, or raise max_connections of the server"
        ) from context.original_exception


def connect(engine: sa.Engine) -> sa.Connection:
    """A connection of the engine.

    Raises
    ------
    DatabaseUnavailable
        If the server refuses the connection; the message names the server and the reason.
    """
    try:
        return engine.connect()
    except OperationalError as error:
        where = f"{engine.url.host or engine.url.query.get('host', 'localhost')}/{engine.url.database}"
        detail = str(error.orig).strip().splitlines()[0]
        raise DatabaseUnavailable(
            f"PostgreSQL at {where} refuses the connection: {detail}. Check that it runs and that DATABASE_URL is "
            "right; `ml-pipeline doctor` prepares a new database"
        ) from error


def close_engines(database: str) -> None:
    """Close every pooled connection of this process to one database."""
    for url in [url for url in _engines if url.database == database]:
        _engines.pop(url).dispose()


def create_database(administration: URL, name: str) -> None:
    """Create the database unless it exists."""
    connecting = sa.create_engine(administration, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with connecting.connect() as connection:
        exists = connection.scalar(sa.text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name})
        if not exists:
            quoted = connection.dialect.identifier_preparer.quote_identifier(name)
            connection.execute(sa.text(f"CREATE DATABASE {quoted}"))


@contextmanager
def exclusive(url: URL, what: str) -> Iterator[sa.Connection]:
    """Hold the lock ``what`` of this database; yields a connection that commits each statement."""
    connecting = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with connect(connecting) as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(hashtext(:what))"), {"what": f"ml_pipeline.{what}"})
        yield connection  # the lock ends with the connection
