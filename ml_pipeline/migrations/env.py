"""Runs the migrations on the database of the caller (``Warehouse.migrate``)."""

import sqlalchemy as sa
from alembic import context

from ml_pipeline.resources import postgres, tables

url = context.config.attributes["url"]

with postgres.exclusive(url, "migrations"), sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
    connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS ml"))
    connection.commit()
    context.configure(connection=connection, target_metadata=tables.metadata, version_table_schema="ml")
    with context.begin_transaction():
        context.run_migrations()
