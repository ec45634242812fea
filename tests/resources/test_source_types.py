"""SQL types of a source: which fit a declared type, what they are as levels, and which are refused with the remedy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from ml_pipeline.resources import postgres
from ml_pipeline.resources.warehouse import APP_ROLE, SourceUnreadable, Warehouse
from ml_pipeline.specs import ModelSpec

TYPES = """
    CREATE SCHEMA shop;
    CREATE TYPE shop.grade AS ENUM ('low', 'high');
    CREATE TYPE shop.pair AS (a int, b int);
    CREATE DOMAIN shop.points AS smallint CHECK (value >= 0);
    CREATE DOMAIN shop.flag AS boolean;
    CREATE DOMAIN shop.document AS jsonb;
    GRANT USAGE ON SCHEMA shop TO ml_app
"""
SECOND_ROW_IS_NULL = "CREATE TABLE shop.claims AS SELECT 'acme'::text AS tenant_id, g AS claim, now() AS filed_at, "


def spec_of(kind: str, label: str = "value") -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "claims",
            "title": "Claims",
            "task": "regression",
            "source": {
                "table": "shop.claims",
                "entity": "claim",
                "event_time": "filed_at",
                "isolation": "filter",
                "columns": {"it": {"type": kind}, "value": {"type": "number", "known_at": "label"}},
            },
            "label": {"value": label, "time": "filed_at"},
            "features": {},
            "training": {"estimator": "xgboost", "loss": "absolute_error"},
        }
    )


@pytest.fixture(scope="module")
def shop(server: str, template_database: str):
    """A database whose table holds one value of an SQL type, and a row without it."""
    from ml_pipeline.settings import Settings

    administration = postgres.parse_url(server)
    with sa.create_engine(administration, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE types TEMPLATE {template_database}"))
    url = postgres.plain(administration.set(drivername="postgresql", database="types"))
    warehouse = Warehouse(Settings(database_url=url))
    with postgres.engine(warehouse.url).begin() as connection:
        connection.execute(sa.text(TYPES))

    def holding(value: str) -> Warehouse:
        with postgres.engine(warehouse.url).begin() as connection:
            connection.execute(sa.text("DROP TABLE IF EXISTS shop.claims"))
            wanted = f"CASE WHEN g = 1 THEN {value} END AS it, 1.0 AS value FROM generate_series(1, 2) AS g"
            connection.exec_driver_sql(SECOND_ROW_IS_NULL + wanted)
            connection.execute(sa.text(f"GRANT SELECT ON shop.claims TO {APP_ROLE}"))
        return warehouse

    yield holding
    postgres.close_engines("types")


def read(shop: Callable[[str], Warehouse], value: str, kind: str) -> pd.Series:
    warehouse = shop(value)
    assert warehouse.check_source(spec_of(kind)) == 5
    return warehouse.read_source(spec_of(kind), "acme").sort_values("claim")["it"]


@pytest.mark.parametrize(
    ("value", "level"),
    [
        ("7::smallint", "7"),
        ("7::integer", "7"),
        ("7::bigint", "7"),
        ("9007199254740993::bigint", "9007199254740993"),
        ("7::numeric(9,0)", "7"),
        ("7::numeric(10,2)", "7"),
        ("7::shop.points", "7"),
        ("7::double precision", "7"),
        ("7.5::numeric", "7.5"),
        ("true", "True"),
        ("'high'::shop.grade", "high"),
        ("'x'::varchar(9)", "x"),
        ("'x'::char(3)", "x  "),
        ("'00000000-0000-0000-0000-000000000007'::uuid", "00000000-0000-0000-0000-000000000007"),
        ("'2026-01-05'::date", "2026-01-05"),
        ("'07:30'::time", "07:30:00"),
        ("'10.0.0.1'::inet", "10.0.0.1"),
    ],
)
def test_a_level_is_the_exact_value_beside_a_row_without_one(shop, value, level):
    assert read(shop, value, "category").tolist() == [level, None]


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        ("7::shop.points", "number", 7.0),
        ("7.25::numeric(10,2)", "number", 7.25),
        ("'NaN'::numeric", "number", np.nan),
        ("1e200::numeric * 1e200::numeric", "number", np.inf),
        ("true", "number", 1.0),
        ("false", "boolean", 0.0),
        ("true::shop.flag", "boolean", 1.0),
    ],
)
def test_a_number_and_a_boolean_are_floats_beside_a_row_without_one(shop, value, kind, found):
    np.testing.assert_array_equal(read(shop, value, kind), [found, np.nan])


def test_a_date_is_its_first_moment_in_utc(shop):
    assert read(shop, "'2026-01-05'::date", "time").tolist() == [pd.Timestamp("2026-01-05", tz="UTC"), pd.NaT]


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        ("'x'::bytea", "category", "it is bytea, which cannot be read as a category. Read a view that casts it"),
        ("'{}'::jsonb", "category", "it is jsonb, which cannot be read as a "),
        ("'\"x\"'::json", "text", "it is json, which cannot be read as a text"),
        ("'{}'::shop.document", "category", "it is jsonb, which cannot be read as a "),
        ("ARRAY[1, 2]", "category", r"it is integer\[\], which cannot be read as a "),
        ("ARRAY['low'::shop.grade]", "category", r"it is shop.grade\[\], which cannot be read as a "),
        ("int4range(1, 3)", "category", "it is int4range, which cannot be read as a "),
        ("(1, 2)::shop.pair", "category", "it is shop.pair, which cannot be read as a "),
        ("interval '1 day'", "category", "it is interval, which cannot be read as a "),
        ("interval '1 day'", "number", "it is interval, not a number. Read a view that casts it"),
        ("point(1, 2)", "text", "it is point, which cannot be read as a "),
        ("'7'::text", "number", "it is text, not a number. Declare it category, or read a view that casts it"),
        ("7::money", "number", "it is money, not a number. Read a view that casts it"),
        ("1", "boolean", "it is integer, not a boolean. Declare it number"),
        ("true", "time", "it is boolean, not a time. Declare it boolean"),
        ("'07:30'::time", "time", "it is time without time zone, not a time. Read a view"),
    ],
)
def test_another_type_is_refused_by_the_check_and_by_the_run_also_where_every_value_is_missing(shop, value, kind, said):
    warehouse, spec = shop(value), spec_of(kind)
    for look in (lambda: warehouse.check_source(spec), lambda: warehouse.read_source(spec, "acme")):
        with pytest.raises(SourceUnreadable, match=rf"^model claims: shop.claims: {said}"):
            look()
    with pytest.raises(SourceUnreadable, match=said):
        warehouse.read_source(spec, "nobody")


def test_a_boolean_column_that_is_declared_a_category_is_no_label(shop):
    warehouse, spec = shop("true"), spec_of("category", label="it == 'true'")
    with pytest.raises(
        SourceUnreadable, match=r"it is boolean, label.value computes with it, .*category. Declare it boo"
    ):
        warehouse.check_source(spec)
