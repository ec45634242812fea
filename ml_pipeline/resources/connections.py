"""How many connections the server has, how many workers that is enough for, and as whom these connect."""

from __future__ import annotations

import logging

import sqlalchemy as sa

from ml_pipeline.resources import postgres
from ml_pipeline.settings import Settings

PER_WORKER = 4  # two of the warehouse's, one of each of MLflow's two stores
RUNS = 2  # that dagster.yaml lets go at once
RESERVE = 30  # for the pages, the daemon, the processes of the runs themselves, and people
OF_SUPERUSERS = 3
EMBEDDED_AT_MOST = 1000


def embedded_connections(settings: Settings) -> int:
    """``max_connections`` of the embedded server: enough for the workers that are asked for."""
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
    """``settings.workers``, or as many as the connections of the server are enough for; at least one."""
    worker = postgres.parse_url(settings.for_workers().database_url or "").username
    connecting = sa.create_engine(postgres.parse_url(settings.database_url or ""), poolclass=sa.NullPool)
    with postgres.connect(connecting) as connection:
        limits = connection.execute(sa.text(LIMITS), {"worker": worker}).one()
    # By what an administrator would raise: the connections that it leaves to workers, and those that others take of it.
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
            "ML_PIPELINE_WORKERS=%d is bounded to %d: %s is %d, and %d runs at once take %d connections a worker. For "
            "all of them raise it to %d",
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
    """Lets the workers' login become the tenants' role and use the tables of a schema, where it is one of its own.

    Raises
    ------
    DatabaseUnavailable
        If there is no such login; the message has the statement that makes it.
    """
    login = own_login(settings)
    if login is None:
        return
    with postgres.exclusive(postgres.parse_url(settings.database_url or ""), "worker") as connection:
        name = connection.dialect.identifier_preparer.quote_identifier(login)
        if not connection.scalar(sa.text("SELECT 1 FROM pg_roles WHERE rolname = :login"), {"login": login}):
            raise postgres.DatabaseUnavailable(
                f"ML_PIPELINE_WORKER_DATABASE_URL names the login {login!r}, which does not exist. Make it: "
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
    """The login of the workers, where they do not share that of everything else."""
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
    """What the logins may do beyond their work: whether row-level security still binds them, and a sentence."""
    findings = []
    for what, one in (("", settings), ("WORKER_", settings.for_workers())):
        connecting = sa.create_engine(postgres.parse_url(one.database_url or ""), poolclass=sa.NullPool)
        with postgres.connect(connecting) as connection:
            rights = connection.execute(sa.text(RIGHTS)).one()
        if rights.unbound:
            findings.append(
                (
                    False,
                    f"the login {rights.login} {'of the workers ' if what else ''}is a superuser or has BYPASSRLS: a "
                    "statement of its own can leave the role that row-level security binds. Use logins without "
                    '(docs/how-to/operate.md, "Logins, files and processes")',
                )
            )
        elif what and rights.others:
            findings.append(
                (
                    True,
                    f"the workers' login {rights.login} can also become {', '.join(sorted(rights.others))}. Give them "
                    "one that cannot with ML_PIPELINE_WORKER_DATABASE_URL (docs/how-to/operate.md, "
                    '"Logins, files and processes")',
                )
            )
    return findings
