"""A failed Dagster run becomes an alert for each tenant whose work failed in it."""

from __future__ import annotations

import datetime as dt
import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.work.alerts.raising import NewAlert, raise_alert

# Of a run that failed as a whole. The log names the other tenants; a thousand equal messages would add nothing.
MOST_TENANTS = 20
# The tenant of an alert about no tenant: the partition key of models that all tenants share.
NO_TENANT = "__global__"
NO_MODEL = "*"

# Metadata of a step's failure: a JSON object with the error of each tenant that is listed, and how many failed.
ERRORS, FAILED = "ml_pipeline/errors", "ml_pipeline/failed"

logger = logging.getLogger(__name__)

_STEP = re.compile(r"^(.+)_(?:training|monitoring)$")


@dataclass(frozen=True)
class FailedRun:
    """What is known of a run that failed.

    ``steps`` holds, for each failed step, its error and the error of each tenant that it lists as failed. ``tenants``
    are all tenants that the run was for.
    """

    run_id: str
    job: str
    ended_at: dt.datetime
    message: str
    steps: Mapping[str, tuple[str, Mapping[str, str]]]
    tenants: Sequence[str]


def model_of(step: str) -> str:
    """The model that a step belongs to; ``*`` for a step of no model.

    >>> model_of("story_points_training"), model_of("prune_old_events")
    ('story_points', '*')
    """
    found = _STEP.match(step)
    return found.group(1) if found else NO_MODEL


def alert_failed_run(warehouse: Warehouse, run: FailedRun) -> list[str]:
    """Raises an alert for each tenant that failed in the run; returns the tenants beyond the limit of 20.

    If the failed steps list tenants, each of these gets an alert with its own error. Otherwise the tenants that the run
    was for get one, at most 20; a run for no particular tenant gets one alert under ``__global__``. Names that are not
    in ``source.tenants`` are logged and get no alert. The same run again changes nothing.
    """
    known = set(warehouse.tenants())
    everybody = _known(run, run.tenants, known)
    without_alert: list[str] = []
    for step, (error, errors) in run.steps.items():
        for tenant in _known(run, errors, known):
            _raise(warehouse, run, tenant, model_of(step), "MEDIUM", errors[tenant])
        if not errors:
            without_alert += _everybody(warehouse, run, everybody, model_of(step), error)
    if not run.steps:
        without_alert += _everybody(warehouse, run, everybody, NO_MODEL, run.message)
    return list(dict.fromkeys(without_alert))


def _known(run: FailedRun, tenants: Iterable[str], known: Collection[str]) -> list[str]:
    found = list(tenants)
    unknown = [tenant for tenant in found if tenant not in known]
    if unknown:
        named = ", ".join(repr(tenant[:100]) for tenant in unknown[:MOST_TENANTS])
        logger.warning("run %s: %d of its tenants do not exist and got no alert: %s", run.run_id, len(unknown), named)
    return [tenant for tenant in found if tenant in known]


def _everybody(warehouse: Warehouse, run: FailedRun, tenants: Sequence[str], model: str, error: str) -> Sequence[str]:
    for tenant in tenants[:MOST_TENANTS] or [NO_TENANT]:
        _raise(warehouse, run, tenant, model, "HIGH", error)
    return tenants[MOST_TENANTS:]


def _raise(warehouse: Warehouse, run: FailedRun, tenant: str, model: str, level: str, error: str) -> None:
    # PostgreSQL stores neither NUL nor half a surrogate pair; an error may quote any bytes of a tenant's data.
    error = error.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    reason = " ".join(error.split())[:1000] or "it ended without an error message"
    alert = NewAlert(
        tenant,
        model,
        kind="run_failed",
        level=level,
        message=f"Run {run.run_id[:8]} of job {run.job} failed: {reason}. Open it under Runs in Dagster, correct the "
        "cause and start it again: finished work is not repeated",
        as_of=run.ended_at,
        detail={"run_id": run.run_id, "job": run.job, "error": error},
    )
    with warehouse.tenant(tenant) as connection:
        raise_alert(connection, alert, settings=warehouse.settings)
