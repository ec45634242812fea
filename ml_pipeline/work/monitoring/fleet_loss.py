"""The loss of the whole fleet by day, in one query."""

from __future__ import annotations

import datetime as dt

import sqlalchemy as sa

from ml_pipeline.resources import tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec

DAYS = 56  # eight weeks: long enough to see a rise, short enough for a small picture


def loss_by_day(settings: Settings, model: ModelSpec, last: dt.date) -> list[float]:
    """Median over tenants of the loss, as a share of the baseline's, for each day with outcomes, oldest first."""
    table = tables.daily_metrics
    share = sa.func.percentile_cont(0.5).within_group(table.c.value / table.c.baseline_value)
    query = (
        sa.select(share)
        .where(
            table.c.model == model.name,
            table.c.day > last - dt.timedelta(days=DAYS),
            table.c.day <= last,
            table.c.baseline_value > 0,
            table.c.value.is_not(None),
        )
        .group_by(table.c.day)
        .order_by(table.c.day)
    )
    with Warehouse(settings).operator() as connection:
        return [float(value) for value in connection.scalars(query)]
