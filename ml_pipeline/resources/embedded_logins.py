"""Creates the logins and the database of the embedded PostgreSQL; nothing else uses its superuser."""

from __future__ import annotations

from contextlib import closing

import psycopg2
from psycopg2 import sql

SUPERUSER, OWNER, WORKER = "postgres", "pipeline", "pipeline_worker"
ROLES = ("ml_owner", "ml_app", "ml_operator")  # made by the migrations

# An older version of the project made databases and all their objects as the superuser.
HAND_OVER = f"""
DO $$
DECLARE found record;
BEGIN
    FOR found IN
        SELECT format('ALTER SCHEMA %I OWNER TO {OWNER}', nspname) AS statement FROM pg_namespace
        WHERE nspowner = '{SUPERUSER}'::regrole AND nspname !~ '^pg_' AND nspname <> 'information_schema'
        UNION ALL
        SELECT format('ALTER TABLE %I.%I OWNER TO {OWNER}', n.nspname, c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relowner = '{SUPERUSER}'::regrole AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
          AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT EXISTS (
              SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
              AND (d.deptype = 'e' OR c.relkind = 'S' AND d.deptype IN ('a', 'i')))
        UNION ALL
        SELECT format('ALTER TYPE %I.%I OWNER TO {OWNER}', n.nspname, t.typname)
        FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
        WHERE t.typowner = '{SUPERUSER}'::regrole AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
          AND t.typtype IN ('e', 'd') AND NOT EXISTS (
              SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e')
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO {OWNER}', p.oid::regprocedure)
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE p.proowner = '{SUPERUSER}'::regrole AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
          AND NOT EXISTS (
              SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE found.statement;
    END LOOP;
END $$
"""  # noqa: S608 - its parts are constants


def prepare_logins(socket: str, database: str) -> None:
    """Creates missing logins and the database; objects of an older version get the owner ``pipeline``."""
    with closing(psycopg2.connect(host=socket, user=SUPERUSER, dbname="postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT rolname FROM pg_roles")
            roles = {name for (name,) in cursor.fetchall()}
            cursor.execute("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", (database,))
            owner = cursor.fetchone()
            if {OWNER, WORKER} <= roles and owner == (OWNER,):
                return
            if OWNER not in roles:
                cursor.execute(f"CREATE ROLE {OWNER} LOGIN NOSUPERUSER CREATEROLE NOCREATEDB")
            if WORKER not in roles:
                cursor.execute(f"CREATE ROLE {WORKER} LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB")
            # With ADMIN, the owner can grant the tenants' role to the workers.
            for role in [role for role in ROLES if role in roles]:
                cursor.execute(f"GRANT {role} TO {OWNER} WITH ADMIN TRUE, INHERIT TRUE, SET TRUE")
            name = sql.Identifier(database)
            if owner is None:
                cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, sql.Identifier(OWNER)))
    if owner is not None:
        _hand_over(socket, database)


def _hand_over(socket: str, database: str) -> None:
    opened = psycopg2.connect(host=socket, user=SUPERUSER, dbname=database)
    with closing(opened) as connection, connection, connection.cursor() as cursor:
        cursor.execute(HAND_OVER)
        # In the same transaction, since the owner of the database shows whether this was done.
        name, owner = sql.Identifier(database), sql.Identifier(OWNER)
        cursor.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(name, owner))
