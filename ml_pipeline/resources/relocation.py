"""After a move: the addresses of files in MLflow's tables, which its pages go by.

The pipeline itself needs none of this: it looks below the artifact store of today for what was recorded elsewhere.
"""

from __future__ import annotations

import sqlalchemy as sa

from ml_pipeline.resources import postgres, store
from ml_pipeline.settings import Settings

# Every column of MLflow's that holds an address of the artifact store.
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
    """What MLflow's tables name under another root although it is in the artifact store of today.

    Of each such registered model its name, the address in the tables, and the one of today.
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
    """Writes the addresses of today into MLflow's tables; returns of how many registered models."""
    moved = moved_locations(settings)
    with _connected(settings) as connection, connection.begin():
        for name, old, new in moved:
            for statement in RELOCATED:
                connection.execute(sa.text(statement), {"name": name, "old": old, "new": new})
    return len(moved)


def _connected(settings: Settings) -> sa.Connection:
    return postgres.connect(postgres.engine(postgres.parse_url(settings.database_url or "")))
