"""A rule for tenant ids, and a table of registered versions."""

import sqlalchemy as sa
from alembic import op

from ml_pipeline.identifiers import BadIdentifier, case_conflict, tenant_problem
from ml_pipeline.migrations import tenancy

revision = "0007"
down_revision = "0006"

# The rule of ml_pipeline.identifiers. Collation "C", since letters and lower case depend on the locale.
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

# Versions that were registered before this table existed, if MLflow shows by more than tags whose they are: the run is
# in the experiment of this tenant and model, and the version's files are those of the run.
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
    # Before the policies, which would hide the rows from a login that is not a superuser.
    if op.get_bind().scalar(sa.text("SELECT to_regclass('mlflow.model_versions') IS NOT NULL")):
        op.execute(REGISTERED_BEFORE)
    tenancy.isolate_tenants("ml.versions")


def _refuse_bad_tenants() -> None:
    """Raise an error that lists the tenants whose ids break the new rule, before anything is changed."""
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
            f"source.tenants contains ids that are no longer allowed: {named}. Nothing was changed. As a superuser, "
            f"delete each with {remove}, import its data again under another id, and start again; other data of the "
            "old id stay in the database, unused"
        )
