"""The Dagster resource of assets, jobs, sensors and schedules: the settings and the worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from ml_pipeline.resources.compute import Compute
from ml_pipeline.resources.connections import bounded_workers
from ml_pipeline.resources.leases import LEASE_TAG, lease
from ml_pipeline.settings import Settings, load_settings


class Installation(dg.ConfigurableResource[Any]):
    """The settings of this installation; during a run, it holds the lease that shows that the run is alive."""

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Installation]:
        run = context.run
        if run is None or context.instance is None or run.tags.get(LEASE_TAG) == run.run_id:
            yield self  # a sensor or schedule, or the process already holds the run's lease
            return
        with lease(self.settings(), run.run_id):
            context.instance.add_run_tags(run.run_id, {LEASE_TAG: run.run_id})
            yield self

    def settings(self) -> Settings:
        return load_settings()

    def compute(self) -> Compute:
        """The worker processes of this run."""
        settings = self.settings()
        return Compute(bounded_workers(settings), settings.tenant_timeout)
