"""A database of the release before: upgraded whole, or left as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from ml_pipeline.identifiers import BadIdentifier
from ml_pipeline.resources.warehouse import Warehouse


def insert_tenants(engine: sa.Engine, *tenants: str) -> None:
    with engine.begin() as connection:
        for tenant in tenants:
            connection.execute(sa.text("INSERT INTO source.tenants (tenant_id) VALUES (:id)"), {"id": tenant})


def test_ids_that_no_tenant_can_have_stop_the_upgrade_by_name_and_nothing_is_changed(
    warehouse: Warehouse, release_before: Callable[[], sa.Engine]
):
    engine = release_before()
    insert_tenants(engine, "fine", "../../evil", "o'brien", "Acme", "acme")
    with pytest.raises(BadIdentifier) as caught:
        warehouse.migrate()
    said = str(caught.value)
    assert "'../../evil' starts with '.'" in said and '"o\'brien" holds "\'"' in said
    assert "'acme' differs only in case from 'Acme'" in said and "'fine'" not in said
    assert "DELETE FROM source.tenants" in said and "Nothing was changed" in said
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM ml.alembic_version")) == "0006"
        assert connection.scalar(sa.text("SELECT to_regclass('ml.versions')")) is None
        assert connection.scalar(sa.text("SELECT count(*) FROM source.tenants")) == 5
        connection.execute(sa.text("DELETE FROM source.tenants WHERE tenant_id IN ('../../evil', 'o''brien', 'Acme')"))
    warehouse.migrate()
    assert warehouse.tenants() == ["acme", "fine"]
