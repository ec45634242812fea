"""Computes the shared typical outcome in the database, so that workers need not read the rows of all tenants."""

from alembic import op

from ml_pipeline.migrations import tenancy

revision = "0009"
down_revision = "0008"

# Runs with the rights of the operators' role, which can read all tenants, and returns one number or NULL. The tenant of
# the transaction must share as well. A setting for the model overrides that for all models of the tenant.
FUNCTION = f"""
    CREATE FUNCTION ml.pooled_typical(
        asked_model TEXT, asked_as_of TIMESTAMP WITH TIME ZONE, median BOOLEAN, fewest BIGINT)
    RETURNS DOUBLE PRECISION LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
        WITH sharing AS (
            SELECT tenant_id FROM (
                SELECT DISTINCT ON (tenant_id) tenant_id, value FROM ml.settings
                WHERE name = 'share' AND model IN (asked_model, '') ORDER BY tenant_id, model = ''
            ) AS nearest WHERE value = 'true'::jsonb
        ), newest AS (
            SELECT DISTINCT ON (tenant_id) tenant_id, typical FROM ml.feature_sets
            WHERE model = asked_model AND as_of <= asked_as_of AND typical IS NOT NULL
            ORDER BY tenant_id, as_of DESC, sequence DESC
        )
        SELECT CASE WHEN median THEN percentile_cont(0.5) WITHIN GROUP (ORDER BY typical) ELSE avg(typical) END
        FROM newest JOIN sharing USING (tenant_id)
        WHERE tenant_id <> {tenancy.CURRENT_TENANT}
          AND EXISTS (SELECT FROM sharing WHERE tenant_id = {tenancy.CURRENT_TENANT})
        HAVING count(*) >= greatest(fewest, 3)
    $$
"""  # noqa: S608 - its parts are constants
SIGNATURE = "ml.pooled_typical(TEXT, TIMESTAMP WITH TIME ZONE, BOOLEAN, BIGINT)"


def upgrade() -> None:
    op.execute(FUNCTION)
    op.execute(f"REVOKE ALL ON FUNCTION {SIGNATURE} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {SIGNATURE} TO {tenancy.APP}")
    op.execute(f"GRANT CREATE ON SCHEMA ml TO {tenancy.OPERATOR}")  # needed to become the function's owner
    op.execute(f"ALTER FUNCTION {SIGNATURE} OWNER TO {tenancy.OPERATOR}")
    op.execute(f"REVOKE CREATE ON SCHEMA ml FROM {tenancy.OPERATOR}")
