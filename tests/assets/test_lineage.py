"""Where lineage begins and ends."""

from __future__ import annotations

import pytest

from ml_pipeline.assets.lineage import external_assets, source_key
from ml_pipeline.definitions import definitions
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.specs import ModelSpec, load_specs

SPEC = load_specs()["story_points"]


def reading(table: str = "source.issues", url: str | None = None, **changes) -> ModelSpec:
    return SPEC.model_copy(
        update={"source": SPEC.source.model_copy(update={"table": table, "url": url}), "owners": [], **changes}
    )


@pytest.mark.parametrize(
    ("url", "database"),
    [
        (None, "warehouse"),
        ("env:CRM_URL", "crm_url"),
        ("postgresql://user:secret@db.example.com:5432/crm?sslmode=require", "crm"),
        ("postgresql://user:sec/ret@db.example.com/crm", "database"),
        ("postgresql://[broken", "database"),
    ],
)
def test_a_source_is_named_by_its_database_and_never_by_a_password(url: str | None, database: str):
    assert source_key(reading("sales.leads", url)).path == [database, "sales", "leads"]


def test_models_that_read_one_table_share_its_asset_its_owners_and_its_columns():
    other = reading(name="other", owners=["team:crm", "ann@example.org"])
    (source, *ends) = external_assets([reading(owners=["team:crm"]), other])
    assert source.key.path == ["warehouse", "source", "issues"]
    assert list(source.owners) == ["ann@example.org", "team:crm"]
    columns = {column.name for column in source.metadata["dagster/column_schema"].columns}
    assert columns == set(SPEC.source.columns)
    assert [end.key.path[-1] for end in ends] == ["registered_model", "prediction_log"] * 2


def test_a_table_that_is_named_like_an_asset_of_a_model_does_no_harm():
    spec = reading("story_points.features")
    graph = definitions({spec.name: spec}, Installation()).resolve_asset_graph()
    assert graph.get(source_key(spec)).is_external
    assert {key.path[0] for key in graph.get(source_key(spec)).child_keys} == {"story_points"}


@pytest.mark.parametrize("owner", ["nobody", "team:", "a@b"])
def test_an_owner_that_dagster_would_refuse_is_refused_with_the_specification(owner: str):
    with pytest.raises(ValueError, match="is neither an e-mail address nor 'team:' and a name"):
        ModelSpec.model_validate(SPEC.model_dump() | {"owners": [owner]})


def test_owners_and_checks_are_part_of_no_hash():
    assert reading(owners=["team:crm"]).hash == reading().hash
