"""The one figure that tenants share, if they opt in: what is typical of their outcomes."""

from __future__ import annotations

import datetime as dt

import pandas as pd
import sqlalchemy as sa

from ml_pipeline.features.feedback import own_outcomes
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.specs import ModelSpec

LEAST_TENANTS = 3  # others, below which one tenant's figure could be told from the pooled one


def typical(spec: ModelSpec, frame: pd.DataFrame) -> float | None:
    """Median of a snapshot's outcomes, of a binary model their mean; None without any."""
    label = frame.loc[(frame["state"] == "matured") & own_outcomes(frame), "label"]
    if label.empty:
        return None
    return float(label.median() if spec.task == "regression" else label.mean())


def pooled(warehouse: Warehouse, spec: ModelSpec, tenant: str, as_of: dt.datetime) -> float | None:
    """What is typical of the other tenants that share, as it was known at ``as_of``.

    The median of their medians, of a binary model the mean of their shares; each tenant counts alike. None where the
    specification does not say ``training.share: opt_in``, where the tenant itself does not share (who takes part gives
    too), or where fewer than 3 others do.
    """
    if spec.training.share != "opt_in":
        return None
    figure = sa.func.ml.pooled_typical(spec.name, as_of, spec.task == "regression", LEAST_TENANTS)
    with warehouse.tenant(tenant) as connection:
        return connection.scalar(sa.select(figure))
