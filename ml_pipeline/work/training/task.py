"""The training of one tenant's model: features, a judged version, predictions."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
import sqlalchemy as sa

from ml_pipeline.features.feedback import own_outcomes
from ml_pipeline.features.quality.gates import failed_gates
from ml_pipeline.lifecycle.promotion import Decision
from ml_pipeline.resources import cores, tables
from ml_pipeline.resources.registry import Version
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.selection.predictors import Baseline
from ml_pipeline.training.train import train
from ml_pipeline.training.trained import Trained
from ml_pipeline.training.training_window import choose_training_window
from ml_pipeline.training.update import update, updates_left
from ml_pipeline.work.context import LATEST, Clients, resolve_as_of
from ml_pipeline.work.failures import log_failure
from ml_pipeline.work.feature_frames import FeatureFrames
from ml_pipeline.work.retraining.decide import DONE, FAILED, settle
from ml_pipeline.work.scoring import is_compatible, load_version, score_open_entities
from ml_pipeline.work.tenant_settings import spec_for
from ml_pipeline.work.training.judge import Candidate, judge_candidate, record
from ml_pipeline.work.training.register import TRAIN, UPDATE, Training, change_of_outcomes, read_request, register
from ml_pipeline.work.training.search import training_context
from ml_pipeline.work.training.sharing import pooled
from ml_pipeline.work.training.snapshot import Snapshot, TenantModel, newest_snapshot, write_snapshot

FEATURES, MODEL, PREDICTIONS = "features", "model", "predictions"
STEPS = (FEATURES, MODEL, PREDICTIONS)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingTask:
    """One tenant's share of a training run: which of the steps, and the as-of time."""

    settings: Settings
    spec: ModelSpec
    tenant: str
    as_of: str
    steps: tuple[str, ...] = STEPS
    decision: str = ""  # identifier of the decision that requested it, if one did
    action: str = TRAIN
    plots: bool = False  # whether plots of the version are registered with it


@dataclass
class TaskReport:
    """What a tenant's task did, step by step, and the error that ended it."""

    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None
    traceback: str = ""  # of an unexpected error, shortened


def run_training(task: TrainingTask, frames: FeatureFrames | None = None) -> TaskReport:
    """Runs the steps of one tenant in order; steps that finished before an error stay stored and are reported.

    ``frames`` are those of a caller that runs several tasks on the same source rows; by default the task has its own.
    """
    report = TaskReport()
    tenant = _TenantTask(task, frames)
    methods: dict[str, Callable[[], dict[str, Any]]] = {
        FEATURES: tenant.features,
        MODEL: tenant.model,
        PREDICTIONS: tenant.predictions,
    }
    for step in STEPS:
        if step not in task.steps:
            continue
        try:
            report.done[step] = methods[step]()
        except Exception as error:  # noqa: BLE001 - reported as the tenant's failure, which fails the run at its end
            report.traceback = log_failure(logger, f"tenant {task.tenant}, model {task.spec.name}: step {step}", error)
            report.error = f"{step}: {type(error).__name__}: {error}"
            break
    if task.decision:
        settle(tenant.clients.warehouse, task.tenant, uuid.UUID(task.decision), FAILED if report.error else DONE)
    return report


class _TenantTask:
    """The steps of a task. All steps share the source rows and features, which are read and built once."""

    def __init__(self, task: TrainingTask, frames: FeatureFrames | None) -> None:
        self.task = task
        self.clients = Clients(task.settings)
        self._frames = frames or FeatureFrames(self.clients.warehouse)

    @cached_property
    def _of(self) -> TenantModel:
        task = self.task
        return TenantModel(self.clients, spec_for(self.clients.warehouse, task.spec, task.tenant), task.tenant)

    @cached_property
    def _current(self) -> tuple[pd.DataFrame, pd.DataFrame, dt.datetime]:
        """Source rows, feature frame and as-of time."""
        spec = self._of.spec
        rows = self._frames.rows(spec, self.task.tenant)
        as_of = resolve_as_of(self.task.as_of, spec, rows)
        return rows, self._frames.frame(spec, self.task.tenant, as_of), as_of

    def features(self) -> dict[str, Any]:
        """Stores the features as a snapshot with a quality report."""
        rows, frame, as_of = self._current
        return write_snapshot(self._of, rows, frame, as_of)

    def model(self) -> dict[str, Any]:
        """Trains on the newest snapshot, registers the version, and decides whether it serves.

        A lock lets one run at a time do this for a tenant: two runs would register the same work twice.
        """
        of = self._of
        with (
            self.clients.warehouse.advisory_lock(of.tenant, f"train {of.spec.name}"),
            cores.acquire_cores(self.task.settings, 1),
        ):
            return _train_and_judge(of, self.task)

    def predictions(self) -> dict[str, Any]:
        """Predicts the open entities that the champion has not predicted yet."""
        _, frame, as_of = self._current
        return score_open_entities(self.clients, self._of.spec, self.task.tenant, frame, as_of)


