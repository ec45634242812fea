"""Features, model and predictions of one tenant."""

from __future__ import annotations

import datetime as dt
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from ml_pipeline.features.point_in_time import build
from ml_pipeline.features.quality import assess
from ml_pipeline.features.windows import training_window
from ml_pipeline.lifecycle.promotion import Decision, Evidence, judge, losses
from ml_pipeline.lifecycle.versions import Contract, next_semantic
from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import CHALLENGER, TamperedArtifact, Version, registered_name
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec
from ml_pipeline.training.train import MEDIAN, PRIOR, RECENT_MEDIAN, Trained, failures, train
from ml_pipeline.training.version import FittedModel
from ml_pipeline.work.context import Doors, moment_of
from ml_pipeline.work.deployment import OPEN, PROMOTE
from ml_pipeline.work.records import json_safe, raise_alert, record_decision
from ml_pipeline.work.version_files import comparison, contract_of, logged_metrics, read_files, write_files

FEATURES, MODEL, PREDICTIONS = "features", "model", "predictions"
STEPS = (FEATURES, MODEL, PREDICTIONS)


@dataclass(frozen=True)
class TrainingTask:
    """One tenant's share of a training run: which of the steps, standing at which moment."""

    settings: Settings
    spec: ModelSpec
    tenant: str
    as_of: str
    steps: tuple[str, ...] = STEPS


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
    return report


