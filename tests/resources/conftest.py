"""A database of the release before, for the tests of what an upgrade does to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from ml_pipeline.resources import postgres
from ml_pipeline.resources.warehouse import Warehouse

SEQUENCED = ("alerts", "decisions", "deployments", "feature_sets")


@pytest.fixture
def release_before(warehouse: Warehouse) -> Callable[[], sa.Engine]:
    """Takes back, when called, what the newest migrations did to the test's database; returns a superuser's engine."""

    def take_back() -> sa.Engine:
        engine = postgres.engine(warehouse.url)
        with engine.begin() as connection:
            for statement in (
                *(f"ALTER TABLE ml.{name} DROP COLUMN sequence" for name in SEQUENCED),
                "DROP TABLE ml.versions",
                "DROP INDEX source.tenants_without_case_twins",
                "ALTER TABLE source.tenants DROP CONSTRAINT tenant_id_rule",
                "UPDATE ml.alembic_version SET version_num = '0006'",
            ):
                connection.execute(sa.text(statement))
        return engine

    return take_back