def _train_and_judge(of: TenantModel, task: TrainingTask) -> dict[str, Any]:
    snapshot = newest_snapshot(of)
    request = read_request(of, task.decision)
    changed_at = change_of_outcomes(of, request)
    # The snapshot may be older than the run: a version serves from the time of the run on.
    serves_from = snapshot.as_of
    if task.as_of != LATEST:
        serves_from = max(snapshot.as_of, dt.datetime.fromisoformat(task.as_of))
    training = Training(of, snapshot, request, changed_at, serves_from, task.plots)
    rows, note = choose_training_window(of.spec, snapshot.frame, snapshot.as_of, changed_at)
    refusal = _refusal(of.spec, rows, snapshot)
    if refusal is not None:
        record(of, "train", refusal, snapshot.as_of, version=None)
        return {"decision": refusal.verdict, "reason": refusal.reason}
    base = _version_to_update(of) if task.action == UPDATE else None
    key = _work_key(training, base)
    version = of.clients.registry.find(of.tenant, of.spec.name, key)
    judged = None if version is None else _earlier_judgement(of, version)
    if version is not None and judged is not None:
        return {
            "decision": "unchanged",
            "reason": f"unchanged: the same data and specification as version {version.number} ({judged})",
            "version": f"{version.number} ({version.semantic})",
        }
    trained = _fit(training, rows, base, key)
    if version is None:
        version = register(training, trained, rows, key, base)
    return judge_candidate(training, Candidate(trained, version, rows, snapshot.as_of, note))


def _refusal(spec: ModelSpec, rows: pd.DataFrame, snapshot: Snapshot) -> Decision | None:
    """Why no model is trained on the rows: too few matured outcomes, or a failed quality gate; None if one is."""
    needed, matured = spec.training.min_rows, int(own_outcomes(rows).sum())
    numbers: dict[str, float | int | str | None] = {
        "matured": matured,
        "needed": needed,
        "quality": snapshot.quality["score"],
    }
    if matured < needed:
        return Decision("insufficient_data", f"insufficient_data: {matured} of {needed} matured samples", numbers)
    failed = failed_gates(spec.gate, snapshot.quality)
    if failed:
        numbers |= {gate.name: gate.score for gate in failed} | {f"min_{gate.name}": gate.needed for gate in failed}
        return Decision("low_quality", "low_quality: " + "; ".join(gate.sentence() for gate in failed), numbers)
    return None


def _version_to_update(of: TenantModel) -> Version | None:
    """The champion, if more trees can be added to it; None if a full training is needed."""
    champion = of.clients.registry.aliased(of.tenant, of.spec.name)
    if champion is None or not is_compatible(of.spec, champion):
        return None
    model, _ = load_version(of.clients, of.spec, champion)
    return None if isinstance(model.predictor, Baseline) or updates_left(of.spec, model) == 0 else champion


def _work_key(training: Training, base: Version | None) -> str:
    """Identifies the work by everything that determines its result."""
    work = f"{training.snapshot.hash}{training.of.spec.hash}" + (f"update of {base.number}" if base else "")
    if training.changed_at is not None:
        work += f"since {training.changed_at}"
    return hashlib.sha256(work.encode()).hexdigest()


def _earlier_judgement(of: TenantModel, version: Version) -> str | None:
    """The recorded reason for a version's verdict; None if a crash came between registration and record."""
    table = tables.decisions
    query = sa.select(table.c.reason).where(
        table.c.tenant_id == of.tenant,
        table.c.model == of.spec.name,
        table.c.kind == "promote",
        table.c.version == version.number,
    )
    with of.clients.warehouse.tenant(of.tenant) as connection:
        reason: str | None = connection.scalar(query.limit(1))
    return reason


def _fit(training: Training, rows: pd.DataFrame, base: Version | None, key: str) -> Trained:
    of, as_of = training.of, training.snapshot.as_of
    if base is not None:
        model, _ = load_version(of.clients, of.spec, base)
        return update(of.spec, model, rows, as_of, dt.datetime.fromisoformat(base.as_of))
    versions = of.clients.registry.versions(of.tenant, of.spec.name) if of.spec.training.search else []
    # The work may be repeated after an interruption: the gain of its own version is not part of its past.
    past = [version for version in versions if version.tags.get("key") != key]
    shared = pooled(of.clients.warehouse, of.spec, of.tenant, as_of)
    with training_context(of.clients.settings, of.spec, past, shared) as context:
        return train(of.spec, rows, as_of, context=context)
