"""What died must not block: runs and decisions whose process is gone are ended, and its leavings are cleared.

A run of ours holds a lease under its own id as long as its process lives, and carries a tag that says so. Without the
tag nothing is known of its process (another release, another launcher), and it is left to Dagster's own monitoring.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import dagster as dg

from ml_pipeline.resources import leases
from ml_pipeline.resources.leases import LEASE_TAG
from ml_pipeline.resources.scratch import remove_abandoned
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.work.retraining.decide import DECISION_TAG, FAILED, TENANT_TAG, settle, waiting

BEGUN = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
BEGUN += [dg.DagsterRunStatus.CANCELING]
DIED = (
    "The process of this run died without a word (killed, out of memory, or its machine went down). What its tenants "
    "had done is kept: start it again"
)

logger = logging.getLogger(__name__)


@dataclass
class RecoveryResult:
    """What was ended and cleared."""

    runs: list[dg.DagsterRun] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    folders: int = 0

    def __str__(self) -> str:
        counts = {"runs": len(self.runs), "decisions": len(self.decisions), "folders": self.folders}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing"


@contextmanager
def leased_run(settings: Settings, run_id: str) -> Iterator[dict[str, str]]:
    """The lease of a run that this process executes; yields the tag that says that it has one."""
    with leases.lease(settings, run_id):
        yield {LEASE_TAG: run_id}


def recover(
    instance: dg.DagsterInstance, warehouse: Warehouse, sleep: Callable[[float], None] = time.sleep
) -> RecoveryResult:
    """Marks runs whose process died as failed, settles what asked for them, and clears what they left on this machine.

    Who lost its lease with the server's restart takes it again within seconds, so whoever seems dead is looked at
    twice. It takes no time where nobody does.
    """
    done = RecoveryResult(folders=remove_abandoned())
    suspects = _without_lease(instance, warehouse)
    orphans = _abandoned_decisions(warehouse)
    if suspects or orphans:
        sleep(leases.LOST_SECONDS)
        again = {run.run_id for run in _without_lease(instance, warehouse)}
        done.runs = [run for run in suspects if run.run_id in again]
        for run in done.runs:
            _end(instance, warehouse, run)
        done.decisions = _settle_abandoned(instance, warehouse, {decision for _, decision in orphans})
    return done


def _without_lease(instance: dg.DagsterInstance, warehouse: Warehouse) -> list[dg.DagsterRun]:
    # A run that is executed again has the tags of the one before it: only its own id says that it had a lease.
    runs = [run for run in instance.get_runs(dg.RunsFilter(statuses=BEGUN)) if run.tags.get(LEASE_TAG) == run.run_id]
    held = leases.held(warehouse, [run.run_id for run in runs])
    return [run for run in runs if run.run_id not in held]


def _end(instance: dg.DagsterInstance, warehouse: Warehouse, run: dg.DagsterRun) -> None:
    logger.warning("Run %s of job %s: %s", run.run_id, run.job_name, DIED)
    instance.report_run_failed(run, DIED)
    decision, tenant = run.tags.get(DECISION_TAG), run.tags.get(TENANT_TAG)
    if decision and tenant:
        settle(warehouse, tenant, uuid.UUID(decision), FAILED)


def _abandoned_decisions(warehouse: Warehouse) -> list[tuple[str, uuid.UUID]]:
    """Approved retrainings that a command was to run itself, and whose command is gone."""
    asked = [item for item in waiting(warehouse) if item.lease]
    held = leases.held(warehouse, [item.lease for item in asked])
    return [(item.tenant, item.decision_id) for item in asked if item.lease not in held]


def _settle_abandoned(instance: dg.DagsterInstance, warehouse: Warehouse, suspects: set[uuid.UUID]) -> list[str]:
    """Settles those without a run that is under way: the sensor may have asked for one meanwhile."""
    settled = []
    for tenant, decision in _abandoned_decisions(warehouse):
        runs = instance.get_runs(dg.RunsFilter(tags={DECISION_TAG: str(decision)}))
        if decision in suspects and all(run.is_finished for run in runs):
            settle(warehouse, tenant, decision, FAILED)
            settled.append(str(decision))
    return settled


def run_ids(runs: Sequence[dg.DagsterRun]) -> str:
    """Short ids for a message."""
    return ", ".join(run.run_id[:8] for run in runs)
