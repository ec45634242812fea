"""The one figure that tenants share if they opt in: the typical outcome."""

from __future__ import annotations

import datetime as dt

import pandas as pd
import sqlalchemy as sa

from ml_pipeline.features.feedback import own_outcomes
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.specs import ModelSpec

LEAST_TENANTS = 3  # other tenants; with fewer, one tenant's figure could be computed from the pooled one


def typical(spec: ModelSpec, frame: pd.DataFrame) -> float | None:
    """Median of a snapshot's outcomes, or their mean for a binary model; None without outcomes."""
    label = frame.loc[(frame["state"] == "matured") & own_outcomes(frame), "label"]
    if label.empty:
        return None
    return float(label.median() if spec.task == "regression" else label.mean())


def pooled(warehouse: Warehouse, spec: ModelSpec, tenant: str, as_of: dt.datetime) -> float | None:
    """The typical outcome of the other tenants that share, as known at ``as_of``.

    It is the median of their medians, or the mean of their shares for a binary model; each tenant counts once. None if
    the specification does not have ``training.share: opt_in``, if the tenant itself does not share, or if fewer than 3
    other tenants share.
    """
    if spec.training.share != "opt_in":
        return None
    figure = sa.func.ml.pooled_typical(spec.name, as_of, spec.task == "regression", LEAST_TENANTS)
    with warehouse.tenant(tenant) as connection:
        found: float | None = connection.scalar(sa.select(figure))
    return found
