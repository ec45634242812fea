"""A real PostgreSQL for the whole session, and a migrated database of its own for each test that asks for one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import sqlalchemy as sa

from ml_pipeline.resources import postgres
from ml_pipeline.resources.registry import Registry
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real data is not on this machine")
    return SHARED_DATA


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """URL of the session's PostgreSQL server.

    Not in pytest's own folder: each pytest that starts closes that to everybody but its user, and PostgreSQL, when root
    runs the tests, is another. Nothing of these databases has to outlive a power cut, so nothing is flushed to disk.
    """
    folder = TemporaryDirectory(prefix="ml-pipeline-tests-", ignore_cleanup_errors=True)
    with folder as path, postgres.embedded_server(Path(path) / "data") as url:
        connecting = sa.create_engine(postgres.parse_url(url), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with connecting.connect() as connection:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.execute(sa.text(f"ALTER SYSTEM SET {setting} = off"))
            connection.execute(sa.text("SELECT pg_reload_conf()"))
        yield url


@pytest.fixture(scope="session")
def template_database(server: str) -> str:
    """Name of a migrated database that others are copied from: a copy takes a tenth of a migration's time."""
    name = "template_migrated"
    administration = postgres.parse_url(server)
    postgres.create_database(administration, name)
    migrated = Settings(database_url=postgres.plain(administration.set(database=name)))
    Warehouse(migrated).migrate()
    Registry(migrated).prepare()
    # A database can be copied only while nobody is connected to it, and MLflow keeps its connections.
    with sa.create_engine(administration, poolclass=sa.NullPool).connect() as connection:
        query = "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE datname = :name"
        connection.execute(sa.text(query), {"name": name})
    return name


@pytest.fixture
def settings(server: str, template_database: str, tmp_path: Path) -> Iterator[Settings]:
    """Settings of an installation of its own: empty migrated database, empty folders."""
    administration = postgres.parse_url(server)
    name = f"test_{uuid.uuid4().hex[:12]}"
    connecting = sa.create_engine(administration, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with connecting.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template_database}"))
    database_url = postgres.plain(administration.set(drivername="postgresql", database=name))
    yield Settings(database_url=database_url, home=tmp_path, workers=2)
    postgres.close_engines(name)
    with connecting.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def warehouse(settings: Settings) -> Warehouse:
    """The warehouse of the test's own installation."""
    return Warehouse(settings)


@pytest.fixture
def registry(settings: Settings) -> Registry:
    """The registry of the test's own installation."""
    return Registry(settings)
