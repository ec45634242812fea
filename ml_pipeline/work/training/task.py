"""Features, model and predictions of one tenant."""

from __future__ import annotations

import datetime as dt
import hashlib
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd
import sqlalchemy as sa

from ml_pipeline.features.feedback import VERDICT, own_outcomes, with_feedback
from ml_pipeline.features.point_in_time import build, repeated_rows
from ml_pipeline.features.quality.gates import failed_gates
from ml_pipeline.features.quality.measures import assess
from ml_pipeline.lifecycle.promotion import FALL_BACK, Decision, judge
from ml_pipeline.lifecycle.versions import SpecFingerprint, next_semantic
from ml_pipeline.resources import cores, tables
from ml_pipeline.resources.registry import CHALLENGER, Version, registered_name
from ml_pipeline.resources.scratch import scratch_folder
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.evidence import Opponent, evidence_of
from ml_pipeline.training.reporting.card import Origin, summary
from ml_pipeline.training.selection.predictors import Baseline
from ml_pipeline.training.train import Trained, baseline_instead, failures, train
from ml_pipeline.training.training_window import choose_training_window
from ml_pipeline.training.update import update, updates_left
from ml_pipeline.work.context import LATEST, Clients, resolve_as_of
from ml_pipeline.work.deployment.deployer import PROMOTE
from ml_pipeline.work.feedback import read_feedback
from ml_pipeline.work.monitoring.report_store import json_safe
from ml_pipeline.work.retraining.decide import DONE, FAILED, settle
from ml_pipeline.work.retraining.decisions import record_decision
from ml_pipeline.work.scoring import is_compatible, load_version, score_open_entities
from ml_pipeline.work.tenant_settings import spec_for
from ml_pipeline.work.training.search import end_search, search_params, search_tags, training_context
from ml_pipeline.work.training.sharing import pooled, typical
from ml_pipeline.work.training.version_files import comparison, fingerprint_of, logged_metrics, write_files

FEATURES, MODEL, PREDICTIONS = "features", "model", "predictions"
STEPS = (FEATURES, MODEL, PREDICTIONS)
TRAIN, UPDATE = "train", "update"
CHANGED_AT = "changed_at"  # tag of a version that was trained on what came since a change of the outcomes


@dataclass(frozen=True)
class TrainingTask:
    """One tenant's share of a training run: which of the steps, standing at which moment."""

    settings: Settings
    spec: ModelSpec
    tenant: str
    as_of: str
    steps: tuple[str, ...] = STEPS
    decision: str = ""  # identifier of the decision that asked for it, if one did
    action: str = TRAIN
    plots: bool = False  # whether a picture is drawn of the version that is registered


@dataclass
class TaskReport:
    """What a tenant's task did, step by step, and the error that ended it."""

    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str | None = None


class SnapshotUnknown(Exception):
    """A model is to be trained for a tenant that has no feature snapshot."""


def run_training(task: TrainingTask) -> TaskReport:
    """Runs the steps of one tenant in order; what was done before an error stays done and is reported."""
    report = TaskReport()
    tenant = _TenantModel(task)
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
            report.error = f"{step}: {type(error).__name__}: {error}"
            break
    if task.decision:
        settle(tenant.clients.warehouse, task.tenant, uuid.UUID(task.decision), FAILED if report.error else DONE)
    return report


