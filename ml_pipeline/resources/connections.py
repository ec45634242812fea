"""Connections of the PostgreSQL server: how many there are, for how many workers, and the workers' login."""

from __future__ import annotations

import logging

import sqlalchemy as sa

from ml_pipeline.resources import postgres
from ml_pipeline.settings import Settings

PER_WORKER = 4  # connections: two of the warehouse, and one of each of MLflow's two stores
RUNS = 2  # at the same time, as dagster.yaml allows
RESERVE = 30  # connections for the pages, the daemon, the processes of the runs themselves, and people
OF_SUPERUSERS = 3  # superuser_reserved_connections, PostgreSQL's default
EMBEDDED_AT_MOST = 1000


def embedded_connections(settings: Settings) -> int:
    """``max_connections`` of the embedded server: enough for ``settings.workers``."""
    needed = RESERVE + OF_SUPERUSERS + PER_WORKER * RUNS * settings.workers
    return min(EMBEDDED_AT_MOST, max(100, needed))


LIMITS = """
    SELECT current_setting('max_connections')::int AS server,
           current_setting('superuser_reserved_connections')::int
               + coalesce(current_setting('reserved_connections', true), '0')::int AS reserved,
           (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database,
           (SELECT rolconnlimit FROM pg_roles WHERE rolname = :worker) AS worker
"""


def bounded_workers(settings: Settings) -> int:
    """``settings.workers``, or fewer if the server has too few connections; at least one."""
    worker = postgres.parse_url(settings.for_workers().database_url or "").username
    connecting = sa.create_engine(postgres.parse_url(settings.database_url or ""), poolclass=sa.NullPool)
    with postgres.connect(connecting) as connection:
        limits = connection.execute(sa.text(LIMITS), {"worker": worker}).one()
    # Each limit that an administrator can raise, with its value and how many of its connections others use.
    rooms = {"max_connections": (limits.server, limits.reserved + RESERVE)}
    if limits.database >= 0:
        rooms["the CONNECTION LIMIT of the database"] = (limits.database, RESERVE)
    if limits.worker is not None and limits.worker >= 0:
        rooms[f"the CONNECTION LIMIT of the login {worker}"] = (limits.worker, 0)
    tightest = min(rooms, key=lambda name: rooms[name][0] - rooms[name][1])
    limit, others = rooms[tightest]
    fitting: int = max(1, (limit - others) // (PER_WORKER * RUNS))
    if fitting < settings.workers:
        logging.getLogger(__name__).warning(
            "ML_PIPELINE_WORKERS=%d is reduced to %d: %s is %d, and each worker of %d concurrent runs needs %d "
            "connections. To use all workers, raise the limit to %d",
            settings.workers,
            fitting,
            tightest,
            limit,
            RUNS,
            PER_WORKER,
            others + PER_WORKER * RUNS * settings.workers,
        )
    return min(settings.workers, fitting)


GRANTED = """
    SELECT has_schema_privilege(:login, :schema, 'USAGE') AND NOT EXISTS (
        SELECT FROM pg_class WHERE relnamespace = to_regnamespace(:schema) AND CASE relkind
            WHEN 'r' THEN NOT (has_table_privilege(:login, oid, 'SELECT') AND has_table_privilege(:login, oid, 'INSERT')
                 AND has_table_privilege(:login, oid, 'UPDATE') AND has_table_privilege(:login, oid, 'DELETE'))
            WHEN 'S' THEN NOT has_sequence_privilege(:login, oid, 'USAGE')
            ELSE false END)
"""


def grant_worker_login(settings: Settings, schema: str) -> None:
    """Grant the workers' login the tenants' role and the tables of a schema; nothing if workers have no own login.

    Raises
    ------
    DatabaseUnavailable
        If the login does not exist; the message contains the statement that creates it.
    """
    login = own_login(settings)
    if login is None:
        return
    with postgres.exclusive(postgres.parse_url(settings.database_url or ""), "worker") as connection:
        name = connection.dialect.identifier_preparer.quote_identifier(login)
        if not connection.scalar(sa.text("SELECT 1 FROM pg_roles WHERE rolname = :login"), {"login": login}):
            raise postgres.DatabaseUnavailable(
                f"ML_PIPELINE_WORKER_DATABASE_URL names the login {login!r}, which does not exist. Create it: "
                f"CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD '...'"
            )
        if not connection.scalar(sa.text("SELECT pg_has_role(:login, 'ml_app', 'SET')"), {"login": login}):
            connection.execute(sa.text(f"GRANT ml_app TO {name} WITH INHERIT FALSE, SET TRUE"))
        if not connection.scalar(sa.text(GRANTED), {"login": login, "schema": schema}):
            connection.execute(sa.text(f"GRANT USAGE ON SCHEMA {schema} TO {name}"))
            tables = "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES"
            connection.execute(sa.text(f"GRANT {tables} IN SCHEMA {schema} TO {name}"))
            connection.execute(sa.text(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {name}"))


def own_login(settings: Settings) -> str | None:
    """The login of the workers, None if they use the login of the other processes."""
    if settings.worker_database_url is None:
        return None
    login = postgres.parse_url(settings.worker_database_url).username
    return login if login != postgres.parse_url(settings.database_url or "").username else None


RIGHTS = """
    SELECT session_user AS login, rolsuper OR rolbypassrls AS unbound,
           ARRAY(SELECT other.rolname FROM pg_roles AS other WHERE other.rolname IN ('ml_owner', 'ml_operator')
                 AND pg_has_role(session_user, other.oid, 'SET')) AS others
    FROM pg_roles WHERE rolname = session_user
"""


def excessive_rights(settings: Settings) -> list[tuple[bool, str]]:
    """Rights of the logins that they should not have.

    Returns
    -------
    list of (bool, str)
        Whether row-level security still applies to the login, and a sentence for the user.
    """
    findings = []
    for what, one in (("", settings), ("WORKER_", settings.for_workers())):
        connecting = sa.create_engine(postgres.parse_url(one.database_url or ""), poolclass=sa.NullPool)
        with postgres.connect(connecting) as connection:
            rights = connection.execute(sa.text(RIGHTS)).one()
        if rights.unbound:
            findings.append(
                (
                    False,
                    f"the login {rights.login} {'of the workers ' if what else ''}is a superuser or has BYPASSRLS, so "
                    "that an SQL statement can switch row-level security off. Use a login without these rights "
                    '(docs/how-to/operate.md, "Logins, files and processes")',
                )
            )
        elif what and rights.others:
            findings.append(
                (
                    True,
                    f"the workers' login {rights.login} can switch to {', '.join(sorted(rights.others))}. Set "
                    "ML_PIPELINE_WORKER_DATABASE_URL to a login that cannot (docs/how-to/operate.md, "
                    '"Logins, files and processes")',
                )
            )
    return findings
