"""Source rows and feature frame of one tenant's model, read and built once for the tasks that share them."""

from __future__ import annotations

import datetime as dt

import pandas as pd

from ml_pipeline.features.point_in_time import build
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.specs import ModelSpec

Key = tuple[str, str, str]  # model, hash of its specification, tenant


class FeatureFrames:
    """Reads source rows and builds feature frames; keeps the newest of each.

    Later changes of the source are not seen, so an object must not live longer than the work that shares its rows.
    """

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._rows: dict[Key, pd.DataFrame] = {}
        self._frames: dict[tuple[Key, dt.datetime], pd.DataFrame] = {}

    def rows(self, spec: ModelSpec, tenant: str) -> pd.DataFrame:
        """The tenant's source rows; see :meth:`~ml_pipeline.resources.warehouse.Warehouse.read_source`."""
        key = (spec.name, spec.hash, tenant)
        if key not in self._rows:
            self._rows = {key: self._warehouse.read_source(spec, tenant)}
        return self._rows[key]

    def frame(self, spec: ModelSpec, tenant: str, as_of: dt.datetime) -> pd.DataFrame:
        """The feature frame of the source rows; see :func:`~ml_pipeline.features.point_in_time.build`."""
        key = ((spec.name, spec.hash, tenant), as_of)
        if key not in self._frames:
            self._frames = {key: build(spec, self.rows(spec, tenant), as_of)}
        return self._frames[key]
