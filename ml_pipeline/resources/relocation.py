"""Corrects the file addresses in MLflow's tables after the installation was moved.

Only MLflow's pages need this: the pipeline itself finds moved files in the current artifact store.
"""

from __future__ import annotations

import sqlalchemy as sa

from ml_pipeline.resources import postgres, store
from ml_pipeline.settings import Settings

# One statement for each column of MLflow with an address in the artifact store.
RELOCATED = (
    "UPDATE mlflow.runs SET artifact_uri = :new || substr(artifact_uri, length(:old) + 1) WHERE starts_with("
    "artifact_uri, :old || '/') AND experiment_id = (SELECT experiment_id FROM mlflow.experiments WHERE name = :name)",
    "UPDATE mlflow.model_versions SET source = :new || substr(source, length(:old) + 1) "
    "WHERE name = :name AND starts_with(source, :old || '/')",
    "UPDATE mlflow.model_versions SET storage_location = :new || substr(storage_location, length(:old) + 1) "
    "WHERE name = :name AND starts_with(storage_location, :old || '/')",
    "UPDATE mlflow.experiments SET artifact_location = :new WHERE name = :name",
)


def moved_locations(settings: Settings) -> list[tuple[str, str, str]]:
    """Registered models with an old address in MLflow's tables whose files are in the current artifact store.

    Returns
    -------
    list of (str, str, str)
        Name, address in MLflow's tables, current address.
    """
    recorded = sa.text("SELECT name, artifact_location FROM mlflow.experiments ORDER BY name")
    with _connected(settings) as connection:
        experiments = connection.execute(recorded).all()
    moved = []
    for name, location in experiments:
        model, _, tenant = name.partition(".")
        here = f"{store.as_url(settings.artifacts)}/models/{tenant}/{model}"
        if tenant and location.endswith(f"/models/{tenant}/{model}") and location != here and store.exists(here):
            moved.append((name, location, here))
    return moved


def relocate(settings: Settings) -> int:
    """Write the current addresses into MLflow's tables; return the number of registered models changed."""
    moved = moved_locations(settings)
    with _connected(settings) as connection, connection.begin():
        for name, old, new in moved:
            for statement in RELOCATED:
                connection.execute(sa.text(statement), {"name": name, "old": old, "new": new})
    return len(moved)


def _connected(settings: Settings) -> sa.Connection:
    return postgres.connect(postgres.engine(postgres.parse_url(settings.database_url or "")))
