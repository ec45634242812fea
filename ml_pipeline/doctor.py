"""What is wrong with this installation, before a run finds out."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from ml_pipeline.lifecycle.policy import PolicyError
from ml_pipeline.resources.notifier import channels
from ml_pipeline.resources.postgres import DatabaseUnavailable
from ml_pipeline.resources.registry import Registry
from ml_pipeline.resources.snapshots import Snapshots, SnapshotUnusable
from ml_pipeline.resources.warehouse import SourceUnreadable, Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.specs import load_specs
from ml_pipeline.work.retraining import policy_of


@dataclass(frozen=True)
class Finding:
    """One thing that was checked."""

    what: str
    ok: bool
    detail: str


def examine(settings: Settings) -> list[Finding]:
    """Checks the database, MLflow's store, the artifact store, and every specification against its own table."""
    warehouse = Warehouse(settings)
    tenants = warehouse.tenants()
    with warehouse.operator() as connection:
        server = connection.scalar(sa.text("SHOW server_version"))
    findings = [
        Finding("database", True, f"PostgreSQL {server}, {len(tenants)} tenants"),
        Finding("MLflow", True, f"{len(Registry(settings).aliases())} registered models"),
        _artifacts(settings),
        *_loop(settings),
    ]
    specs = load_specs(settings.specs)
    findings += [Finding(f"model {name}", False, error) for name, error in specs.broken]
    for name, spec in specs.items():
        where = f"model {name}"
        try:
            columns = warehouse.check_source(spec)
        except (SourceUnreadable, DatabaseUnavailable) as error:
            findings.append(Finding(where, False, str(error)))
        else:
            findings.append(
                Finding(where, True, f"{spec.source.table}: {columns} columns are there, with fitting types")
            )
    return findings


def _loop(settings: Settings) -> list[Finding]:
    """The settings of the loop that are used long after they are set: by a sensor's tick, or at the first alert."""
    findings = []
    try:
        policy, _ = policy_of(settings)
        findings.append(Finding("retraining", True, f"{settings.auto_retrain} tenants, policy {policy.name}"))
    except PolicyError as error:
        findings.append(Finding("retraining", False, str(error)))
    specs = load_specs(settings.specs)
    unknown = sorted(name for name in settings.auto_retrain_models if name not in specs and not specs.is_broken(name))
    if unknown:
        detail = f"ML_PIPELINE_AUTO_RETRAIN_MODELS names {', '.join(unknown)}, which is no model. Correct it"
        findings.append(Finding("retraining", False, detail))
    if settings.alert_smtp is not None and not settings.alert_to:
        detail = "ML_PIPELINE_ALERT_SMTP is set, and nobody to send to. Set ML_PIPELINE_ALERT_TO"
        findings.append(Finding("alerts", False, detail))
    else:
        findings.append(Finding("alerts", True, f"sent by {', '.join(channels(settings))}"))
    return findings


def _artifacts(settings: Settings) -> Finding:
    try:
        Snapshots(settings).check()
    except SnapshotUnusable as error:
        return Finding("artifacts", False, str(error))
    return Finding("artifacts", True, settings.artifacts)
