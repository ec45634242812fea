"""Decides which models are retrained: each tick reviews the fleet, records decisions, and requests approved runs."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from collections.abc import Iterable, Sequence

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from ml_pipeline import partitions
from ml_pipeline.recovery import recover
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.run_requests import retraining_request
from ml_pipeline.specs import load_specs
from ml_pipeline.work.context import Clients
from ml_pipeline.work.retraining.decide import DECISION_TAG, FAILED, Approved, SweepResult, decide_for, settle, waiting
from ml_pipeline.work.retraining.fleet_state import Key, Running

TENANTS_AT_ONCE = 250
SECONDS_PER_TICK = 35.0  # Dagster ends a tick after 60
LOGGED = 20
GIVEN_UP_AFTER = dt.timedelta(days=2)


@dg.sensor(
    job_name="train",
    minimum_interval_seconds=120,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Decides from drift, degradation, schedule, new labels and safeguards which models to retrain, and "
    "requests a run for each approved retraining. A tick that runs out of time is continued by the next.",
)
def retraining(context: dg.SensorEvaluationContext, installation: Installation) -> dg.SensorResult | dg.SkipReason:
    clients, now = Clients(installation.settings()), dt.datetime.now(dt.UTC)
    recover(context.instance, clients.warehouse)  # so that runs whose process died do not count as active
    known = list(context.instance.get_dynamic_partitions(str(partitions.tenants.name)))
    to_request = unlaunched(context.instance, clients, known, now)
    tick, cursor = evaluate_fleet(context, clients, known, now)
    for state, decision in tick.blocked[:LOGGED]:
        context.log.info(f"{state.tenant} {state.model}: {decision.reason}")
    for approved in tick.approved:
        context.log.info(f"{approved.tenant} {approved.model}: {approved.reason}")
    to_request += [approved for approved in tick.approved if approved.tenant in known]
    if to_request:
        return dg.SensorResult(run_requests=[retraining_request(approved) for approved in to_request], cursor=cursor)
    context.update_cursor(cursor)
    return dg.SkipReason(summary(tick))


def summary(tick: SweepResult) -> str:
    """The message of a tick that requests no run, for Dagster's page."""
    if not tick.blocked:
        return f"{tick.looked_at} models evaluated: no triggers."
    safeguards = Counter(name for _, decision in tick.blocked for name in decision.blocked_by)
    named = ", ".join(f"{name} {count}" for name, count in safeguards.most_common())
    state, decision = tick.blocked[0]
    first = f"{state.tenant} {state.model}: {decision.reason}"
    return f"{tick.looked_at} models evaluated, {len(tick.blocked)} blocked ({named}). First: {first}"


def evaluate_fleet(
    context: dg.SensorEvaluationContext, clients: Clients, known: Sequence[str], now: dt.datetime
) -> tuple[SweepResult, str]:
    """Decides for the tenants after the cursor until the tick's time is up; returns the last one as the new cursor."""
    specs = load_specs(clients.settings.specs)
    active = under_way(context.instance, known, specs)
    deadline = time.monotonic() + SECONDS_PER_TICK
    start = known.index(context.cursor) + 1 if context.cursor in known[:-1] else 0
    tick = SweepResult()
    for at in range(start, len(known), TENANTS_AT_ONCE):
        chosen = known[at : at + TENANTS_AT_ONCE]
        running = Running(active, fleet=len(waiting(clients.warehouse)))
        tick.merge(decide_for(clients, specs, chosen, now, running=running))
        if time.monotonic() > deadline:
            return tick, chosen[-1]
    return tick, ""


def under_way(instance: dg.DagsterInstance, known: Sequence[str], models: Iterable[str]) -> dict[Key, int]:
    """Training runs that have not ended, by tenant and model."""
    counts: Counter[Key] = Counter()
    for run in instance.get_runs(dg.RunsFilter(job_name="train", statuses=NOT_FINISHED_STATUSES)):
        selected = {key.path[0] for key in run.asset_selection} if run.asset_selection else set(models)
        counts.update((tenant, model) for tenant in partitions.tenants_of(run.tags, known) for model in selected)
    return dict(counts)


def unlaunched(
    instance: dg.DagsterInstance, clients: Clients, known: Sequence[str], now: dt.datetime
) -> list[Approved]:
    """Approved retrainings that have no run, because the sensor died between deciding and requesting.

    An approved retraining fails if its run has ended without a result (killed, out of memory), if its tenant or model
    no longer exists, or if it has waited for two days. One with a lease is run by the command that approved it.
    """
    approved = waiting(clients.warehouse)
    if not approved:
        return []
    runs = instance.get_runs(dg.RunsFilter(tags={DECISION_TAG: [str(item.decision_id) for item in approved]}))
    ended: dict[str, bool] = {}
    for run in runs:
        decision = run.tags[DECISION_TAG]
        ended[decision] = ended.get(decision, True) and run.is_finished
    specs, waits = load_specs(clients.settings.specs), []
    for item in approved:
        # An approval dated in the future was made before the clock was set back, at least as long ago as it is ahead.
        age, decision = abs(now - item.approved_at), str(item.decision_id)
        if specs.is_broken(item.model) and age <= GIVEN_UP_AFTER:
            continue  # it waits until the specification is corrected
        if ended.get(decision, False) or item.tenant not in known or item.model not in specs or age > GIVEN_UP_AFTER:
            settle(clients.warehouse, item.tenant, item.decision_id, FAILED)
        elif decision not in ended and not item.lease:
            waits.append(item)
    return waits
