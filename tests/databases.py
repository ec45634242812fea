"""One database for all tests of a process: its rows are put back after each test, and it is copied again if needed."""

from __future__ import annotations

import io
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import sqlalchemy as sa

from ml_pipeline.resources import embedded, postgres

SCHEMAS = "('ml', 'source', 'mlflow')"
TABLES = f"SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN {SCHEMAS} ORDER BY 1"
SEQUENCES = f"""
    SELECT format('%I.%I', schemaname, sequencename), coalesce(last_value, start_value), last_value IS NOT NULL
    FROM pg_sequences WHERE schemaname IN {SCHEMAS} ORDER BY 1
"""
# A created, changed or dropped object changes the number of rows of a catalogue, or its newest transaction. Temporary
# schemas are left out, since they outlive their tables.
CATALOGUES = (
    *("attrdef", "attribute", "class", "constraint", "default_acl", "enum", "event_trigger", "extension", "index"),
    *("policy", "proc", "rewrite", "trigger", "type"),
)
DEFINITIONS = " UNION ALL ".join(
    [
        *(f"SELECT count(*), max(xmin::text::bigint) FROM pg_{name}" for name in CATALOGUES),
        "SELECT count(*), max(xmin::text::bigint) FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'",
        "SELECT count(*), max(pg_database.xmin::text::bigint) FROM pg_database WHERE datname = current_database()",
        "SELECT count(*), max(setting.xmin::text::bigint) FROM pg_db_role_setting AS setting "
        "JOIN pg_database AS own ON own.oid = setdatabase WHERE datname = current_database()",
    ]
)
# Pooled connections stay open for the next test. A transaction that a test left open would block it.
CONNECTIONS_KEPT = 12
LEAVE = f"""
    SELECT pg_terminate_backend(pid, 1000) FROM (
        SELECT pid, state, count(*) OVER () AS open FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
    ) AS others WHERE state <> 'idle' OR open > {CONNECTIONS_KEPT}
"""


@dataclass(frozen=True)
class Rows:
    """The rows of every table that has some, and the position of every sequence."""

    tables: dict[str, str]
    sequences: tuple[tuple[str, int, bool], ...]

    def moved(self, before: Path, after: Path) -> Rows:
        """The same rows for an installation whose folder is another one."""
        tables = {table: content.replace(str(before), str(after)) for table, content in self.tables.items()}
        return Rows(tables, self.sequences)


def copy_of(server: str, template: str) -> str:
    """The name of a new database with the content of the template."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    # Copying files takes less than PostgreSQL's default, which writes each page to its log as well.
    as_superuser(server, f"CREATE DATABASE {name} OWNER {embedded.OWNER} TEMPLATE {template} STRATEGY FILE_COPY")
    return name


def drop(server: str, name: str) -> None:
    postgres.close_engines(name)
    as_superuser(server, f"DROP DATABASE {name} WITH (FORCE)")


def as_superuser(server: str, statement: str) -> None:
    connecting = sa.create_engine(postgres.parse_url(server), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with connecting.connect() as connection:
        connection.execute(sa.text(statement))


class ReusedDatabase:
    """A migrated database whose rows are put back after each test, which takes a tenth of a new copy's time.

    A test may also change tables, functions, policies, rights or settings of the database. The next test then gets a
    new copy of the template.
    """

    def __init__(self, server: str, template: str) -> None:
        self._server, self._template = server, template
        self._name = ""
        self._connection: Any = None

    @property
    def name(self) -> str:
        """The name of the database; makes it if there is none."""
        if not self._name:
            self._name = copy_of(self._server, self._template)
            url = postgres.parse_url(self._server).set(drivername="postgresql", database=self._name)
            self._connection = psycopg2.connect(postgres.plain(url))
            self._tables = [table for (table,) in self._all(TABLES)]
            self._definitions = self._all(DEFINITIONS)
            self._empty = self.rows()
        return self._name

    def rows(self) -> Rows:
        """The present content, for :meth:`put_back`."""
        contents = {}
        with self._connection, self._connection.cursor() as cursor:
            for table in self._tables:
                cursor.copy_expert(f"COPY {table} TO STDOUT", content := io.StringIO())
                contents[table] = content.getvalue()
        return Rows({table: content for table, content in contents.items() if content}, tuple(self._all(SEQUENCES)))

    def put_back(self, rows: Rows | None = None) -> None:
        """Replace all rows by the given ones, or by those of a new database."""
        rows = rows or self._empty
        delete = ";".join(f"DELETE FROM {table}" for table in self._tables)
        numbers = ", ".join(f"setval('{name}', {value}, {used})" for name, value, used in rows.sequences)
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(LEAVE)
            # In this role, triggers and foreign keys are not checked.
            cursor.execute(f"SET LOCAL session_replication_role = replica; SET LOCAL lock_timeout = '5s'; {delete}")
            for table, content in rows.tables.items():
                cursor.copy_expert(f"COPY {table} FROM STDIN", io.StringIO(content))
            cursor.execute(f"SELECT {numbers}")

    def clean(self) -> None:
        """Prepare the database for the next test, or drop it if the test changed more than rows."""
        try:
            if self._all(DEFINITIONS) == self._definitions:
                self.put_back()
                return
        except psycopg2.Error:  # the test ended this connection, or removed a table
            pass
        self.drop()

    def drop(self) -> None:
        if self._name:
            self._connection.close()
            drop(self._server, self._name)
        self._name = ""

    def _all(self, query: str) -> list[tuple[Any, ...]]:
        with self._connection, self._connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()


class SavedInstallations:
    """States that several tests start from: made once, then copied into the installation of each of these tests."""

    def __init__(self, database: ReusedDatabase, folder: Path) -> None:
        self._database, self._folder = database, folder
        self._saved: dict[str, tuple[Rows, Path]] = {}

    def start_from(self, name: str, home: Path, make: Callable[[], object]) -> None:
        """Bring the empty installation at ``home`` into the state ``name``, which ``make`` makes the first time."""
        kept = self._folder / name
        if name not in self._saved:
            make()
            shutil.copytree(home, kept)
            self._saved[name] = self._database.rows(), home
            return
        rows, made_at = self._saved[name]
        shutil.copytree(kept, home, dirs_exist_ok=True)
        self._database.put_back(rows.moved(made_at, home))
