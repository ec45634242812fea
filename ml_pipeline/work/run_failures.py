"""A failed Dagster run as alerts of the tenants that it failed."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.work.records import raise_alert

# Of a run that failed as a whole: the others are in its log, and a thousand messages would say no more.
MOST_TENANTS = 20
# Where there is no tenant to tell: the partition key of models that all tenants share.
NO_TENANT = "__global__"
NO_MODEL = "*"

_LISTED = re.compile(r"^- `([^`]+)`: (.*)$", re.MULTILINE)
_STEP = re.compile(r"^(.+)_(?:training|monitoring)$")


@dataclass(frozen=True)
class FailedRun:
    """What is known of a run that failed.

    ``steps``: for each step that failed, its error and the tenants that it listed as failed, as Markdown. ``tenants``:
    the tenants that the run was for.
    """

    run_id: str
    job: str
    ended_at: dt.datetime
    message: str
    steps: Mapping[str, tuple[str, str | None]]
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
    at most 20, and where it was for nobody in particular the one alert is kept under ``__global__``. The same run
    again changes nothing.
    """
    untold: list[str] = []
    for step, (error, listed) in run.steps.items():
        errors = dict(_LISTED.findall(listed or ""))
        for tenant, why in errors.items():
            _raise(warehouse, run, tenant, model_of(step), "MEDIUM", why)
        if not errors:
            untold += _everybody(warehouse, run, model_of(step), error)
    if not run.steps:
        untold += _everybody(warehouse, run, NO_MODEL, run.message)
    return list(dict.fromkeys(untold))


def _everybody(warehouse: Warehouse, run: FailedRun, model: str, error: str) -> Sequence[str]:
    for tenant in run.tenants[:MOST_TENANTS] or [NO_TENANT]:
        _raise(warehouse, run, tenant, model, "HIGH", error)
    return run.tenants[MOST_TENANTS:]


def _raise(warehouse: Warehouse, run: FailedRun, tenant: str, model: str, level: str, error: str) -> None:
    short = run.run_id[:8]
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
