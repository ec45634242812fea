"""As whom the workers connect, what a connection forgets, and how many connections there are."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from ml_pipeline.resources import connections, embedded, postgres, tables
from ml_pipeline.resources.compute import Compute
from ml_pipeline.resources.connections import (
    PER_WORKER,
    RESERVE,
    RUNS,
    bounded_workers,
    embedded_connections,
    excessive_rights,
    grant_worker_login,
)
from ml_pipeline.resources.embedded import EmbeddedServer, embedded_server
from ml_pipeline.resources.postgres import DatabaseUnavailable
from ml_pipeline.resources.registry import Registration, tracking_url
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.work.context import Clients

SEEN = sa.select(tables.tenants.c.tenant_id)


@pytest.fixture
def worker(settings: Settings) -> Settings:
    """What a worker process is given."""
    warehouse = Warehouse(settings)
    for tenant in ("acme", "globex"):
        warehouse.add_tenant(tenant)
    return settings.for_workers()


FORBIDDEN = [
    "SET ROLE ml_operator",
    "SET ROLE ml_owner",
    "SET ROLE pipeline",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION postgres",
    "CREATE ROLE friend",
    "CREATE DATABASE theirs",
    "CREATE SCHEMA theirs",
    "SELECT pg_read_file('/etc/passwd')",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY source.tenants FROM '/etc/passwd'",
    "ALTER TABLE source.tenants DISABLE ROW LEVEL SECURITY",
    "GRANT ml_operator TO pipeline_worker",
    "ALTER ROLE pipeline_worker SUPERUSER",
    "DROP TABLE mlflow.runs",
    "SELECT rolpassword FROM pg_authid",
]


def test_a_worker_can_become_nobody_else_and_reach_nothing_of_the_machine(worker: Settings):
    as_tenant, as_itself = Warehouse(worker)._url_as("ml_app"), postgres.parse_url(worker.database_url or "")
    for url in (as_tenant, as_itself):
        with postgres.engine(url).connect() as connection:
            for statement in FORBIDDEN:
                with pytest.raises(DBAPIError):
                    connection.execute(sa.text(statement))
                    pytest.fail(f"it may {statement}")
                connection.rollback()


def test_a_worker_that_leaves_the_tenants_role_reads_no_tenant(worker: Settings):
    with postgres.engine(Warehouse(worker)._url_as("ml_app")).connect() as connection:
        connection.execute(sa.text("RESET ROLE"))
        assert connection.scalars(SEEN).all() == []
        for leaving in ("SET ROLE NONE", "SET ROLE pipeline_worker"):
            connection.execute(sa.text(leaving))
            with pytest.raises(DBAPIError, match="permission denied for schema source"):
                connection.execute(SEEN)
            connection.rollback()


def test_the_operators_view_is_closed_to_a_worker(worker: Settings):
    with pytest.raises(DatabaseUnavailable, match='permission denied to set role "ml_operator"'):
        Warehouse(worker).tenants()


@pytest.fixture
def lone_engine(worker: Settings) -> Iterator[sa.Engine]:
    """An engine with a single connection: each use gets what the one before it left."""
    url = postgres.url_with_options(Warehouse(worker)._url_as("ml_app"), application_name=uuid.uuid4().hex)
    engine = postgres.engine(url)
    yield engine
    engine.dispose()


LEAVING = [
    "SET SESSION app.tenant_id = 'acme'",
    "SELECT set_config('app.tenant_id', 'acme', false)",
    "SET SESSION search_path = source",
    "SET ROLE NONE",
    "SET statement_timeout = 0",
    "SET timezone = 'Europe/Prague'",
    "CREATE TEMP TABLE tenants AS SELECT 1 AS tenant_id",
    "LISTEN anything",
    "SELECT pg_advisory_lock(42)",
    "DECLARE left_open CURSOR WITH HOLD FOR SELECT 1",
]
LEFT = """
    SELECT current_user, current_setting('app.tenant_id', true), current_setting('search_path'),
           current_setting('statement_timeout'), current_setting('timezone'), to_regclass('pg_temp.tenants'),
           (SELECT count(*) FROM pg_cursors WHERE name = 'left_open'), (SELECT count(*) FROM pg_listening_channels()),
           (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'), pg_backend_pid()
"""


@pytest.mark.parametrize("ending", ["commit", "error"])
def test_a_connection_forgets_what_was_done_with_it(lone_engine: sa.Engine, ending: str):
    with lone_engine.connect() as connection:
        before = connection.execute(sa.text(LEFT)).one()
    for statement in LEAVING:
        with lone_engine.connect() as connection:
            connection.execute(sa.text(statement))
            connection.commit()
            if ending == "error":
                with pytest.raises(DBAPIError):
                    connection.execute(sa.text("SELECT 1 / 0"))
        with lone_engine.connect() as connection:
            after = connection.execute(sa.text(LEFT)).one()
            assert after[-1] == before[-1]  # it is the same connection
            assert [value or "" for value in after[:-1]] == [value or "" for value in before[:-1]], statement
            assert connection.scalars(SEEN).all() == []


def use_everything(task: tuple[Settings, str, str]) -> int:
    """What a task of a worker opens: a lock with work under it, and both of MLflow's stores."""
    settings, tenant, folder = task
    clients = Clients(settings)
    with clients.warehouse.advisory_lock(tenant, "train any"), clients.warehouse.tenant(tenant) as connection:
        connection.execute(SEEN)
    made = Path(folder) / tenant
    made.mkdir()
    (made / "model.txt").write_text(tenant)
    given = {"key": "a", "semantic": "1.0.0", "as_of": "2026-01-01", "metrics": {}, "params": {}, "tags": {}}
    return clients.registry.register(tenant, "any", made, Registration(**given)).number


def test_a_worker_process_has_no_more_connections_than_it_is_counted_for(
    worker: Settings, superuser: sa.Engine, tmp_path: Path
):
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'pipeline_worker'"
    with superuser.connect() as connection:
        own = connection.scalar(sa.text(count))  # of this process
    tasks = [(name, (worker, name, str(tmp_path))) for name in (f"t{number}" for number in range(8))]
    results = list(Compute(2, 120).map(use_everything, tasks))
    assert [result.error for result in results] == [None] * 8
    with superuser.connect() as connection:
        assert 2 <= connection.scalar(sa.text(count)) - own <= 2 * PER_WORKER


@pytest.fixture
def small_server(open_folder: Path) -> Iterator[EmbeddedServer]:
    """A server with room for 45 connections."""
    with embedded_server(open_folder / "home" / "postgres", 45) as server:
        yield server
        postgres.close_engines(postgres.DATABASE)


def test_a_machine_of_64_cores_gets_as_many_workers_as_the_server_has_connections_for(
    small_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
):
    settings = Settings(
        database_url=small_server.url(), worker_database_url=small_server.url(embedded.WORKER), workers=64
    )
    assert bounded_workers(settings) == (45 - 3 - RESERVE) // (PER_WORKER * RUNS) == 1
    assert (
        "ML_PIPELINE_WORKERS=64 is reduced to 1: max_connections is 45, and each worker of 2 concurrent runs"
        in caplog.text
    )
    assert embedded_connections(settings) >= 3 + RESERVE + PER_WORKER * RUNS * 64

    url = postgres.parse_url(settings.database_url or "")
    opened = []
    full = r"accepts no more connections: .* Lower ML_PIPELINE_WORKERS, or raise max_connections"
    with pytest.raises(DatabaseUnavailable, match=full):
        for _ in range(46):
            opened.append(sa.create_engine(url, poolclass=sa.NullPool).connect())
    with pytest.raises(DatabaseUnavailable, match=full):
        Warehouse(settings).tenants()
    for connection in opened:
        connection.close()


def test_what_a_role_or_a_database_allows_counts_too(settings: Settings, superuser: sa.Engine, caplog):
    many = settings.model_copy(update={"workers": 64})
    database = superuser.url.database
    with superuser.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"ALTER DATABASE {database} CONNECTION LIMIT {RESERVE + 3 * PER_WORKER * RUNS}"))
    assert bounded_workers(many) == 3
    needed = RESERVE + 64 * PER_WORKER * RUNS
    assert "is reduced to 3: the CONNECTION LIMIT of the database is" in caplog.text
    assert f"raise the limit to {needed}" in caplog.text
    assert bounded_workers(settings) == settings.workers == 2


