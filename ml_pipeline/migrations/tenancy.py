"""Tenant isolation of the warehouse: roles, schemas, and the row-level security of each table."""

from alembic import op

OWNER = "ml_owner"
APP = "ml_app"
OPERATOR = "ml_operator"

# After a COMMIT the setting is the empty string, not NULL: both must mean "no tenant".
CURRENT_TENANT = "nullif(current_setting('app.tenant_id', true), '')"


def create_roles() -> None:
    """Create the owner of the tables, the pipeline's role, and the operators' reading role; none of them can log in."""
    for role in (OWNER, APP, OPERATOR):
        op.execute(
            f"""
            DO $$ BEGIN
                CREATE ROLE {role} NOLOGIN NOSUPERUSER NOBYPASSRLS NOINHERIT;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
            END $$
            """
        )
        op.execute(
            f"""
            DO $$ BEGIN
                IF NOT pg_has_role(current_user, '{role}', 'SET') THEN
                    EXECUTE format('GRANT {role} TO %I WITH SET TRUE', current_user);
                END IF;
            END $$
            """
        )


def create_schema(schema: str) -> None:
    op.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    op.execute(f"GRANT USAGE ON SCHEMA {schema} TO {APP}, {OPERATOR}")
    op.execute(f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {OWNER}")


def isolate_tenants(table: str) -> None:
    """Set owner, grants and policies of one table (``schema.name``) whose first key column is ``tenant_id``."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    op.execute(
        f"CREATE POLICY tenant_wall ON {table} TO {APP} "
        f"USING (tenant_id = {CURRENT_TENANT}) WITH CHECK (tenant_id = {CURRENT_TENANT})"
    )
    op.execute(f"CREATE POLICY operator_reads ON {table} FOR SELECT TO {OPERATOR} USING (true)")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {APP}")
    op.execute(f"GRANT SELECT ON {table} TO {OPERATOR}")
    op.execute(f"ALTER TABLE {table} OWNER TO {OWNER}")
