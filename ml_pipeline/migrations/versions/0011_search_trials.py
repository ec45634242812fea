"""Trials of a search stay in the memory of the training process; the schema that stored them is dropped."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.execute("DROP SCHEMA IF EXISTS optuna CASCADE")
