"""One rule for the ids of tenants, and each place that builds something from an id refuses by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from ml_pipeline.identifiers import BadIdentifier, tenant_problem
from ml_pipeline.importers import ImportFailed, import_jira
from ml_pipeline.resources import embedded, postgres, tables
from ml_pipeline.resources.registry import registered_name
from ml_pipeline.resources.snapshots import Snapshots, SnapshotUnusable
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from tests.conftest import settings_of

BAD = {
    "../../evil": "starts with '.'",
    "a/../../evil": "contains '/'",
    "..": "starts with '.'",
    "a..b": "two in a row",
    "acme.": "has a dot at its end",
    "q?x": r"contains '\?'",
    "h#ash": "contains '#'",
    "100%": "contains '%'",
    "o'brien": 'contains "\'"',
    'o"brien': "contains '\"'",
    "a|b": r"contains '\|'",
    "a[b": r"contains '\['",
    "a,b": "contains ','",
    "a:b": "contains ':'",
    "a\\b": r"contains '\\\\'",
    "a b": "contains ' '",
    "acme\n": r"contains '\\n'",
    "__global__": "starts with '_'",
    "-rf": "starts with '-'",
    "žluť": "starts with 'ž'",
    "a" * 101: "is longer than 100 bytes",
    "": "is empty",
}
bad = pytest.mark.parametrize(("tenant", "problem"), BAD.items(), ids=lambda text: text[:15] or "empty")
GOOD = ["a", "7", "acme", "Acme-2", "acme.web", "a_b", "a" * 100]


def frame() -> pd.DataFrame:
    return pd.DataFrame({"size": [1.0]})


@pytest.fixture(scope="module")
def one_for_all(server: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """An installation for the tests that leave nothing behind, or a tenant only."""
    name, home = "test_tenant_ids", tmp_path_factory.mktemp("tenant_ids")
    connecting = sa.create_engine(postgres.parse_url(server), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with connecting.connect() as connection:
        copy = f"TEMPLATE {template_database} STRATEGY FILE_COPY"
        connection.execute(sa.text(f"CREATE DATABASE {name} OWNER {embedded.OWNER} {copy}"))
    yield settings_of(server, name, home=home, workers=2)
    postgres.close_engines(name)
    with connecting.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@bad
def test_the_database_takes_no_bad_id_from_anybody(server: str, one_for_all: Settings, tenant: str, problem: str):
    database = postgres.parse_url(one_for_all.database_url or "").database
    superuser = postgres.engine(postgres.parse_url(server).set(database=database))
    with pytest.raises(IntegrityError, match="tenant_id_rule"), superuser.begin() as connection:
        connection.execute(sa.text("INSERT INTO source.tenants (tenant_id) VALUES (:id)"), {"id": tenant})


@bad
def test_every_door_refuses_a_bad_id_by_itself(one_for_all: Settings, tenant: str, problem: str):
    with pytest.raises(BadIdentifier, match=problem):
        Warehouse(one_for_all).add_tenant(tenant)
    with pytest.raises(BadIdentifier, match=problem):
        registered_name("story_points", tenant)
    snapshots = Snapshots(one_for_all)
    with pytest.raises(BadIdentifier, match=problem):
        snapshots.write(tenant, "story_points", frame())
    url = f"{one_for_all.artifacts}/snapshots/{tenant}/story_points/{'0' * 24}.parquet"
    assert not snapshots.owns(tenant, url)
    for use in (lambda: snapshots.read(url, "0" * 64, tenant=tenant), lambda: snapshots.remove(tenant, url)):
        with pytest.raises(SnapshotUnusable, match="not a snapshot of tenant"):
            use()
    assert list(one_for_all.home.rglob("*")) == []
    assert Warehouse(one_for_all).tenants() == []


@pytest.mark.parametrize("model", ["../evil", "a/b", "A", "", "m" * 64, "a.b", "a'b"])
def test_the_name_of_a_model_that_is_no_part_of_a_path_is_refused(one_for_all: Settings, model: str):
    with pytest.raises(BadIdentifier, match="model name"):
        Snapshots(one_for_all).write("acme", model, frame())
    with pytest.raises(BadIdentifier, match="model name"):
        registered_name(model, "acme")


@pytest.mark.parametrize("tenant", GOOD)
def test_a_good_id_passes_every_door(one_for_all: Settings, tenant: str):
    Warehouse(one_for_all).add_tenant(tenant)
    snapshots = Snapshots(one_for_all)
    digest, url = snapshots.write(tenant, "story_points", frame())
    assert Path(url).parent == one_for_all.home / "artifacts" / "snapshots" / tenant / "story_points"
    pd.testing.assert_frame_equal(snapshots.read(url, digest, tenant=tenant), frame())
    assert tenant in Warehouse(one_for_all).tenants()


@pytest.fixture(scope="module")
def accepted_by_the_database(server: str, template_database: str):
    """What the CHECK constraint of a migrated database says of an id."""
    engine = sa.create_engine(postgres.parse_url(server), poolclass=sa.NullPool)
    administration = postgres.parse_url(server)
    migrated = sa.create_engine(administration.set(database=template_database), poolclass=sa.NullPool)
    definition = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'tenant_id_rule'"
    with migrated.connect() as connection:
        check = connection.scalar(sa.text(definition)).removeprefix("CHECK ")
    migrated.dispose()
    with engine.connect() as connection:
        query = sa.text(f"SELECT {check} FROM (SELECT CAST(:id AS text) AS tenant_id) AS given".replace("::", r"\:\:"))
        yield lambda tenant: connection.scalar(query, {"id": tenant})


texts = st.text(st.sampled_from("aZ9-_./ é\n'"), max_size=8) | st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=110
)


@settings(max_examples=300, deadline=None)
@given(texts)
@example("a" * 100)
@example("a" * 101)
@example("é" * 51)
def test_the_database_and_the_program_have_the_same_rule(accepted_by_the_database, tenant: str):
    assert accepted_by_the_database(tenant) == (tenant_problem(tenant) is None)


def test_twins_by_case_are_refused_and_the_message_names_the_tenant_that_is_there(
    warehouse: Warehouse, superuser: sa.Engine, tmp_path: Path
):
    warehouse.add_tenant("Acme")
    warehouse.add_tenant("Acme")
    with pytest.raises(BadIdentifier, match=r"'acme' differs only in .* case from tenant 'Acme'"):
        warehouse.add_tenant("acme")
    (tmp_path / "ACME.csv").write_text("Issue key,Created\nA-1,2021-03-01\n")
    with pytest.raises(ImportFailed, match=r"ACME.csv: tenant id 'ACME' .* from tenant 'Acme'.*--tenant"):
        import_jira(warehouse, tmp_path / "ACME.csv")
    with pytest.raises(IntegrityError, match="tenants_without_case_twins"), superuser.begin() as connection:
        connection.execute(sa.text("INSERT INTO source.tenants (tenant_id) VALUES ('acmE') ON CONFLICT DO NOTHING"))
        connection.execute(sa.text("INSERT INTO source.tenants (tenant_id) VALUES ('acmE')"))
    assert warehouse.tenants() == ["Acme"]
    with warehouse.tenant("ACME") as connection:
        assert connection.scalars(sa.select(tables.issues.c.issue_key)).all() == []


def test_a_snapshot_of_another_tenant_or_place_is_not_read(settings: Settings, tmp_path: Path):
    snapshots = Snapshots(settings)
    digest, theirs = snapshots.write("globex", "story_points", frame())
    _, ours = snapshots.write("acme", "story_points", frame())
    outside = tmp_path / f"{digest[:24]}.parquet"
    outside.write_bytes(Path(theirs).read_bytes())
    around = f"{settings.artifacts}/snapshots/acme/../globex/{digest[:24]}.parquet"
    for url in (theirs, str(outside), around, f"{ours}/../../../{outside.name}"):
        with pytest.raises(SnapshotUnusable, match=r"not a snapshot of tenant acme .* It was not read"):
            snapshots.read(url, digest, tenant="acme")
