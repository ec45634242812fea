"""Checks that the database itself isolates tenants in a model's source, without relying on the pipeline's filters.

A table isolates tenants if row-level security is enabled and forced, with policies on ``app.tenant_id``. A view reads
with the rights of its owner, past the policies of its tables, unless it is ``security_invoker``. Materialized views and
foreign tables cannot have policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

# No tenant can have this id, so it must not see any row.
NOBODY = "__nobody__"

# One row for the source, for each relation that it reads through views, and for each part of a partitioned table that
# the role can read directly, past the policies of the whole table. Of all rules (pg_rewrite), only those of views read.
_RELATIONS = sa.text("""
    WITH RECURSIVE reached (oid) AS (
        SELECT CAST(to_regclass(format('%I.%I', CAST(:schema AS text), CAST(:name AS text))) AS oid)
        UNION
        SELECT used.oid FROM reached CROSS JOIN LATERAL (
            SELECT depends.refobjid AS oid
            FROM pg_rewrite AS rule JOIN pg_class AS view ON view.oid = rule.ev_class AND view.relkind = 'v'
            JOIN pg_depend AS depends ON depends.classid = 'pg_rewrite'::regclass AND depends.objid = rule.oid
                AND depends.refclassid = 'pg_class'::regclass AND depends.refobjid <> view.oid
            WHERE view.oid = reached.oid AND rule.ev_type = '1'
            UNION ALL
            SELECT inhrelid FROM pg_inherits
            WHERE inhparent = reached.oid AND has_any_column_privilege(CAST(:role AS name), inhrelid, 'SELECT')
        ) AS used
    ), policies AS (
        SELECT polrelid, format('%I', polname) AS name,
            pg_get_expr(polqual, polrelid) LIKE '%app.tenant_id%' AS is_closed
        FROM pg_policy
        WHERE polpermissive AND polcmd IN ('r', '*') AND (0 = ANY (polroles) OR EXISTS (
            SELECT FROM unnest(polroles) AS given
            WHERE given <> 0 AND pg_has_role(CAST(:role AS name), given, 'USAGE')))
    )
    SELECT format('%I.%I', schema.nspname, relation.relname) AS name, format('%I', schema.nspname) AS schema,
        CAST(relation.relkind AS text) AS kind,
        relation.relrowsecurity AS enabled, relation.relforcerowsecurity AS forced,
        has_any_column_privilege(CAST(:role AS name), relation.oid, 'SELECT') AS is_readable,
        has_schema_privilege(CAST(:role AS name), schema.oid, 'USAGE') AS is_reachable,
        EXISTS (SELECT FROM pg_options_to_table(relation.reloptions)
                WHERE option_name = 'security_invoker' AND CAST(option_value AS boolean)) AS as_invoker,
        (SELECT format('%I', attname) FROM pg_attribute
         WHERE attrelid = relation.oid AND attname IN (:tenant, 'tenant_id') AND NOT attisdropped
         ORDER BY attname = :tenant DESC LIMIT 1) AS tenant,
        ARRAY(SELECT name FROM policies WHERE polrelid = relation.oid AND NOT is_closed ORDER BY name) AS open_policies,
        EXISTS (SELECT FROM policies WHERE polrelid = relation.oid AND is_closed) AS has_policy,
        ARRAY(SELECT DISTINCT CAST(CAST(function.oid AS regprocedure) AS text)
              FROM pg_rewrite AS rule JOIN pg_depend AS depends ON depends.classid = 'pg_rewrite'::regclass
                  AND depends.objid = rule.oid AND depends.refclassid = 'pg_proc'::regclass
              JOIN pg_proc AS function ON function.oid = depends.refobjid AND function.prosecdef
              WHERE rule.ev_class = relation.oid AND rule.ev_type = '1') AS definer_functions
    FROM reached JOIN pg_class AS relation USING (oid) JOIN pg_namespace AS schema ON schema.oid = relation.relnamespace
    WHERE relation.relkind IN ('r', 'p', 'v', 'm', 'f') AND schema.nspname NOT IN ('pg_catalog', 'information_schema')
    ORDER BY name
