"""``ml-pipeline doctor``: checks an installation and reports problems before a run meets them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from ml_pipeline.identifiers import case_conflict, tenant_problem
from ml_pipeline.lifecycle.policy import PolicyError
from ml_pipeline.resources.connections import excessive_rights
from ml_pipeline.resources.notifier import channels
from ml_pipeline.resources.postgres import DatabaseUnavailable
from ml_pipeline.resources.registry import Registry
from ml_pipeline.resources.relocation import moved_locations
from ml_pipeline.resources.snapshots import Snapshots, SnapshotUnusable
from ml_pipeline.resources.warehouse import SourceUnreadable, Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.work.retraining.decide import policy_of

SHOWN_TENANTS, SHOWN_LENGTH = 10, 60


@dataclass(frozen=True)
class Finding:
    """The result of one check; with ``warning``, the pipeline works, but the user should know of it."""

    what: str
    ok: bool
    detail: str
    warning: bool = False


def examine(settings: Settings) -> list[Finding]:
    """Check the database, MLflow, the artifact store, and every specification against its source table."""
    warehouse = Warehouse(settings)
    tenants = warehouse.tenants()
    with warehouse.operator() as connection:
        server = connection.scalar(sa.text("SHOW server_version"))
    findings = [
        Finding("database", True, f"PostgreSQL {server}, {len(tenants)} tenants"),
        Finding("MLflow", True, f"{len(Registry(settings).aliases())} registered models"),
        *(Finding("logins", ok, detail) for ok, detail in excessive_rights(settings)),
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
            findings.append(Finding(where, True, f"{spec.source.table}: {columns} columns exist, with fitting types"))
            findings += _isolation(warehouse, spec, tenants)
    return findings


def _isolation(warehouse: Warehouse, spec: ModelSpec, tenants: Sequence[str]) -> Iterator[Finding]:
    """Warnings about sources that only the pipeline's filter isolates, and about rows of unknown tenants."""
    where, table = f"model {spec.name}", spec.source.table
    if spec.source.url is None and spec.source.isolation == "filter":
        only = f"only the pipeline's filter by {spec.source.tenant} isolates tenants (isolation: filter)"
        yield Finding(where, True, f"{table}: {only}", warning=True)
    others = [tenant for tenant in warehouse.source_tenants(spec) or [] if tenant not in set(tenants)]
    problems = {tenant: tenant_problem(tenant) for tenant in others}
    for tenant in others:
        twin = case_conflict(tenant, tenants)
        problems[tenant] = problems[tenant] or (f"differs only in case from tenant {twin!r}" if twin else None)
    unusable = [f"{tenant[:SHOWN_LENGTH]!r} {problem}" for tenant, problem in problems.items() if problem]
    unknown = [repr(tenant) for tenant, problem in problems.items() if not problem]
    for ids, what, remedy in (
        (unusable, "tenants whose ids are not allowed", "Change the ids in the source"),
        (unknown, "tenants that are not in source.tenants", "To train for them, insert their ids there"),
    ):
        if ids:
            more = f" and {len(ids) - SHOWN_TENANTS} more" if len(ids) > SHOWN_TENANTS else ""
            named = f"{'; '.join(ids[:SHOWN_TENANTS])}{more}"
            yield Finding(where, True, f"{table}: rows of {what} are skipped: {named}. {remedy}", warning=True)


def _loop(settings: Settings) -> list[Finding]:
    """Checks of settings that are first used later, by a sensor or at the first alert."""
    findings = []
    try:
        policy, _ = policy_of(settings)
        findings.append(Finding("retraining", True, f"{settings.auto_retrain} tenants, policy {policy.name}"))
    except PolicyError as error:
        findings.append(Finding("retraining", False, str(error)))
    specs = load_specs(settings.specs)
    unknown = sorted(name for name in settings.auto_retrain_models if name not in specs and not specs.is_broken(name))
    if unknown:
        detail = f"ML_PIPELINE_AUTO_RETRAIN_MODELS names unknown models: {', '.join(unknown)}. Correct it"
        findings.append(Finding("retraining", False, detail))
    if settings.alert_smtp is not None and not settings.alert_to:
        detail = "ML_PIPELINE_ALERT_SMTP is set, but there are no recipients. Set ML_PIPELINE_ALERT_TO"
        findings.append(Finding("alerts", False, detail))
    else:
        findings.append(Finding("alerts", True, f"sent by {', '.join(channels(settings))}"))
    return findings


def _artifacts(settings: Settings) -> Finding:
    try:
        Snapshots(settings).check()
    except SnapshotUnusable as error:
        return Finding("artifacts", False, str(error))
    moved = moved_locations(settings)
    if moved:
        name, before, _ = moved[0]
        detail = f"MLflow's pages look for the files of {len(moved)} models at addresses of before a move ({name}: "
        return Finding("artifacts", False, f"{detail}{before}). Run `ml-pipeline relocate`")
    return Finding("artifacts", True, settings.artifacts)
