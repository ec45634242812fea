"""Runs the migrations on the database that the caller names."""

import sqlalchemy as sa
from alembic import context

from ml_pipeline.resources import tables

url = context.config.attributes["url"]

with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
    # Two processes that start at once must not migrate at once.
    connection.execute(sa.text("SELECT pg_advisory_lock(hashtext('ml_pipeline.migrations'))"))
    connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS ml"))
    connection.commit()
    context.configure(connection=connection, target_metadata=tables.metadata, version_table_schema="ml")
    with context.begin_transaction():
        context.run_migrations()
    connection.execute(sa.text("SELECT pg_advisory_unlock(hashtext('ml_pipeline.migrations'))"))
    connection.commit()
