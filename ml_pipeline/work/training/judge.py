"""Judges a registered version against the baseline and the champion, and deploys it if it is better."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ml_pipeline.lifecycle import promotion
from ml_pipeline.lifecycle.promotion import FALL_BACK, Decision
from ml_pipeline.resources.registry import CHALLENGER, Version, registered_name
from ml_pipeline.training.evidence import Opponent, evidence_of
from ml_pipeline.training.selection.model_selection import failures
from ml_pipeline.training.trained import Trained, baseline_instead
from ml_pipeline.work.deployment.deployer import PROMOTE
from ml_pipeline.work.retraining.decisions import DecisionRecord, record_decision
from ml_pipeline.work.scoring import is_compatible, load_version
from ml_pipeline.work.training.register import TRAIN, Training, register
from ml_pipeline.work.training.snapshot import TenantModel
from ml_pipeline.work.training.version_files import comparison


@dataclass(frozen=True)
class Candidate:
    """A registered version that is to be judged, and the rows that it was fitted on.

    ``note`` says which part of the snapshot these rows are; None if they are all of it.
    """

    trained: Trained
    version: Version
    rows: pd.DataFrame
    as_of: dt.datetime
    note: str | None


def judge_candidate(training: Training, candidate: Candidate) -> dict[str, Any]:
    """Promotes the candidate, rejects it, or replaces the champion by the baseline; returns metadata for people."""
    decision = _decision(training, candidate)
    if decision.verdict == FALL_BACK:
        return _fall_back(training, candidate, decision)
    of, version = training.of, candidate.version
    of.clients.registry.tag(version, "decision", decision.reason)
    if decision.verdict == "promote":
        _deploy(training, version, decision)
    else:
        of.clients.registry.set_alias(of.tenant, of.spec.name, CHALLENGER, version.number)
    # Recorded last: if this process dies before, the version has no record and is judged again.
    record(of, "promote", decision, candidate.as_of, version.number)
    return _metadata(of, candidate.trained, version, decision)


def record(of: TenantModel, kind: str, decision: Decision, as_of: dt.datetime, version: int | None) -> None:
    """Stores a decision about the tenant's model."""
    with of.clients.warehouse.tenant(of.tenant) as connection:
        record_decision(
            connection,
            DecisionRecord(
                of.tenant,
                of.spec.name,
                kind=kind,
                verdict=decision.verdict,
                reason=decision.reason,
                as_of=as_of,
                numbers=decision.numbers,
                version=version,
            ),
        )


def _decision(training: Training, candidate: Candidate) -> Decision:
    of, trained, version = training.of, candidate.trained, candidate.version
    champion = of.clients.registry.aliased(of.tenant, of.spec.name)
    if champion is not None and (champion.number == version.number or not is_compatible(of.spec, champion)):
        champion = None  # the version itself, after an interruption, or one with other features or labels
    opponent = None
    if champion is not None:
        model, own_test = load_version(of.clients, of.spec, champion)
        opponent = Opponent(champion.number, model, own_test, dt.datetime.fromisoformat(champion.as_of))
    frame = training.snapshot.frame
    decision = promotion.judge(evidence_of(of.spec, trained, opponent, frame, training.changed_at))
    if champion is not None and pd.Timestamp(champion.as_of) > pd.Timestamp(candidate.as_of):
        reason = f"older_than_champion: version {champion.number} was trained on what was known at {champion.as_of}"
        decision = Decision("reject", reason, decision.numbers)
    numbers = decision.numbers | {"rows": trained.rows["all"], "candidate": trained.candidate}
    numbers |= {"action": version.tags.get("action", TRAIN)}
    reason = "; ".join(filter(None, [decision.reason, candidate.note, *failures(trained.candidates)]))
    return Decision(decision.verdict, reason, numbers)


def _deploy(training: Training, version: Version, decision: Decision) -> None:
    of = training.of
    of.clients.deployer.deploy(
        of.tenant, of.spec.name, version.number, action=PROMOTE, reason=decision.reason, as_of=training.serves_from
    )


def _fall_back(training: Training, candidate: Candidate, decision: Decision) -> dict[str, Any]:
    """Deploys the baseline, as a version of its own, instead of a champion that is worse than the baseline."""
    of, version, as_of = training.of, candidate.version, candidate.as_of
    baseline, serving = baseline_instead(of.spec, candidate.trained), version
    if baseline is not candidate.trained:
        key = hashlib.sha256(f"{version.tags['key']}constant".encode()).hexdigest()
        serving = register(training, baseline, candidate.rows, key, None)
    for number in {version.number, serving.number}:
        found = of.clients.registry.version(of.tenant, of.spec.name, number)
        of.clients.registry.tag(found, "decision", decision.reason)
    _deploy(training, serving, decision)
    if serving is not version:
        record(of, "promote", replace(decision, verdict="reject"), as_of, version.number)
    numbers = decision.numbers | {"value": decision.numbers["baseline_value"], "skill": 0.0}
    numbers |= {"candidate": baseline.candidate}
    for metric in of.spec.business_metrics:
        numbers[f"business_{metric.name}"] = decision.numbers[f"business_{metric.name}_baseline"]
    decision = replace(decision, numbers=numbers)
    record(of, "promote", decision, as_of, serving.number)
    return _metadata(of, baseline, serving, decision)


def _metadata(of: TenantModel, trained: Trained, version: Version, decision: Decision) -> dict[str, Any]:
    metric = of.spec.headline_metric
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
        "MLflow": of.clients.settings.version_page(registered_name(of.spec.name, of.tenant), version.number),
    }
