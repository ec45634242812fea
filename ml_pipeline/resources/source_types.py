"""Checks that the SQL types of source columns fit the types that the specification declares."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ml_pipeline.specs import ModelSpec

# Categories of PostgreSQL's types (pg_type.typcategory), and single types of the category U, "user-defined".
_BOOLEAN, _NUMBERS, _TIMES = "B", "N", "D"
_TEXTS = {"S", "E", "I", "V", _BOOLEAN, _NUMBERS, _TIMES}  # texts, enumerations, addresses, bits
_OTHER_TEXTS = {"uuid", "macaddr", "macaddr8"}
_NO_NUMBERS, _NO_TIMES = {"money"}, {"time", "timetz"}
_TYPES = sa.text("SELECT oid, typname, typcategory, format_type(oid, NULL) FROM pg_type WHERE oid = ANY(:oids)")


def unfit_columns(connection: sa.Connection, spec: ModelSpec, result: sa.CursorResult[Any]) -> list[str]:
    """A sentence for each result column whose SQL type does not fit its declared type.

    A domain has the type that it is based on. The SQL type decides, not the values: some values of a JSON column are
    texts, and a composite value looks like a text.
    """
    described: list[tuple[str, Any]] = [(column[0], column[1]) for column in result.cursor.description or ()]
    rows = connection.execute(_TYPES, {"oids": sorted({oid for _, oid in described})})
    types = {oid: (name, category, shown) for oid, name, category, shown in rows}
    computed = {name for expression in spec.label.expressions for name in expression.names}
    problems = []
    for column, oid in described:
        name, category, shown = types[oid]
        kind = spec.source.type_of(column)
        if not _fits(kind, name, category):
            problems.append(f"{column} is {shown}, {_remedy(kind, category)}")
        elif kind in ("category", "text") and category == _BOOLEAN and column in computed:
            problems.append(
                f"{column} is {shown}, label.value computes with it, and it is declared {kind}. Declare it boolean"
            )
    return problems


def _fits(kind: str, name: str, category: str) -> bool:
    match kind:
        case "number":
            return category in (_NUMBERS, _BOOLEAN) and name not in _NO_NUMBERS
        case "boolean":
            return category == _BOOLEAN
        case "time":
            return category == _TIMES and name not in _NO_TIMES
    return category in _TEXTS or name in _OTHER_TEXTS


def _remedy(kind: str, category: str) -> str:
    if kind in ("category", "text"):
        return f"which cannot be read as a {kind}. Read a view that casts it to text"
    fitting = {_NUMBERS: "number", _BOOLEAN: "boolean", _TIMES: "time"}.get(category, "category")
    if fitting == kind or category not in _TEXTS:
        return f"not a {kind}. Read a view that casts it"
    return f"not a {kind}. Declare it {fitting}, or read a view that casts it"
