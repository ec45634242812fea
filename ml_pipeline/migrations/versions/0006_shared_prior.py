"""What is typical of a tenant's outcomes, for the prior of those who share."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("ALTER TABLE ml.feature_sets ADD COLUMN typical DOUBLE PRECISION")
