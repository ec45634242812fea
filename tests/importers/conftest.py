"""A look into the tables after an import."""

from collections.abc import Callable

import pandas as pd
import pytest
import sqlalchemy as sa

from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse


@pytest.fixture
def stored(warehouse: Warehouse) -> Callable[..., pd.DataFrame]:
    """``stored(tenant, table)``: what that tenant can see of a table (its issues unless told), in key order."""

    def read(tenant: str, table: sa.Table = tables.issues) -> pd.DataFrame:
        with warehouse.tenant(tenant) as connection:
            query = sa.select(table).order_by(*table.primary_key)
            return pd.DataFrame(connection.execute(query).mappings().all(), columns=table.columns.keys())

    return read
