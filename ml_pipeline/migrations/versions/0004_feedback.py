"""Feedback on predictions."""

from alembic import op

from ml_pipeline.migrations import tenancy

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE ml.feedback (
            tenant_id TEXT NOT NULL,
            model TEXT NOT NULL,
            entity_id TEXT NOT NULL,
            given_at TIMESTAMP WITH TIME ZONE NOT NULL,
            given_by TEXT NOT NULL,
            verdict TEXT NOT NULL,
            value DOUBLE PRECISION,
            weight DOUBLE PRECISION NOT NULL,
            predicted DOUBLE PRECISION NOT NULL,
            version INTEGER NOT NULL,
            recorded_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (tenant_id, model, entity_id, given_at, given_by)
        )
        """
    )
    tenancy.isolate_tenants("ml.feedback")
