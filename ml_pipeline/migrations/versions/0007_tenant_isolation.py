"""Which ids tenants can have, and what was registered of each tenant's versions."""

import sqlalchemy as sa
from alembic import op

from ml_pipeline.identifiers import BadIdentifier, case_conflict, tenant_problem
from ml_pipeline.migrations import tenancy

revision = "0007"
down_revision = "0006"

# As ml_pipeline.identifiers says it; collation "C" so that no locale has other letters or another lower case.
TENANT_RULE = """
    octet_length(tenant_id) <= 100 AND tenant_id COLLATE "C" ~ '^[A-Za-z0-9][A-Za-z0-9_-]*(\\.[A-Za-z0-9_-]+)*$'
"""
LOWER = 'lower(tenant_id COLLATE "C")'

VERSIONS = """
    CREATE TABLE ml.versions (
        tenant_id TEXT NOT NULL,
        model TEXT NOT NULL,
        manifest_sha256 TEXT NOT NULL,
        key TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (tenant_id, model, manifest_sha256)
    )
"""

# Versions that were registered before there was such a table, as far as MLflow proves by more than their tags whose
# they are: the run's experiment is that of the same tenant and model, and the files are the run's own.
REGISTERED_BEFORE = """
    INSERT INTO ml.versions (tenant_id, model, manifest_sha256, key)
    SELECT substr(version.name, strpos(version.name, '.') + 1), split_part(version.name, '.', 1), hash.value, work.value
    FROM mlflow.model_versions AS version
    JOIN mlflow.model_version_tags AS hash
        ON (hash.name, hash.version, hash.key) = (version.name, version.version, 'manifest_sha256')
    JOIN mlflow.model_version_tags AS work
        ON (work.name, work.version, work.key) = (version.name, version.version, 'key')
    JOIN mlflow.runs AS run ON run.run_uuid = version.run_id AND version.source = run.artifact_uri || '/model'
    JOIN mlflow.experiments AS experiment
        ON experiment.experiment_id = run.experiment_id AND experiment.name = version.name
    ON CONFLICT DO NOTHING
"""


def upgrade() -> None:
    _refuse_bad_tenants()
    op.execute(f"ALTER TABLE source.tenants ADD CONSTRAINT tenant_id_rule CHECK ({TENANT_RULE})")
    op.execute(f"CREATE UNIQUE INDEX tenants_without_case_twins ON source.tenants ({LOWER})")
    op.execute(VERSIONS)
    # Before the policies are there: they would hide the rows from a login that is no superuser.
    if op.get_bind().scalar(sa.text("SELECT to_regclass('mlflow.model_versions') IS NOT NULL")):
        op.execute(REGISTERED_BEFORE)
    tenancy.isolate_tenants("ml.versions")


def _refuse_bad_tenants() -> None:
    """Names the tenants whose ids the new rule does not let be, before anything is changed."""
    op.execute(f"SET LOCAL ROLE {tenancy.OPERATOR}")  # the policies hide the tenants from the login that migrates
    query = "SELECT tenant_id FROM source.tenants ORDER BY created_at, tenant_id"
    tenants = list(op.get_bind().scalars(sa.text(query)))
    op.execute("RESET ROLE")
    problems = {}
    for tenant in tenants:
        problem, twin = tenant_problem(tenant), case_conflict(tenant, tenants)
        if problem or twin:
            problems[tenant] = problem or f"differs only in case from {twin!r}"
    if problems:
        named = "; ".join(f"{tenant[:120]!r} {problem}" for tenant, problem in problems.items())
        remove = "DELETE FROM source.tenants WHERE tenant_id = '...'"
        raise BadIdentifier(
            f"source.tenants holds ids that no tenant can have any more: {named}. Nothing was changed. As a superuser, "
            f"remove each with {remove}, import its data again under another id, and start again; what was made under "
            "the old id stays in the database, unused"
        )
