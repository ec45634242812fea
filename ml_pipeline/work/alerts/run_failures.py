"""A failed Dagster run as alerts of the tenants that it failed."""

from __future__ import annotations

import datetime as dt
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.work.alerts.raising import raise_alert

# Of a run that failed as a whole: the others are in its log, and a thousand messages would say no more.
MOST_TENANTS = 20
# Where there is no tenant to tell: the partition key of models that all tenants share.
NO_TENANT = "__global__"
NO_MODEL = "*"

# Metadata of a step's failure: a JSON object with the error of each tenant that is listed, and how many failed.
ERRORS, FAILED = "ml_pipeline/errors", "ml_pipeline/failed"

logger = logging.getLogger(__name__)

_STEP = re.compile(r"^(.+)_(?:training|monitoring)$")


@dataclass(frozen=True)
class FailedRun:
    """What is known of a run that failed.

    ``steps``: for each step that failed, its error and the error of each tenant that it listed as failed. ``tenants``:
    the tenants that the run was for.
    """

    run_id: str
    job: str
    ended_at: dt.datetime
    message: str
    steps: Mapping[str, tuple[str, Mapping[str, str]]]
    tenants: Sequence[str]


def model_of(step: str) -> str:
    """The model whose step it is; ``*`` for a step of no model.

    >>> model_of("story_points_training"), model_of("prune_old_events")
    ('story_points', '*')
    """
    found = _STEP.match(step)
    return found.group(1) if found else NO_MODEL


def alert_failed_run(warehouse: Warehouse, run: FailedRun) -> list[str]:
    """Raises an alert for each tenant that the run failed; returns the tenants that are too many to be told one by one.

    Where steps list the tenants that failed: those, each with its own error. Otherwise everybody whom the run was for,
    at most 20, and where it was for nobody in particular the one alert is kept under ``__global__``. What is no tenant
    of ``source.tenants`` is logged and gets no alert. The same run again changes nothing.
    """
    known = set(warehouse.tenants())
    everybody = _known(run, run.tenants, known)
    untold: list[str] = []
    for step, (error, errors) in run.steps.items():
        for tenant in _known(run, errors, known):
            _raise(warehouse, run, tenant, model_of(step), "MEDIUM", errors[tenant])
        if not errors:
            untold += _everybody(warehouse, run, everybody, model_of(step), error)
    if not run.steps:
        untold += _everybody(warehouse, run, everybody, NO_MODEL, run.message)
    return list(dict.fromkeys(untold))


def _known(run: FailedRun, tenants: Iterable[str], known: Collection[str]) -> list[str]:
    found = list(tenants)
    unknown = [tenant for tenant in found if tenant not in known]
    if unknown:
        named = ", ".join(repr(tenant[:100]) for tenant in unknown[:MOST_TENANTS])
        logger.warning("run %s: %d of its tenants are not known and got no alert: %s", run.run_id, len(unknown), named)
    return [tenant for tenant in found if tenant in known]


def _everybody(warehouse: Warehouse, run: FailedRun, tenants: Sequence[str], model: str, error: str) -> Sequence[str]:
    for tenant in tenants[:MOST_TENANTS] or [NO_TENANT]:
        _raise(warehouse, run, tenant, model, "HIGH", error)
    return tenants[MOST_TENANTS:]


def _raise(warehouse: Warehouse, run: FailedRun, tenant: str, model: str, level: str, error: str) -> None:
    short = run.run_id[:8]
    error = _storable(error)
    reason = " ".join(error.split())[:1000] or "it ended without saying why"
    with warehouse.tenant(tenant) as connection:
        raise_alert(
            connection,
            tenant,
            model,
            kind="run_failed",
            level=level,
            message=f"Run {short} of job {run.job} failed: {reason}. See it under Runs in Dagster, correct the cause "
            "and start it again: what is done is not done twice",
            as_of=run.ended_at,
            detail={"run_id": run.run_id, "job": run.job, "error": error},
            settings=warehouse.settings,
        )


def _storable(text: str) -> str:
    """The text without what PostgreSQL cannot hold: an error may carry any bytes of somebody's data."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