class _TenantModel:
    """One tenant and model at one moment. The source is read and the features are built once for all steps."""

    def __init__(self, task: TrainingTask) -> None:
        self.task = task
        self.spec = task.spec
        self.tenant = task.tenant
        self.doors = Doors(task.settings)

    @cached_property
    def _current(self) -> tuple[pd.DataFrame, pd.DataFrame, dt.datetime]:
        """Source rows, feature frame and moment."""
        rows = self.doors.warehouse.read_source(self.spec, self.tenant)
        moment = moment_of(self.task.as_of, self.spec, rows)
        return rows, build(self.spec, rows, moment), moment

    def features(self) -> dict[str, Any]:
        """Source rows to a frozen feature snapshot with a quality report."""
        rows, frame, moment = self._current
        quality = assess(self.spec, rows, frame, moment)
        digest, url = self.doors.snapshots.write(self.tenant, self.spec.name, frame)
        matured = int((frame["state"] == "matured").sum())
        with self.doors.warehouse.tenant(self.tenant) as connection:
            self.doors.warehouse.upsert(
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
                        "quality": json_safe(quality.to_dict()),
                        "created_at": dt.datetime.now(dt.UTC),
                    }
                ],
            )
        worst = min(quality.measures, key=lambda measure: measure.score)
        return {
            "rows": len(frame),
            "matured": matured,
            "open": int((frame["state"] == "open").sum()),
            "quality": round(quality.score, 1),
            "weakest measure": f"{worst.name} ({worst.score:.0f} of 100). {worst.recommendation}",
            "as of": moment.isoformat(),
            "snapshot": digest[:24],
        }

    def _latest_snapshot(self) -> sa.RowMapping:
        table = tables.feature_sets
        query = (
            sa.select(table)
            .where(table.c.tenant_id == self.tenant, table.c.model == self.spec.name)
            .order_by(table.c.created_at.desc())
            .limit(1)
        )
        with self.doors.warehouse.tenant(self.tenant) as connection:
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
        with self.doors.warehouse.alone(self.tenant, f"train {self.spec.name}"):
            return self._trained_and_judged()

    def _trained_and_judged(self) -> dict[str, Any]:
        snapshot, frame, moment = self._snapshot
        rows, note = training_window(self.spec, frame, moment)
        refusal = self._refusal(rows, snapshot["quality_score"])
        if refusal is not None:
            return self._held(refusal, moment)
        key = hashlib.sha256(f"{snapshot['snapshot_hash']}{self.spec.hash}".encode()).hexdigest()
        existing = self.doors.registry.find(self.tenant, self.spec.name, key)
        if existing is not None:
            return self._settled(existing, moment)
        trained = train(self.spec, rows, moment)
        version = self._register(trained, key, snapshot["snapshot_hash"], moment)
        return self._judge(trained, version, moment, note)

    def _refusal(self, rows: pd.DataFrame, quality: float) -> Decision | None:
        needed, minimum = self.spec.training.min_rows, self.spec.gate.min_quality
        numbers: dict[str, float | int | str | None] = {"matured": len(rows), "needed": needed, "quality": quality}
        if len(rows) < needed:
            return Decision("insufficient_data", f"insufficient_data: {len(rows)} of {needed} matured samples", numbers)
        if quality < minimum:
            reason = f"low_quality: data quality {quality:.0f} of 100, needed {minimum:.0f}"
            return Decision("low_quality", reason, numbers | {"min_quality": minimum})
        return None

    def _held(self, decision: Decision, moment: dt.datetime) -> dict[str, Any]:
        self._record("train", decision, moment, version=None)
        return {"decision": decision.verdict, "reason": decision.reason}

    def _record(self, kind: str, decision: Decision, moment: dt.datetime, version: int | None) -> None:
        with self.doors.warehouse.tenant(self.tenant) as connection:
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

    def _register(self, trained: Trained, key: str, snapshot_hash: str, moment: dt.datetime) -> Version:
        parent = next(iter(self.doors.registry.versions(self.tenant, self.spec.name)), None)
        contract = contract_of(self.spec)
        parent_contract = Contract(parent.tags["question_hash"], parent.tags["spec_hash"]) if parent else None
        with TemporaryDirectory(prefix="ml-pipeline-") as folder:
            path = Path(folder) / "model"
            write_files(path, self.spec, trained)
            return self.doors.registry.register(
                self.tenant,
                self.spec.name,
                path,
                key=key,
                semantic=next_semantic(parent.semantic if parent else None, parent_contract, contract),
                as_of=moment.isoformat(),
                metrics=logged_metrics(trained),
                params={"candidate": trained.candidate, **self.spec.training.params, "loss": self.spec.training.loss},
                tags={
                    "candidate": trained.candidate,
                    "snapshot_hash": snapshot_hash,
                    "spec_hash": contract.specification,
                    "question_hash": contract.question,
                    "parent_version": str(parent.number) if parent else "",
                    "rows": str(trained.rows["all"]),
                },
            )

    def _judge(self, trained: Trained, version: Version, moment: dt.datetime, window: str | None) -> dict[str, Any]:
        metric = self.spec.headline_metric
        champion = self.doors.registry.aliased(self.tenant, self.spec.name)
        if champion is not None and (champion.number == version.number or not self._answers(champion)):
            champion = None  # the version itself, cut off after the alias had moved, or one of other features or labels
        ours, theirs = np.empty(0), np.empty(0)
        if champion is not None:
            ours, theirs = self._paired_losses(trained.test_predictions, champion)
        decision = judge(
            Evidence(
                metric=metric,
                value=trained.metrics[metric],
                baseline_value=trained.baseline_metrics[metric],
                min_skill=self.spec.gate.min_skill,
                candidate_is_constant=trained.candidate in (MEDIAN, RECENT_MEDIAN, PRIOR),
                losses=ours,
                champion_losses=theirs,
                champion=champion.number if champion else None,
            )
        )
        if champion is not None and pd.Timestamp(champion.as_of) > pd.Timestamp(moment):
            reason = f"older_than_champion: version {champion.number} was trained on what was known at {champion.as_of}"
            decision = Decision("reject", reason, decision.numbers)
        numbers = decision.numbers | {"rows": trained.rows["all"], "candidate": trained.candidate}
        reason = "; ".join(filter(None, [decision.reason, window, *failures(trained.candidates)]))
        decision = Decision(decision.verdict, reason, numbers)
        self.doors.registry.tag(version, "decision", decision.reason)
        if decision.verdict == "promote":
            self.doors.deployer.deploy(
                self.tenant, self.spec.name, version.number, action=PROMOTE, reason=decision.reason, as_of=moment
            )
        else:
            self.doors.registry.set_alias(self.tenant, self.spec.name, CHALLENGER, version.number)
        # Recorded last: a version without this record was cut off, and is judged when its work comes again.
        self._record("promote", decision, moment, version.number)
        return {
            "decision": decision.verdict,
            "reason": decision.reason,
            "version": f"{version.number} ({version.semantic})",
            "rows": trained.rows["all"],
            metric: trained.metrics[metric],
            f"{metric} of the constant": trained.baseline_metrics[metric],
            "skill": decision.numbers["skill"],
            "candidate": trained.candidate,
            "seconds": round(trained.seconds, 2),
            "notes": "; ".join(trained.notes),
            "test": comparison(trained),
            "MLflow": self.task.settings.version_page(registered_name(self.spec.name, self.tenant), version.number),
        }

    def _settled(self, version: Version, moment: dt.datetime) -> dict[str, Any]:
        """The same snapshot and specification again: nothing is trained, a judgement that was cut off is made up."""
        table = tables.decisions
        query = sa.select(table.c.verdict, table.c.reason).where(
            table.c.tenant_id == self.tenant,
            table.c.model == self.spec.name,
            table.c.kind == "promote",
            table.c.version == version.number,
        )
        with self.doors.warehouse.tenant(self.tenant) as connection:
            judged = connection.execute(query.limit(1)).first()
        if judged is None:
            _, frame, _ = self._snapshot
            rows, window = training_window(self.spec, frame, moment)
            return self._judge(train(self.spec, rows, moment), version, moment, window)
        return {
            "decision": "unchanged",
            "reason": f"unchanged: the same data and specification as version {version.number} ({judged.reason})",
            "version": f"{version.number} ({version.semantic})",
        }

    def _load(self, version: Version) -> tuple[FittedModel, pd.DataFrame]:
        """The fitted model of a version, and its own out-of-sample test predictions."""
        try:
            with self.doors.registry.files(version) as folder:
                return read_files(folder)
        except TamperedArtifact as error:
            with self.doors.warehouse.tenant(self.tenant) as connection:
                raise_alert(
                    connection,
                    self.tenant,
                    self.spec.name,
                    kind="tampered_artifact",
                    level="CRITICAL",
                    message=str(error),
                    as_of=dt.datetime.now(dt.UTC),
                    detail={"version": version.number, "source": version.source},
                )
            raise

    def _paired_losses(self, test: pd.DataFrame, champion: Version) -> tuple[np.ndarray, np.ndarray]:
        """Losses of challenger and champion on the test entities for which neither had seen the outcome.

        What matured after the champion was trained is scored by it; of the rest, the entities of its own test part
        count with the prediction it made before it was refitted on them.
        """
        model, own_test = self._load(champion)
        unseen = (test["label_time"] > pd.Timestamp(champion.as_of)).to_numpy()
        theirs = test["entity_id"].map(own_test.set_index("entity_id")["value"]).to_numpy(dtype=float, copy=True)
        if unseen.any():
            _, frame, _ = self._snapshot
            entities = frame.set_index("entity_id").loc[test["entity_id"][unseen]].reset_index()
            theirs[unseen] = model.predict(entities)["value"].to_numpy()
        known = np.isfinite(theirs)
        label = test["label"].to_numpy()[known]
        task = self.spec.task
        return losses(task, label, test["value"].to_numpy()[known]), losses(task, label, theirs[known])

    @cached_property
    def _snapshot(self) -> tuple[sa.RowMapping, pd.DataFrame, dt.datetime]:
        """The newest snapshot, its frame and moment: the same throughout, whatever another run stores meanwhile."""
        snapshot = self._latest_snapshot()
        return snapshot, self.doors.snapshots.read(snapshot["path"], snapshot["snapshot_hash"]), snapshot["as_of"]

    def predictions(self) -> dict[str, Any]:
        """Scores the open entities that the champion has not scored yet."""
        champion = self.doors.registry.aliased(self.tenant, self.spec.name)
        if champion is None:
            return {"scored": 0, "reason": "no version serves: see the decision of the model"}
        if not self._answers(champion):
            reason = f"version {champion.number} answers another question: the specification has changed since"
            return {"scored": 0, "reason": f"{reason}. Materialize {self.spec.name}/model, and see its decision"}
        _, frame, moment = self._current
        if pd.Timestamp(champion.as_of) > moment:
            known = f"version {champion.number} was trained on what was known at {champion.as_of}"
            return {"scored": 0, "reason": f"{known}, after {moment.isoformat()}: it cannot predict for that time"}
        scored, seconds = self._score(champion, "live", moment)
        shadow = self._watched_predecessor(champion)
        if shadow is not None:
            self._score(shadow, "shadow", moment)
        return {
            "scored": scored,
            "open": int((frame["state"] == "open").sum()),
            "version": champion.number,
            "seconds": round(seconds, 4),
            "in shadow": f"version {shadow.number}, while version {champion.number} is watched" if shadow else None,
        }

    def _score(self, version: Version, origin: str, moment: dt.datetime) -> tuple[int, float]:
        """Logs a version's predictions of the open entities that it has not scored; how many, and in which time."""
        _, frame, _ = self._current
        oldest = pd.Timestamp(moment) - pd.Timedelta(days=self.spec.max_open_days)
        waiting = frame[(frame["state"] == "open") & (frame["event_time"] >= oldest)]
        waiting = waiting[~waiting["entity_id"].isin(self._scored(version, origin))]
        if waiting.empty:
            return 0, 0.0
        model, _ = self._load(version)
        started = time.perf_counter()
        values = model.predict(waiting)
        seconds = time.perf_counter() - started
        self._log_predictions(version, waiting, values, moment, 1000 * seconds / len(waiting), origin)
        return len(waiting), seconds

    def _watched_predecessor(self, champion: Version) -> Version | None:
        """The version that the champion replaced, while it is not decided whether the champion is worse."""
        table = tables.deployments
        query = sa.select(table.c.replaced).where(
            table.c.tenant_id == self.tenant,
            table.c.model == self.spec.name,
            table.c.version == champion.number,
            table.c.watch == OPEN,
        )
        with self.doors.warehouse.tenant(self.tenant) as connection:
            replaced = connection.scalar(query.limit(1))
        if replaced is None:
            return None
        previous = self.doors.registry.version(self.tenant, self.spec.name, replaced)
        return previous if self._answers(previous) else None

    def _answers(self, version: Version) -> bool:
        """Whether the version answers the specification's question, with these features and in this unit."""
        return version.tags["question_hash"] == contract_of(self.spec).question

    def _scored(self, version: Version, origin: str) -> list[str]:
        """Entities whose newest live prediction is the version's; for a shadow, those that it has predicted at all.

        A version that serves again after a rollback predicts anew what the version between them had predicted.
        """
        table = tables.predictions
        own = (table.c.tenant_id == self.tenant, table.c.model == self.spec.name)
        if origin == "shadow":
            query = sa.select(table.c.entity_id).where(
                *own, table.c.version == version.number, table.c.origin.in_(["live", "shadow"])
            )
        else:
            newest = (
                sa.select(table.c.entity_id, table.c.version)
                .distinct(table.c.entity_id)
                .where(*own, table.c.origin == "live")
                .order_by(table.c.entity_id, table.c.predicted_at.desc(), table.c.version.desc())
                .subquery()
            )
            query = sa.select(newest.c.entity_id).where(newest.c.version == version.number)
        with self.doors.warehouse.tenant(self.tenant) as connection:
            return list(connection.scalars(query))

    def _log_predictions(
        self,
        version: Version,
        entities: pd.DataFrame,
        values: pd.DataFrame,
        moment: dt.datetime,
        latency_ms: float,
        origin: str,
    ) -> None:
        columns = self.spec.feature_columns
        used = json_safe(entities[[*columns.numeric, *columns.categorical]].to_dict("records"))
        rows = [
            {
                "tenant_id": self.tenant,
                "model": self.spec.name,
                "entity_id": entity,
                "origin": origin,
                "version": version.number,
                "event_time": event_time,
                "predicted_at": moment,
                "features": features if origin == "live" else None,  # a shadow's are those of the champion's row
                "latency_ms": latency_ms,
                **prediction,
            }
            for entity, event_time, features, prediction in zip(
                entities["entity_id"],
                entities["event_time"].dt.to_pydatetime(),
                used,
                json_safe(values.to_dict("records")),
                strict=True,
            )
        ]
        with self.doors.warehouse.tenant(self.tenant) as connection:
            self.doors.warehouse.upsert(connection, tables.predictions, rows)
