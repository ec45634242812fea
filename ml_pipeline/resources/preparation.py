"""Prepares the database: creates the missing tables of the pipeline and of MLflow."""

from __future__ import annotations

import logging

import sqlalchemy as sa

from ml_pipeline.resources import postgres
from ml_pipeline.resources.connections import grant_worker_login
from ml_pipeline.resources.registry import SCHEMA as MLFLOW_SCHEMA
from ml_pipeline.resources.registry import Registry
from ml_pipeline.resources.warehouse import MIGRATIONS, Warehouse
from ml_pipeline.settings import Settings


def prepare(settings: Settings) -> None:
    """Create what is missing. If nothing is, neither Alembic nor MLflow is imported."""
    if not is_prepared(settings):
        Warehouse(settings).migrate()
        Registry(settings).prepare()
    grant_worker_login(settings, MLFLOW_SCHEMA)


def is_prepared(settings: Settings) -> bool:
    """Whether the newest migration has run, and MLflow's tables exist."""
    tables = sa.text(
        "SELECT to_regclass('ml.alembic_version') IS NOT NULL AND to_regclass('mlflow.alembic_version') IS NOT NULL"
    )
    revision = sa.text("SELECT version_num FROM ml.alembic_version")
    with postgres.connect(postgres.engine(postgres.parse_url(settings.database_url or ""))) as connection:
        return bool(connection.scalar(tables)) and connection.scalar(revision) == newest_revision()


def newest_revision() -> str:
    """The number of the newest migration, from the file names."""
    return max(file.name for file in (MIGRATIONS / "versions").glob("[0-9]*.py")).partition("_")[0]


def quiet() -> None:
    """Hide log lines of libraries below ERROR; Dagster's event log contains them."""
    for name in ("alembic", "mlflow", "dagster", "botocore"):
        logging.getLogger(name).setLevel(logging.ERROR)
