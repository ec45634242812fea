"""Reading a model's source: its own table, or a table of somebody else's database, read-only."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from ml_pipeline.features.point_in_time import build
from ml_pipeline.resources import postgres, tables
from ml_pipeline.resources.postgres import DatabaseUnavailable
from ml_pipeline.resources.warehouse import APP_ROLE, SourceUnreadable, Warehouse, source_url
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.specs.source import Column

CLAIMS = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.claims (
        customer text, claim integer, filed_on date, filed_at timestamp,
        amount numeric(10, 2), kind text, settled_at timestamptz
    );
    INSERT INTO shop.claims VALUES
        ('acme', 1, '2026-01-01', '2026-01-01 12:00', 12.5, 'fire', '2026-01-03 00:00+02'),
        ('acme', 2, '2026-01-02', '2026-01-02 12:00', NULL, NULL, NULL),
        ('globex', 3, '2026-01-03', '2026-01-03 12:00', 1, 'water', NULL)
"""
COLUMNS = {
    "kind": {"type": "category"},
    "amount": {"type": "number"},
    "filed_on": {"type": "time"},
    "settled_at": {"type": "time", "known_at": "label"},
}


def claims_spec(**source) -> ModelSpec:
    described = {"table": "shop.claims", "tenant": "customer", "entity": "claim", "event_time": "filed_at"}
    return ModelSpec.model_validate(
        {
            "name": "claims",
            "title": "Days to settle",
            "task": "regression",
            "source": described | {"columns": COLUMNS} | source,
            "label": {"value": "settled_at - filed_at", "time": "settled_at"},
            "features": {"categorical": ["kind"]},
            "training": {"estimator": "xgboost", "loss": "absolute_error"},
        }
    )


@pytest.fixture
def claims(warehouse: Warehouse) -> Warehouse:
    """A table of claims beside the pipeline's own, which the pipeline may read."""
    with postgres.engine(warehouse.url).begin() as connection:
        connection.execute(sa.text(CLAIMS))
        connection.execute(sa.text(f"GRANT USAGE ON SCHEMA shop TO {APP_ROLE}"))
        connection.execute(sa.text(f"GRANT SELECT ON shop.claims TO {APP_ROLE}"))
        connection.execute(sa.text("ALTER TABLE shop.claims ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"))
        own = "customer = nullif(current_setting('app.tenant_id', true), '')"
        connection.execute(sa.text(f"CREATE POLICY tenant_isolation ON shop.claims TO {APP_ROLE} USING ({own})"))
    return warehouse


