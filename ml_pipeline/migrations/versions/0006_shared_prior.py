"""The typical outcome of a tenant, for the prior that tenants can share."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("ALTER TABLE ml.feature_sets ADD COLUMN typical DOUBLE PRECISION")
