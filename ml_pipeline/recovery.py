"""Ends runs and decisions whose process has died, and removes its temporary files, so that they block nothing.

The process of a run holds a lease with the run's id while it lives, and marks the run with a tag. A run without this
tag (of another release, or started otherwise) is left to Dagster's own monitoring.
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
    "The process of this run died without an error (killed, out of memory, or its machine was lost). The results of "
    "finished tenants are kept: start the run again"
)

logger = logging.getLogger(__name__)


@dataclass
class RecoveryResult:
    """The runs and decisions that were ended, and the number of temporary folders removed."""

    runs: list[dg.DagsterRun] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    folders: int = 0

    def __str__(self) -> str:
        counts = {"runs": len(self.runs), "decisions": len(self.decisions), "folders": self.folders}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing"


@contextmanager
def leased_run(settings: Settings, run_id: str) -> Iterator[dict[str, str]]:
    """Hold the lease of a run that this process executes; yields the tag that marks the run."""
    with leases.lease(settings, run_id):
        yield {LEASE_TAG: run_id}


def recover(
    instance: dg.DagsterInstance, warehouse: Warehouse, sleep: Callable[[float], None] = time.sleep
) -> RecoveryResult:
    """Mark runs whose process died as failed, settle their decisions, and remove their files on this machine.

    After a restart of the server, a living process takes its lease again within seconds. A run without a lease is
    therefore checked a second time after ``LOST_SECONDS``; without such runs there is no wait.
    """
    done = RecoveryResult(folders=remove_abandoned())
    suspects = _without_lease(instance, warehouse)
    orphans = _abandoned_decisions(warehouse)
    if suspects or orphans:
        sleep(leases.LOST_SECONDS)
        again = {run.run_id for run in _without_lease(instance, warehouse)}
        done.runs = [run for run in suspects if run.run_id in again]
        for run in done.runs:
            logger.warning("Run %s of job %s: %s", run.run_id, run.job_name, DIED)
            instance.report_run_failed(run, DIED)
            decision, tenant = run.tags.get(DECISION_TAG), run.tags.get(TENANT_TAG)
            if decision and tenant:
                settle(warehouse, tenant, uuid.UUID(decision), FAILED)
        for owner, orphan in [found for found in _abandoned_decisions(warehouse) if found in orphans]:
            # The sensor may have requested a run meanwhile.
            runs = instance.get_runs(dg.RunsFilter(tags={DECISION_TAG: str(orphan)}))
            if all(run.is_finished for run in runs):
                settle(warehouse, owner, orphan, FAILED)
                done.decisions.append(str(orphan))
    return done


def _without_lease(instance: dg.DagsterInstance, warehouse: Warehouse) -> list[dg.DagsterRun]:
    # A re-executed run has the tags of the original run, so only a tag with its own id shows that it had a lease.
    runs = [run for run in instance.get_runs(dg.RunsFilter(statuses=BEGUN)) if run.tags.get(LEASE_TAG) == run.run_id]
    held = leases.held(warehouse, [run.run_id for run in runs])
    return [run for run in runs if run.run_id not in held]


def _abandoned_decisions(warehouse: Warehouse) -> list[tuple[str, uuid.UUID]]:
    """Approved retrainings of a command whose process has ended."""
    asked = [item for item in waiting(warehouse) if item.lease]
    held = leases.held(warehouse, [item.lease for item in asked])
    return [(item.tenant, item.decision_id) for item in asked if item.lease not in held]


def run_ids(runs: Sequence[dg.DagsterRun]) -> str:
    """Short ids for a message."""
    return ", ".join(run.run_id[:8] for run in runs)
