"""Dagster runs of the command line: in this process, on the same Dagster instance as the UI, with progress."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from ml_pipeline import partitions
from ml_pipeline.recovery import leased_run
from ml_pipeline.resources.compute import Compute
from ml_pipeline.resources.connections import bounded_workers
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.preparation import quiet
from ml_pipeline.run_requests import retraining_config, training_keys
from ml_pipeline.settings import INSTANCE_FILES, Settings, export_to_children, load_settings
from ml_pipeline.specs import load_specs
from ml_pipeline.work.alerts.run_failures import ERRORS, FAILED
from ml_pipeline.work.retraining.decide import Approved

Progress = Callable[[str], None]


def watched_installation(announce: Progress) -> Installation:
    """The installation of a run with progress: ``announce`` is called for each tenant that has finished."""

    class WatchedInstallation(Installation):
        def compute(self) -> Compute:
            settings = self.settings()
            return Compute(bounded_workers(settings), settings.tenant_timeout, announce)

    return WatchedInstallation()


@dataclass
class Launched:
    """The errors of the runs of one command."""

    failures: list[str] = field(default_factory=list)


@contextmanager
def dagster_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of ``dagster.yaml``, which the UI and the daemon use too."""
    export_to_children(
        {
            "DATABASE_URL": settings.database_url or "",
            "ML_PIPELINE_WORKER_DATABASE_URL": settings.worker_database_url or "",
            "ML_PIPELINE_HOME": str(settings.home),
            "DAGSTER_HOME": str(dagster_home(settings)),
        }
    )
    quiet()
    with dg.DagsterInstance.get() as instance:
        yield instance


def dagster_home(settings: Settings) -> Path:
    """The folder of ``dagster.yaml``: DAGSTER_HOME if it contains the file, otherwise the project's own."""
    given = settings.dagster_home
    return given if given is not None and (given / "dagster.yaml").is_file() else INSTANCE_FILES


def add_partitions(instance: dg.DagsterInstance, tenants: Sequence[str]) -> list[str]:
    """Add a partition for each new tenant; return all tenants that have one, in partition order."""
    name = str(partitions.tenants.name)
    known = set(instance.get_dynamic_partitions(name))
    new = [tenant for tenant in tenants if tenant not in known]
    if new:
        instance.add_dynamic_partitions(name, new)
    return list(instance.get_dynamic_partitions(name))


def train(
    instance: dg.DagsterInstance,
    known: Sequence[str],
    tenants: Sequence[str],
    models: Sequence[str],
    as_of: str,
    announce: Progress,
) -> Launched:
    """Build features, train models and predict for the tenants, with one run per contiguous range of partitions."""
    configuration = {"ops": {f"{model}_training": {"config": {"as_of": as_of}} for model in models}}
    ranges = [partitions.tenant_range(known, first, last) for first, last in partitions.contiguous(known, tenants)]
    return _launch(instance, "train", training_keys(models), ranges, configuration, announce)


def retrain(
    instance: dg.DagsterInstance,
    known: Sequence[str],
    approved: Sequence[Approved],
    announce: Progress,
    as_of: str = "",
) -> Launched:
    """Run approved retrainings in this process, one after the other."""
    launched = Launched()
    for item in approved:
        tags = partitions.tenant_range(known, item.tenant, item.tenant) | item.tags
        configuration = retraining_config(item, as_of)
        done = _launch(instance, "train", training_keys([item.model]), [tags], configuration, announce)
        launched.failures += done.failures
    return launched


def monitor(
    instance: dg.DagsterInstance,
    known: Sequence[str],
    tenants: Sequence[str],
    models: Sequence[str],
    since: dt.date,
    until: dt.date,
    announce: Progress,
) -> Launched:
    """Compute metrics and drift reports of the tenants for each day from ``since`` to ``until``."""
    from ml_pipeline.work.monitoring.task import STEPS

    keys = [dg.AssetKey([model, step]) for model in models for step in STEPS]
    ranges = [
        partitions.tenant_day_range(known, first, last, since, until)
        for first, last in partitions.contiguous(known, tenants)
    ]
    return _launch(instance, "monitor", keys, ranges, {}, announce)


def _launch(
    instance: dg.DagsterInstance,
    job_name: str,
    keys: Sequence[dg.AssetKey],
    ranges: Sequence[dict[str, str]],
    configuration: dict[str, Any],
    announce: Progress,
) -> Launched:
    from ml_pipeline.definitions import definitions

    job = definitions(load_specs(load_settings().specs), watched_installation(announce)).resolve_job_def(job_name)
    launched = Launched()
    loggers = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    for tags in ranges:
        run_id = str(uuid.uuid4())
        with leased_run(load_settings(), run_id) as leased:  # before the run exists
            result = job.execute_in_process(
                instance=instance,
                run_id=run_id,
                run_config=configuration | loggers,
                tags=tags | leased,
                asset_selection=list(keys),
                raise_on_error=False,
            )
        if not result.success:
            launched.failures += _errors(result)
    return launched


def _errors(result: dg.ExecuteInProcessResult) -> list[str]:
    """The errors of single tenants; if the failed steps list none, the error that ended the run."""
    errors = []
    for event in result.get_step_failure_events():
        data = event.step_failure_data
        metadata = data.user_failure_data.metadata if data.user_failure_data else {}
        if ERRORS in metadata:
            listed: Any = metadata[ERRORS].value
            count: Any = metadata[FAILED].value
            errors += [f"{event.step_key}: {tenant}: {' '.join(error.split())}" for tenant, error in listed.items()]
            errors += [f"{event.step_key}: and {count - len(listed)} more"] if count > len(listed) else []
            continue
        cause = data.error
        while cause is not None and cause.cause is not None:
            cause = cause.cause
        text = cause.message if cause else "unknown error"
        errors += [f"{event.step_key}: {line}" for line in text.strip().splitlines()]
    return errors or ["the run failed outside its steps. Its page in the Dagster UI shows the reason"]
