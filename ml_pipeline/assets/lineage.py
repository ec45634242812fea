"""The ends of a model's lineage: the table that it reads, its versions in MLflow, and its prediction log.

Dagster shows them as external assets, which the pipeline reads or writes but does not materialize. Their keys have
three parts or other names than the model's own assets, so that no two keys are equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import dagster as dg

from ml_pipeline.display import markdown
from ml_pipeline.specs import ModelSpec
from ml_pipeline.work.training.task import MODEL, PREDICTIONS

SOURCES = "sources"  # group of the tables, which several models may read
OWN_DATABASE = "warehouse"
KNOWN_AT = {"created": "known when the row is created", "label": "known with the label, never a feature"}


def external_assets(models: Iterable[ModelSpec]) -> list[dg.AssetSpec]:
    """The source tables, each once, and each model's versions in MLflow and prediction log."""
    chosen = list(models)
    readers: dict[dg.AssetKey, list[ModelSpec]] = {}
    for model in chosen:
        readers.setdefault(source_key(model), []).append(model)
    ends = [end for model in chosen for end in _ends(model)]
    return [*(_source(key, found) for key, found in readers.items()), *ends]


def source_key(model: ModelSpec) -> dg.AssetKey:
    """Database, schema and table of a model's source.

    A database of the model's own is named as in its URL, or like the variable that holds the URL. Host, user and
    password are left out.
    """
    return dg.AssetKey([_database(model.source.url), *model.source.table.split(".")])


def _database(url: str | None) -> str:
    if url is None:
        return OWN_DATABASE
    if url.startswith("env:"):
        return url.removeprefix("env:").lower()
    try:
        name = urlsplit(url).path.strip("/")
    except ValueError:  # an invalid URL is reported where it is used
        name = ""
    return name if re.fullmatch(r"\w+", name) else "database"


def _source(key: dg.AssetKey, readers: list[ModelSpec]) -> dg.AssetSpec:
    source = readers[0].source
    columns = {name: column for reader in readers for name, column in reader.source.columns.items()}
    titles = ", ".join(markdown(reader.title) for reader in readers)
    return dg.AssetSpec(
        key,
        description=f"Source of: {titles}. One row per entity ({source.entity}); {source.tenant} names its tenant.",
        group_name=SOURCES,
        kinds={"postgres", "table"},
        owners=sorted({owner for reader in readers for owner in reader.owners}),
        metadata={
            "dagster/table_name": source.table,
            "dagster/column_schema": dg.TableSchema(
                [
                    dg.TableColumn(name, column.type, description=KNOWN_AT[column.known_at])
                    for name, column in columns.items()
                ]
            ),
        },
    )


def _ends(model: ModelSpec) -> list[dg.AssetSpec]:
    title, owners = markdown(model.title), list(model.owners)
    return [
        dg.AssetSpec(
            [model.name, "registered_model"],
            deps=[[model.name, MODEL]],
            description=f"{title}. Versions in MLflow, one registered model per tenant, named {model.name}.<tenant>; "
            "the alias champion points at the version that serves.",
            group_name=model.name,
            kinds={"mlflow"},
            owners=owners,
        ),
        dg.AssetSpec(
            [model.name, "prediction_log"],
            deps=[[model.name, PREDICTIONS]],
            description=f"{title}. Every prediction with its interval, version and time, in ml.predictions; "
            "row-level security enforces tenant isolation.",
            group_name=model.name,
            kinds={"postgres", "table"},
            owners=owners,
            metadata={"dagster/table_name": "ml.predictions"},
        ),
    ]
