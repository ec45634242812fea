"""What the assets are handed: the settings and the worker processes."""

from __future__ import annotations

import dagster as dg

from ml_pipeline.resources.compute import Compute
from ml_pipeline.settings import Settings, load_settings


class Installation(dg.ConfigurableResource):
    """The settings of this installation, from the environment of the run."""

    def settings(self) -> Settings:
        return load_settings()

    def compute(self) -> Compute:
        """The warm worker processes of this run."""
        settings = self.settings()
        return Compute(settings.workers, settings.tenant_timeout)