""")


class Gap(NamedTuple):
    """A gap in tenant isolation: the relation, the problem, and the SQL that closes the gap, if any."""

    name: str
    problem: str
    fix_sql: tuple[str, ...]


def gaps(connection: sa.Connection, schema: str, name: str, tenant_column: str, role: str) -> list[Gap] | None:
    """All gaps through which ``role`` could read rows of other tenants; None if the relation does not exist.

    The answer comes from the catalogue; :func:`shows_rows` tests the effect.
    """
    given = {"schema": schema, "name": name, "tenant": tenant_column, "role": role}
    relations = connection.execute(_RELATIONS, given).all()
    if not relations:
        return None
    found = [gap for relation in relations for gap in _gaps_of(relation, role)]
    return [*found, *_grants(relations, role)] if found else []


def shows_rows(connection: sa.Connection, schema: str, name: str) -> bool:
    """Whether the connection, as its current tenant, sees any row of the relation."""
    return bool(
        connection.scalar(sa.select(sa.exists(sa.select(sa.literal(1)).select_from(sa.table(name, schema=schema)))))
    )


def explained(found: Sequence[Gap]) -> str:
    """One message with the gaps and the SQL that closes them.

    >>> explained([Gap("a.b", "is a view", ("ALTER VIEW a.b SET (security_invoker = true)",))])
    'a.b is a view. Close it with: ALTER VIEW a.b SET (security_invoker = true);'
    """
    said = "; ".join(f"{gap.name} {gap.problem}" for gap in found if gap.problem)
    statements = [statement for gap in found for statement in gap.fix_sql]
    return said + (". Close it with: " + " ".join(f"{one};" for one in statements) if statements else ".")


def _gaps_of(relation: sa.Row[Any], role: str) -> list[Gap]:
    name = relation.name
    match relation.kind:
        case "v":
            found = []
            if not relation.as_invoker:
                fix_sql = f"ALTER VIEW {name} SET (security_invoker = true)"
                found.append(
                    Gap(name, "is a view that reads with its owner's rights, past row-level security", (fix_sql,))
                )
            for function in relation.definer_functions:
                fix_sql = f"ALTER FUNCTION {function} SECURITY INVOKER"
                found.append(Gap(name, f"calls {function}, which runs with its owner's rights", (fix_sql,)))
            return found
        case "m":
            return [
                Gap(name, "is a materialized view, which cannot have row-level security: use a view or a table", ())
            ]
        case "f":
            other = "is a foreign table, which cannot have row-level security: set source.url to its own database"
            return [Gap(name, other, ())]
    problems, statements = [], []
    if relation.open_policies:
        problems.append(f"has policies without app.tenant_id ({', '.join(relation.open_policies)})")
        statements += [f"DROP POLICY {policy} ON {name}" for policy in relation.open_policies]
    if not relation.has_policy:
        problems.append("has no policy on app.tenant_id")
        wanted = f"{relation.tenant or '...'} = nullif(current_setting('app.tenant_id', true), '')"
        statements.append(f"CREATE POLICY tenant_isolation ON {name} TO {role} USING ({wanted})")
    for is_so, word in ((relation.enabled, "ENABLE"), (relation.forced, "FORCE")):
        if not is_so:
            problems.append(f"does not {word.lower()} row-level security")
            statements.append(f"ALTER TABLE {name} {word} ROW LEVEL SECURITY")
    return [Gap(name, " and ".join(problems), tuple(statements))] if problems else []


def _grants(relations: Sequence[sa.Row[Any]], role: str) -> list[Gap]:
    """The grants that the role needs when views read with its rights, as a part of the SQL that closes gaps."""
    schemas = {relation.schema for relation in relations if not relation.is_reachable}
    statements = [f"GRANT USAGE ON SCHEMA {schema} TO {role}" for schema in sorted(schemas)]
    statements += [f"GRANT SELECT ON {relation.name} TO {role}" for relation in relations if not relation.is_readable]
    return [Gap("", "", tuple(statements))] if statements else []