def test_excessive_rights_are_said(settings: Settings, superuser: sa.Engine):
    assert excessive_rights(settings) == []
    shared = settings.model_copy(update={"worker_database_url": None})
    ((ok, said),) = excessive_rights(shared)
    assert ok and said.startswith(
        "the workers' login pipeline can switch to ml_operator, ml_owner. Set ML_PIPELINE_WORKER_DATABASE_URL"
    )
    by_superuser = Settings(database_url=postgres.plain(superuser.url))
    (first, second) = excessive_rights(by_superuser)
    assert not first[0] and not second[0]
    assert second[1].startswith("the login postgres of the workers is a superuser or has BYPASSRLS")


def test_a_login_of_ones_own_is_admitted_once_and_a_missing_one_is_named(settings: Settings, superuser: sa.Engine):
    url = postgres.parse_url(settings.database_url or "")
    own = settings.model_copy(update={"worker_database_url": postgres.plain(url.set(username="of-mine"))})
    with pytest.raises(DatabaseUnavailable, match=r"names the login 'of-mine', .* CREATE ROLE .of-mine. LOGIN"):
        grant_worker_login(own, "mlflow")
    with superuser.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text('CREATE ROLE "of-mine" LOGIN'))
    try:
        for _ in range(2):
            grant_worker_login(own, "mlflow")
        with superuser.connect() as connection:
            rights = (
                "SELECT pg_has_role('of-mine', 'ml_app', 'SET'), has_schema_privilege('of-mine', 'mlflow', 'USAGE')"
            )
            assert connection.execute(sa.text(rights)).one() == (True, True)
            assert connection.scalar(sa.text(connections.GRANTED), {"login": "of-mine", "schema": "mlflow"})
    finally:
        with superuser.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text('DROP OWNED BY "of-mine"'))
            connection.execute(sa.text('DROP ROLE "of-mine"'))


def test_no_secret_is_in_the_urls_of_the_embedded_server(small_server: EmbeddedServer):
    assert postgres.parse_url(small_server.url()).password is None
    assert "password" not in tracking_url(Settings(database_url=small_server.url()))
