"""What the assets are handed: the settings and the worker processes."""

from __future__ import annotations

import dagster as dg

from ml_pipeline.resources.compute import Compute
from ml_pipeline.resources.connections import bounded_workers
from ml_pipeline.resources.studies import Studies
from ml_pipeline.settings import Settings, load_settings
from ml_pipeline.specs import ModelSpec


class Installation(dg.ConfigurableResource):
    """The settings of this installation, from the environment of the run."""

    def settings(self) -> Settings:
        return load_settings()

    def compute(self) -> Compute:
        """The warm worker processes of this run."""
        settings = self.settings()
        return Compute(bounded_workers(settings), settings.tenant_timeout)

    def prepare_search(self, spec: ModelSpec) -> None:
        """Makes the tables of searches, where the model has one that is resumed: workers cannot make tables."""
        if spec.training.search is not None and spec.training.search.resume:
            Studies(self.settings()).prepare()
