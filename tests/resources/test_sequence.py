"""The number that orders rows: of those that were there before it by their time, from then on by when they came."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from ml_pipeline.resources import postgres, tables
from ml_pipeline.resources.warehouse import MIGRATIONS, Warehouse
from ml_pipeline.settings import Settings

INSERT = """
    INSERT INTO ml.decisions (tenant_id, decision_id, model, kind, verdict, reason, numbers, as_of, created_at)
    VALUES (:tenant, gen_random_uuid(), 'm', 'train', 'promote', :reason, '{}', now(), :created_at)
"""


@pytest.fixture
def plain_login(server: str, template_database: str) -> Iterator[sa.URL]:
    """An empty database whose owner is no superuser: row-level security binds it too."""
    administration, name = postgres.parse_url(server), f"plain_{uuid.uuid4().hex[:8]}"
    connecting = sa.create_engine(administration, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with connecting.connect() as connection:
        connection.execute(sa.text(f"CREATE ROLE {name} LOGIN CREATEROLE NOSUPERUSER"))
        connection.execute(sa.text(f"GRANT ml_owner, ml_app, ml_operator TO {name} WITH SET TRUE"))
        connection.execute(sa.text(f"CREATE DATABASE {name} OWNER {name}"))
    yield administration.set(username=name, database=name)
    postgres.close_engines(name)
    with connecting.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
        connection.execute(sa.text(f"DROP OWNED BY {name}"))
        connection.execute(sa.text(f"DROP ROLE {name}"))


def test_rows_from_before_are_numbered_by_their_time_and_new_ones_go_on_from_there(plain_login: sa.URL):
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = plain_login
    command.upgrade(config, "0007")
    warehouse = Warehouse(Settings(database_url=postgres.plain(plain_login)))
    for tenant, reason, created_at in (("a", "2", "2026-02-01"), ("b", "3", "2026-03-01"), ("a", "1", "2026-01-01")):
        with warehouse.tenant(tenant) as connection:
            connection.execute(sa.text(INSERT), {"tenant": tenant, "reason": reason, "created_at": created_at})
    warehouse.migrate()
    with warehouse.tenant("b") as connection:
        connection.execute(sa.text(INSERT), {"tenant": "b", "reason": "4", "created_at": "2025-01-01"})
    table = tables.decisions
    with warehouse.operator() as connection:
        found = connection.execute(sa.select(table.c.reason, table.c.sequence).order_by(table.c.sequence)).all()
    assert found == [("1", 1), ("2", 2), ("3", 3), ("4", 4)]
    with warehouse.tenant("a") as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 2


def test_a_row_that_is_written_anew_becomes_the_newest(warehouse: Warehouse):
    row = {"tenant_id": "acme", "model": "m", "rows": 1, "matured": 1, "path": "", "quality_score": 1.0, "quality": {}}
    for digest in ("x", "y", "x"):
        with warehouse.tenant("acme") as connection:
            values = row | {"snapshot_hash": digest, "as_of": "2026-01-01"}
            warehouse.upsert(connection, tables.feature_sets, [values])
    table = tables.feature_sets
    with warehouse.tenant("acme") as connection:
        assert list(connection.scalars(sa.select(table.c.snapshot_hash).order_by(table.c.sequence))) == ["y", "x"]
