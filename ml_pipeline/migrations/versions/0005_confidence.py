"""The confidence of predictions."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("ALTER TABLE ml.predictions ADD COLUMN confidence DOUBLE PRECISION")