class _TenantModel:
    """One tenant and model at one moment. The source is read and the features are built once for all steps."""

    def __init__(self, task: TrainingTask) -> None:
        self.task = task
        self.tenant = task.tenant
        self.clients = Clients(task.settings)

    @cached_property
    def spec(self) -> ModelSpec:
        return spec_for(self.clients.warehouse, self.task.spec, self.tenant)

    @cached_property
    def _current(self) -> tuple[pd.DataFrame, pd.DataFrame, dt.datetime]:
        """Source rows, feature frame and moment."""
        rows = self.clients.warehouse.read_source(self.spec, self.tenant)
        moment = resolve_as_of(self.task.as_of, self.spec, rows)
        return rows, build(self.spec, rows, moment), moment

    def features(self) -> dict[str, Any]:
        """Source rows to a frozen feature snapshot with a quality report."""
        rows, frame, moment = self._current
        repeated = repeated_rows(self.spec, rows, moment)
        quality = assess(self.spec, rows, frame, moment)
        stored_quality = quality.to_dict()
        kept = self._with_feedback(frame, moment)
        digest, url = self.clients.snapshots.write(self.tenant, self.spec.name, kept)
        matured = int((frame["state"] == "matured").sum())
        with self.clients.warehouse.tenant(self.tenant) as connection:
            self.clients.warehouse.upsert(
                connection,
                tables.feature_sets,
                [
                    {
                        "tenant_id": self.tenant,
                        "model": self.spec.name,
                        "snapshot_hash": digest,
                        "as_of": moment,
                        "rows": len(frame),
                        "matured": matured,
                        "path": url,
                        "quality_score": quality.score,
                        "quality": json_safe(stored_quality),
                        "typical": typical(self.spec, kept),
                        "created_at": dt.datetime.now(dt.UTC),
                    }
                ],
            )
        worst = min(quality.measures, key=lambda measure: measure.score)
        return {
            "rows": len(frame),
            "matured": matured,
            "open": int((frame["state"] == "open").sum()),
            "rows left out, repeating an entity": repeated or None,
            "labels from feedback": int(kept[VERDICT].notna().sum()) if VERDICT in kept else None,
            "quality": round(quality.score, 1),
            "weakest measure": f"{worst.name} ({worst.score:.0f} of 100). {worst.recommendation or ''}".strip(),
            "failed gates": "; ".join(gate.sentence() for gate in failed_gates(self.spec.gate, stored_quality)),
            "patterns": quality.patterns.sentence(),
            "as of": moment.isoformat(),
            "snapshot": digest[:24],
        }

    def _with_feedback(self, frame: pd.DataFrame, moment: dt.datetime) -> pd.DataFrame:
        """The frame as it is trained on: with people's feedback, where the specification says so."""
        if not self.spec.label.feedback:
            return frame
        return with_feedback(
            self.spec, frame, read_feedback(self.clients.warehouse, self.spec, self.tenant, moment), moment
        )

    def _latest_snapshot(self) -> sa.RowMapping:
        table = tables.feature_sets
        query = (
            sa.select(table)
            .where(table.c.tenant_id == self.tenant, table.c.model == self.spec.name)
            .order_by(table.c.sequence.desc())
            .limit(1)
        )
        with self.clients.warehouse.tenant(self.tenant) as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise SnapshotUnknown(
                f"tenant {self.tenant}, model {self.spec.name}: there is no feature snapshot. "
                f"Materialize {self.spec.name}/features for it first"
            )
        return row

    def model(self) -> dict[str, Any]:
        """Newest snapshot to a registered version and a decision whether it serves.

        One run at a time does this for a tenant: two would register the same work twice.
        """
        settings = self.task.settings
        with (
            self.clients.warehouse.advisory_lock(self.tenant, f"train {self.spec.name}"),
            cores.acquire_cores(settings, 1),
        ):
            report = self._trained_and_judged()
            end_search(settings, self.spec, self.tenant)
        return report

    def _trained_and_judged(self) -> dict[str, Any]:
        snapshot, frame, moment = self._snapshot
        rows, note = choose_training_window(self.spec, frame, moment, self._changed_at)
        refusal = self._refusal(rows, snapshot["quality"])
        if refusal is not None:
            return self._held(refusal, moment)
        base = self._to_update()
        work = f"{snapshot['snapshot_hash']}{self.spec.hash}" + (f"update of {base.number}" if base else "")
        if self._changed_at is not None:
            work += f"since {self._changed_at}"
        key = hashlib.sha256(work.encode()).hexdigest()
        existing = self.clients.registry.find(self.tenant, self.spec.name, key)
        if existing is not None:
            return self._resume_existing(existing, moment, base)
        trained = self._fitted(rows, moment, base, key)
        version = self._register(trained, key, snapshot["snapshot_hash"], moment, rows, base)
        return self._judge(trained, version, moment, rows, note)

    def _to_update(self) -> Version | None:
        """The champion, where the decision was to update it and it can go on learning; else a training is made."""
        if self.task.action != UPDATE:
            return None
        champion = self.clients.registry.aliased(self.tenant, self.spec.name)
        if champion is None or not is_compatible(self.spec, champion):
            return None
        model, _ = load_version(self.clients, self.spec, champion)
        is_constant = isinstance(model.predictor, Baseline)
        return None if is_constant or updates_left(self.spec, model) == 0 else champion

    def _fitted(self, rows: pd.DataFrame, moment: dt.datetime, base: Version | None, key: str) -> Trained:
        if base is None:
            # What the version itself gained, where it is made again to be judged, is no past of its own.
            versions = self._versions() if self.spec.training.search else []
            past = [version for version in versions if version.tags.get("key") != key]
            shared = pooled(self.clients.warehouse, self.spec, self.tenant, moment)
            with training_context(self.task.settings, self.spec, self.tenant, key, past, shared) as context:
                return train(self.spec, rows, moment, context=context)
        model, _ = load_version(self.clients, self.spec, base)
        return update(self.spec, model, rows, moment, dt.datetime.fromisoformat(base.as_of))

    def _versions(self) -> list[Version]:
        return self.clients.registry.versions(self.tenant, self.spec.name)

    def _refusal(self, rows: pd.DataFrame, quality: Mapping[str, Any]) -> Decision | None:
        needed, matured = self.spec.training.min_rows, int(own_outcomes(rows).sum())
        numbers: dict[str, float | int | str | None] = {
            "matured": matured,
            "needed": needed,
            "quality": quality["score"],
        }
        if matured < needed:
            return Decision("insufficient_data", f"insufficient_data: {matured} of {needed} matured samples", numbers)
        failed = failed_gates(self.spec.gate, quality)
        if failed:
            numbers |= {gate.name: gate.score for gate in failed} | {f"min_{gate.name}": gate.needed for gate in failed}
            return Decision("low_quality", "low_quality: " + "; ".join(gate.sentence() for gate in failed), numbers)
        return None

    def _held(self, decision: Decision, moment: dt.datetime) -> dict[str, Any]:
        self._record("train", decision, moment, version=None)
        return {"decision": decision.verdict, "reason": decision.reason}

    def _record(self, kind: str, decision: Decision, moment: dt.datetime, version: int | None) -> None:
        with self.clients.warehouse.tenant(self.tenant) as connection:
            record_decision(
                connection,
                self.tenant,
                self.spec.name,
                kind=kind,
                verdict=decision.verdict,
                reason=decision.reason,
                as_of=moment,
                numbers=decision.numbers,
                version=version,
            )

    def _register(
        self,
        trained: Trained,
        key: str,
        snapshot_hash: str,
        moment: dt.datetime,
        rows: pd.DataFrame,
        base: Version | None,
    ) -> Version:
        parent = base or next(iter(self._versions()), None)
        fingerprint = fingerprint_of(self.spec)
        parent_fingerprint = SpecFingerprint(parent.tags["question_hash"], parent.tags["spec_hash"]) if parent else None
        trigger = self._cause()
        origin = Origin(
            tenant=self.tenant,
            semantic=next_semantic(parent.semantic if parent else None, parent_fingerprint, fingerprint),
            as_of=moment.isoformat(),
            snapshot_hash=snapshot_hash,
            action=UPDATE if base else TRAIN,
            parent=base.number if base else None,
            quality=self._snapshot[0]["quality"],
            why=trigger.get("why", ""),
        )
        with scratch_folder() as folder:
            path = folder / "model"
            write_files(path, self.spec, trained, rows, origin, plots=self.task.plots)
            return self.clients.registry.register(
                self.tenant,
                self.spec.name,
                path,
                key=key,
                semantic=origin.semantic,
                as_of=origin.as_of,
                description=summary(self.spec, trained),
                metrics=logged_metrics(trained),
                params={
                    "candidate": trained.candidate,
                    **search_params(self.spec, trained),
                    "loss": self.spec.training.loss,
                },
                tags={
                    "candidate": trained.candidate,
                    "snapshot_hash": snapshot_hash,
                    "spec_hash": fingerprint.specification,
                    "question_hash": fingerprint.question,
                    "parent_version": str(parent.number) if parent else "",
                    "rows": str(trained.rows["all"]),
                    "action": origin.action,
                    **search_tags(trained),
                    **self._change_learnt(rows),
                    **trigger,
                },
            )

    @cached_property
    def _retraining_request(self) -> sa.RowMapping | None:
        """The decision that asked for this training; None where a person or a schedule of their own did."""
        if not self.task.decision:
            return None
        table = tables.decisions
        query = sa.select(table.c.reason, table.c.numbers).where(
            table.c.tenant_id == self.tenant, table.c.decision_id == uuid.UUID(self.task.decision)
        )
        with self.clients.warehouse.tenant(self.tenant) as connection:
            return connection.execute(query).mappings().first()

    @cached_property
    def _changed_at(self) -> dt.datetime | None:
        """Since when outcomes are others: as the decision that asked for this says, or as the champion was trained."""
        if self._retraining_request is not None and self._retraining_request["numbers"].get("since"):
            return dt.datetime.fromisoformat(self._retraining_request["numbers"]["since"]).replace(tzinfo=dt.UTC)
        champion = self.clients.registry.aliased(self.tenant, self.spec.name)
        kept = champion.tags.get(CHANGED_AT) if champion is not None else None
        return dt.datetime.fromisoformat(kept) if kept else None

    def _change_learnt(self, rows: pd.DataFrame) -> dict[str, str]:
        """The tag of a version that was trained on what came since a change, so that the next ones are too."""
        if self._changed_at is None or rows["event_time"].min() < pd.Timestamp(self._changed_at):
            return {}
        return {CHANGED_AT: self._changed_at.isoformat()}

    def _cause(self) -> dict[str, str]:
        """Why it was trained, for MLflow's pages."""
        if self._retraining_request is None:
            return {}
        numbers = self._retraining_request["numbers"]
        trigger = {
            "trigger": numbers["trigger"],
            "severity": numbers["severity"] or "none",
            "why": self._retraining_request["reason"],
        }
        return trigger | {"asked_by": self.task.decision}

    def _judge(
        self, trained: Trained, version: Version, moment: dt.datetime, rows: pd.DataFrame, window: str | None
    ) -> dict[str, Any]:
        champion = self.clients.registry.aliased(self.tenant, self.spec.name)
        if champion is not None and (champion.number == version.number or not is_compatible(self.spec, champion)):
            champion = None  # the version itself, cut off after the alias had moved, or one of other features or labels
        _, frame, _ = self._snapshot
        opponent = None if champion is None else self._opponent(champion)
        decision = judge(evidence_of(self.spec, trained, opponent, frame, self._changed_at))
        if champion is not None and pd.Timestamp(champion.as_of) > pd.Timestamp(moment):
            reason = f"older_than_champion: version {champion.number} was trained on what was known at {champion.as_of}"
            decision = Decision("reject", reason, decision.numbers)
        numbers = decision.numbers | {"rows": trained.rows["all"], "candidate": trained.candidate}
        numbers |= {"action": version.tags.get("action", TRAIN)}
        reason = "; ".join(filter(None, [decision.reason, window, *failures(trained.candidates)]))
        decision = Decision(decision.verdict, reason, numbers)
        if decision.verdict == FALL_BACK:
            return self._fall_back(trained, version, moment, rows, decision)
        self.clients.registry.tag(version, "decision", decision.reason)
        if decision.verdict == "promote":
            self._deploy(version, decision, moment)
        else:
            self.clients.registry.set_alias(self.tenant, self.spec.name, CHALLENGER, version.number)
        # Recorded last: a version without this record was cut off, and is judged when its work comes again.
        self._record("promote", decision, moment, version.number)
        return self._metadata(trained, version, decision)

    def _opponent(self, champion: Version) -> Opponent:
        model, own_test = load_version(self.clients, self.spec, champion)
        return Opponent(champion.number, model, own_test, dt.datetime.fromisoformat(champion.as_of))

    def _deploy(self, version: Version, decision: Decision, moment: dt.datetime) -> None:
        # A snapshot may be older than the run: the version begins to serve now, not when its rows were frozen.
        begins = moment if self.task.as_of == LATEST else max(moment, dt.datetime.fromisoformat(self.task.as_of))
        self.clients.deployer.deploy(
            self.tenant, self.spec.name, version.number, action=PROMOTE, reason=decision.reason, as_of=begins
        )

    def _fall_back(
        self, trained: Trained, version: Version, moment: dt.datetime, rows: pd.DataFrame, decision: Decision
    ) -> dict[str, Any]:
        """The constant serves instead of a champion that is worse than it, as a version of its own."""
        constant, serving = baseline_instead(self.spec, trained), version
        if constant is not trained:
            key = hashlib.sha256(f"{version.tags['key']}constant".encode()).hexdigest()
            serving = self._register(constant, key, version.tags["snapshot_hash"], moment, rows, None)
        for number in {version.number, serving.number}:
            found = self.clients.registry.version(self.tenant, self.spec.name, number)
            self.clients.registry.tag(found, "decision", decision.reason)
        self._deploy(serving, decision, moment)
        if serving is not version:
            self._record("promote", Decision("reject", decision.reason, decision.numbers), moment, version.number)
        numbers = decision.numbers | {"value": decision.numbers["baseline_value"], "skill": 0.0}
        numbers |= {"candidate": constant.candidate}
        for asked in self.spec.business_metrics:
            numbers[f"business_{asked.name}"] = decision.numbers[f"business_{asked.name}_baseline"]
        decision = Decision(decision.verdict, decision.reason, numbers)
        self._record("promote", decision, moment, serving.number)
        return self._metadata(constant, serving, decision)

    def _metadata(self, trained: Trained, version: Version, decision: Decision) -> dict[str, Any]:
        metric = self.spec.headline_metric
        return {
            "decision": decision.verdict,
            "reason": decision.reason,
            "version": f"{version.number} ({version.semantic})",
            "rows": trained.rows["all"],
            metric: trained.metrics[metric],
            f"{metric} of the baseline": trained.baseline_metrics[metric],
            "skill": decision.numbers["skill"],
            "candidate": trained.candidate,
            "seconds": round(trained.seconds, 2),
            "notes": "; ".join(trained.notes),
            "test": comparison(trained),
            "MLflow": self.task.settings.version_page(registered_name(self.spec.name, self.tenant), version.number),
        }

    def _resume_existing(self, version: Version, moment: dt.datetime, base: Version | None) -> dict[str, Any]:
        """The same snapshot and specification again: nothing is trained, a judgement that was cut off is made up."""
        table = tables.decisions
        query = sa.select(table.c.verdict, table.c.reason).where(
            table.c.tenant_id == self.tenant,
            table.c.model == self.spec.name,
            table.c.kind == "promote",
            table.c.version == version.number,
        )
        with self.clients.warehouse.tenant(self.tenant) as connection:
            judged = connection.execute(query.limit(1)).first()
        if judged is None:
            _, frame, _ = self._snapshot
            rows, window = choose_training_window(self.spec, frame, moment, self._changed_at)
            trained = self._fitted(rows, moment, base, version.tags["key"])
            return self._judge(trained, version, moment, rows, window)
        return {
            "decision": "unchanged",
            "reason": f"unchanged: the same data and specification as version {version.number} ({judged.reason})",
            "version": f"{version.number} ({version.semantic})",
        }

    @cached_property
    def _snapshot(self) -> tuple[sa.RowMapping, pd.DataFrame, dt.datetime]:
        """The newest snapshot, its frame and moment: the same throughout, whatever another run stores meanwhile."""
        snapshot = self._latest_snapshot()
        frame = self.clients.snapshots.read(snapshot["path"], snapshot["snapshot_hash"], tenant=self.tenant)
        return snapshot, frame, snapshot["as_of"]

    def predictions(self) -> dict[str, Any]:
        """Scores the open entities that the champion has not scored yet."""
        _, frame, moment = self._current
        return score_open_entities(self.clients, self.spec, self.tenant, frame, moment)