@pytest.fixture
def replica(server: str) -> Iterator[str]:
    """URL of another database with the same table, on which the login may do everything."""
    administration = postgres.parse_url(server)
    name = f"replica_{uuid.uuid4().hex[:12]}"
    postgres.create_database(administration, name)
    url = administration.set(database=name)
    with postgres.engine(url).begin() as connection:
        connection.execute(sa.text(CLAIMS))
    yield postgres.plain(url.set(drivername="postgresql"))
    postgres.close_engines(name)
    with sa.create_engine(administration, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


def test_rows_come_typed_as_declared_and_of_one_tenant(claims: Warehouse):
    rows = claims.read_source(claims_spec(), "acme").sort_values("claim", ignore_index=True)
    assert list(rows.columns) == ["claim", "filed_at", "kind", "amount", "filed_on", "settled_at"]
    assert rows["claim"].tolist() == ["1", "2"]
    assert rows["kind"].tolist() == ["fire", None]
    np.testing.assert_array_equal(rows["amount"], [12.5, np.nan])
    assert {str(rows[name].dtype) for name in ("filed_at", "filed_on", "settled_at")} == {"datetime64[us, UTC]"}
    assert rows["filed_at"][0] == pd.Timestamp("2026-01-01 12:00", tz="UTC")
    assert rows["settled_at"][0] == pd.Timestamp("2026-01-02 22:00", tz="UTC")


UNREADABLE = ["infinity", "-infinity", "10000-01-01 11:59:59", "4713-12-01 BC"]


def test_stored_times_that_python_cannot_represent_are_unknown_and_counted_for_their_tenant(
    claims: Warehouse, superuser: sa.Engine, caplog
):
    with superuser.begin() as connection:
        for number, time in enumerate(UNREADABLE, 10):
            values = f"('acme', {number}, '{time}', '{time}', 1, 'fire', '{time}')"
            connection.execute(sa.text(f"INSERT INTO shop.claims VALUES {values}"))
    rows = claims.read_source(claims_spec(), "acme").set_index("claim")
    assert len(rows) == 2 + len(UNREADABLE)
    times = rows[["filed_at", "filed_on", "settled_at"]]
    assert times.loc[[str(10 + place) for place in range(len(UNREADABLE))]].isna().all(axis=None)
    assert times.loc["1"].notna().all()
    assert [record.getMessage() for record in caplog.records] == [
        "tenant acme, model claims: 4 of 6 rows of shop.claims have a time outside the years 1 to 9999, which "
        "is read as unknown. Correct it in the source"
    ]


def test_a_stored_creation_in_the_year_10000_leaves_the_tenant_trainable(warehouse: Warehouse):
    spec = load_specs()["story_points"]
    with warehouse.tenant("acme") as connection:
        for key, created in (("A-1", "2021-01-01"), ("A-2", "9999-12-31T23:59:59-12:00"), ("A-3", "infinity")):
            row = {"tenant_id": "acme", "issue_key": key, "created_at": created}
            insert = "INSERT INTO source.issues (tenant_id, issue_key, created_at, summary) "
            connection.execute(sa.text(insert + "VALUES (:tenant_id, :issue_key, :created_at, 's')"), row)
    frame = build(spec, warehouse.read_source(spec, "acme"), dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    assert frame["entity_id"].tolist() == ["A-1"]


def test_a_tenant_without_rows_gives_an_empty_frame_of_the_same_types(claims: Warehouse):
    there, none = (claims.read_source(claims_spec(), name) for name in ("acme", "nobody"))
    assert len(none) == 0
    assert none.dtypes.to_dict() == there.dtypes.to_dict()


def test_a_table_that_is_missing_is_named(claims: Warehouse):
    with pytest.raises(
        SourceUnreadable, match=r'model claims, tenant acme: shop.policies .* "shop.policies" does not exist'
    ):
        claims.read_source(claims_spec(table="shop.policies"), "acme")


def test_a_table_that_may_not_be_read_is_found_by_the_check_and_by_the_run(claims: Warehouse):
    with postgres.engine(claims.url).begin() as connection:
        connection.execute(sa.text(f"REVOKE SELECT ON shop.claims FROM {APP_ROLE}"))
    for read in (lambda: claims.check_source(claims_spec()), lambda: claims.read_source(claims_spec(), "acme")):
        with pytest.raises(SourceUnreadable, match=r"permission denied .* or grant SELECT on it"):
            read()


def test_the_check_counts_the_columns_it_found(claims: Warehouse):
    assert claims.check_source(claims_spec()) == 7


def test_the_check_names_every_column_that_is_missing_or_of_another_type(claims: Warehouse):
    columns = COLUMNS | {"amount": {"type": "time"}, "region": {"type": "category"}, "filed_on": {"type": "number"}}
    with pytest.raises(SourceUnreadable) as caught:
        claims.check_source(claims_spec(columns=columns))
    assert str(caught.value) == (
        "model claims: shop.claims: region is missing. Correct source.columns or the table; "
        "amount is numeric, not a time. Declare it number, or read a view that casts it; "
        "filed_on is date, not a number. Declare it time, or read a view that casts it"
    )


def test_another_database_is_read_by_its_url(warehouse: Warehouse, replica: str):
    assert len(warehouse.read_source(claims_spec(url=replica), "acme")) == 2


def test_the_url_of_another_database_can_come_from_the_environment(warehouse, replica, monkeypatch):
    spec = claims_spec(url="env:REPLICA_URL")
    with pytest.raises(SourceUnreadable, match=r"names the variable REPLICA_URL, which is not set. Export it"):
        source_url(spec)
    monkeypatch.setenv("REPLICA_URL", replica)
    assert len(warehouse.read_source(spec, "globex")) == 1


def test_nothing_can_be_written_into_another_database(warehouse: Warehouse, replica: str):
    with (
        pytest.raises(sa.exc.InternalError, match=r"read-only transaction"),
        warehouse._source_connection(claims_spec(url=replica), "acme") as connection,
    ):
        connection.execute(sa.text("DELETE FROM shop.claims"))


def test_a_statement_in_another_database_is_stopped_after_its_time(settings: Settings, replica: str):
    hurried = Warehouse(settings.model_copy(update={"statement_timeout": 0.3}))
    with (
        pytest.raises(sa.exc.OperationalError, match=r"statement timeout"),
        hurried._source_connection(claims_spec(url=replica), "acme") as connection,
    ):
        connection.execute(sa.text("SELECT pg_sleep(20)"))


def test_a_view_that_takes_too_long_is_a_source_that_can_not_be_read(settings: Settings, replica: str):
    slow = "CREATE VIEW shop.slow AS SELECT claims.* FROM shop.claims, pg_sleep(20)"
    with postgres.engine(postgres.parse_url(replica)).begin() as connection:
        connection.execute(sa.text(slow))
    hurried = Warehouse(settings.model_copy(update={"statement_timeout": 0.3}))
    with pytest.raises(
        SourceUnreadable, match=r"acme: reading shop.slow took longer than 0.3 s. Create an index on its column "
    ):
        hurried.read_source(claims_spec(url=replica, table="shop.slow"), "acme")


def test_a_column_of_another_type_is_named_when_it_is_read(claims: Warehouse):
    mistyped = {name: Column.model_validate(said) for name, said in (COLUMNS | {"kind": {"type": "number"}}).items()}
    spec = claims_spec()
    spec = spec.model_copy(update={"source": spec.source.model_copy(update={"columns": mistyped})})
    with pytest.raises(SourceUnreadable, match=r"shop.claims: kind is text, not a number. Declare it category"):
        claims.read_source(spec, "acme")


def test_a_server_that_is_not_there_is_named_without_its_password(warehouse: Warehouse):
    spec = claims_spec(url="postgresql://ann:secret@127.0.0.1:1/shop")
    with pytest.raises(DatabaseUnavailable, match=r"PostgreSQL at 127.0.0.1.*/shop") as caught:
        warehouse.read_source(spec, "acme")
    assert "secret" not in str(caught.value)


def test_without_a_database_the_message_says_how_to_get_one():
    with pytest.raises(DatabaseUnavailable, match=r"DATABASE_URL is not set. Use an `ml-pipeline` command"):
        Warehouse(Settings())


def test_a_row_written_again_replaces_the_first_and_renews_its_time(warehouse: Warehouse):
    counts = {"outcomes": 0, "evaluated": 0, "metric": "mae", "metrics": {}}
    row = {"tenant_id": "acme", "model": "m", "day": dt.date(2026, 1, 1), "origin": "live", **counts}
    times = []
    for value in (1.0, 2.0):
        with warehouse.tenant("acme") as connection:
            warehouse.upsert(connection, tables.daily_metrics, [row | {"value": value}])
            (stored,) = connection.execute(sa.select(tables.daily_metrics)).mappings()
            times.append(stored["computed_at"])
    assert stored["value"] == 2.0
    assert times[1] > times[0]


def test_an_error_leaves_nothing_of_its_transaction(warehouse: Warehouse):
    with pytest.raises(ZeroDivisionError), warehouse.tenant("acme") as connection:
        connection.execute(sa.insert(tables.tenants).values(tenant_id="acme"))
        1 / 0  # noqa: B018
    assert warehouse.tenants() == []


def test_tenants_come_in_the_order_in_which_they_were_added(warehouse: Warehouse):
    for name in ("zeta", "acme", "zeta"):
        warehouse.add_tenant(name)
    assert warehouse.tenants() == ["zeta", "acme"]
