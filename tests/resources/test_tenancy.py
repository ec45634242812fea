"""Tenant isolation, on the real database."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, ProgrammingError

from ml_pipeline.resources import postgres, tables
from ml_pipeline.resources.warehouse import APP_ROLE, OPERATOR_ROLE, Warehouse
from ml_pipeline.settings import Settings

TABLES = list(tables.metadata.sorted_tables)


def test_every_relation_with_tenant_rows_has_row_level_security(superuser: sa.Engine):
    query = """
        SELECT n.nspname || '.' || c.relname AS name, c.relkind, c.relrowsecurity, c.relforcerowsecurity,
               pg_get_userbyid(c.relowner) AS owner, c.reloptions,
               (SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
                WHERE i.indrelid = c.oid AND i.indisprimary) AS first_key,
               (SELECT array_agg(polname::text ORDER BY polname) FROM pg_policy p WHERE p.polrelid = c.oid) AS policies
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('source', 'ml') AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
          AND c.relname <> 'alembic_version'
    """
    with superuser.connect() as connection:
        relations = connection.execute(sa.text(query)).mappings().all()
    assert {relation["name"] for relation in relations} >= {f"{table.schema}.{table.name}" for table in TABLES}
    for relation in relations:
        if relation["relkind"] in ("v", "m"):
            assert "security_invoker=true" in (relation["reloptions"] or []), relation["name"]
            continue
        assert relation["relrowsecurity"] and relation["relforcerowsecurity"], relation["name"]
        assert relation["owner"] == "ml_owner", relation["name"]
        assert relation["first_key"] == "tenant_id", relation["name"]
        assert relation["policies"] == ["operator_reads", "tenant_wall"], relation["name"]


def test_one_function_of_ours_runs_with_its_owners_rights_and_only_the_tenants_role_may_call_it(superuser: sa.Engine):
    query = """
        SELECT p.proname, pg_get_userbyid(p.proowner) AS owner, p.proconfig, p.proacl::text[] AS rights
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname IN ('source', 'ml') AND p.prosecdef
    """
    with superuser.connect() as connection:
        (function,) = connection.execute(sa.text(query)).mappings().all()
    assert (function["proname"], function["owner"]) == ("pooled_typical", OPERATOR_ROLE)
    assert function["proconfig"] == ["search_path=pg_catalog, pg_temp"]
    assert function["rights"] == [f"{role}=X/{OPERATOR_ROLE}" for role in (OPERATOR_ROLE, APP_ROLE)]


def test_the_roles_of_the_pipeline_cannot_bypass_tenant_isolation(superuser: sa.Engine):
    query = "SELECT rolname, rolsuper, rolbypassrls, rolcanlogin FROM pg_roles WHERE rolname LIKE 'ml\\_%'"
    with superuser.connect() as connection:
        roles = connection.execute(sa.text(query)).all()
    assert {role.rolname for role in roles} == {"ml_owner", APP_ROLE, OPERATOR_ROLE}
    assert not any(role.rolsuper or role.rolbypassrls or role.rolcanlogin for role in roles)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.fullname)
def test_no_verb_reaches_a_row_of_another_tenant(warehouse: Warehouse, table: sa.Table, a_row):
    for tenant in ("a", "b"):
        with warehouse.tenant(tenant) as connection:
            connection.execute(sa.insert(table).values(a_row(table, tenant)))
    theirs = table.c.tenant_id == "b"
    with warehouse.tenant("a") as connection:
        assert connection.scalars(sa.select(table.c.tenant_id)).all() == ["a"]
        assert connection.execute(sa.select(table).where(theirs)).all() == []
        assert connection.execute(sa.update(table).where(theirs).values(tenant_id="a")).rowcount == 0
        assert connection.execute(sa.delete(table).where(theirs)).rowcount == 0
    with pytest.raises(ProgrammingError, match="row-level security"), warehouse.tenant("a") as connection:
        connection.execute(sa.insert(table).values(a_row(table, "c")))
    with pytest.raises(ProgrammingError, match="row-level security"), warehouse.tenant("a") as connection:
        connection.execute(sa.update(table).values(tenant_id="b2"))
    with warehouse.tenant("b") as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 1


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.fullname)
def test_operators_read_every_tenant_and_write_nothing(warehouse: Warehouse, table: sa.Table, a_row):
    for tenant in ("a", "b"):
        with warehouse.tenant(tenant) as connection:
            connection.execute(sa.insert(table).values(a_row(table, tenant)))
    with warehouse.operator() as connection:
        assert set(connection.scalars(sa.select(table.c.tenant_id))) == {"a", "b"}
    with pytest.raises(DBAPIError, match="read-only transaction"), warehouse.operator() as connection:
        connection.execute(sa.delete(table))


def test_a_connection_forgets_its_tenant_between_transactions_and_after_an_error(warehouse: Warehouse):
    seen = sa.select(tables.tenants.c.tenant_id)
    warehouse.add_tenant("a")
    warehouse.add_tenant("b")
    engine = postgres.engine(postgres.url_with_options(warehouse.url, role=APP_ROLE, application_name="reuse"))
    with engine.connect() as connection:
        for tenant in ("a", "b"):
            with connection.begin():
                connection.execute(sa.select(sa.func.set_config("app.tenant_id", tenant, True)))
                assert connection.scalars(seen).all() == [tenant]
        with connection.begin():
            assert connection.scalars(seen).all() == []
        with pytest.raises(DBAPIError), connection.begin():
            connection.execute(sa.select(sa.func.set_config("app.tenant_id", "a", True)))
            connection.execute(sa.text("SELECT 1 / 0"))
        with connection.begin():
            assert connection.scalars(seen).all() == []


def test_reset_role_does_not_return_to_a_role_that_sees_more(warehouse: Warehouse):
    warehouse.add_tenant("a")
    with warehouse.tenant("b") as connection:
        connection.execute(sa.text("RESET ROLE"))
        assert connection.scalar(sa.text("SELECT current_user")) == APP_ROLE
        assert connection.scalars(sa.select(tables.tenants.c.tenant_id)).all() == []


def test_the_migrations_make_the_tables_that_the_code_expects(superuser: sa.Engine):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    def ours(name, kind, parents):
        return name in ("source", "ml") if kind == "schema" else name != "alembic_version"

    with superuser.connect() as connection:
        options = {"include_schemas": True, "include_name": ours, "compare_server_default": False}
        difference = compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata)
    assert difference == []


def test_migrating_twice_changes_nothing(warehouse: Warehouse):
    warehouse.add_tenant("a")
    warehouse.migrate()
    assert warehouse.tenants() == ["a"]


def test_a_login_without_superuser_rights_can_migrate_and_work(server: str, superuser: sa.Engine, settings: Settings):
    """What a production database offers: a login that owns its database and may create roles."""
    owner = postgres.parse_url(settings.database_url or "")
    with superuser.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"CREATE DATABASE plain_database OWNER {owner.username}"))
    try:
        warehouse = Warehouse(Settings(database_url=postgres.plain(owner.set(database="plain_database"))))
        warehouse.migrate()
        warehouse.add_tenant("a")
        assert warehouse.tenants() == ["a"]
        postgres.close_engines("plain_database")
    finally:
        with superuser.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("DROP DATABASE plain_database WITH (FORCE)"))
