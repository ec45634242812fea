"""The state of alerts, their deliveries, and indexes that find old rows."""

from alembic import op

from ml_pipeline.migrations import tenancy

revision = "0002"
down_revision = "0001"

# Existing alerts keep NULL: row-level security hides them from the login that migrates.
COLUMNS = {
    "occurrences": "INTEGER DEFAULT 1 NOT NULL",
    "last_seen_at": "TIMESTAMP WITH TIME ZONE",
    "raised_at": "TIMESTAMP WITH TIME ZONE",
    "escalated_at": "TIMESTAMP WITH TIME ZONE",
    "escalated_level": "TEXT",
    "acknowledged_at": "TIMESTAMP WITH TIME ZONE",
    "acknowledged_by": "TEXT",
    "acknowledged_note": "TEXT",
}

DELIVERIES = """
    CREATE TABLE ml.alert_deliveries (
        tenant_id TEXT NOT NULL,
        alert_id UUID NOT NULL,
        channel TEXT NOT NULL,
        occasion TEXT NOT NULL,
        level TEXT NOT NULL,
        model TEXT NOT NULL,
        state TEXT NOT NULL,
        due_at TIMESTAMP WITH TIME ZONE NOT NULL,
        next_attempt_at TIMESTAMP WITH TIME ZONE NOT NULL,
        claimed_until TIMESTAMP WITH TIME ZONE,
        attempts INTEGER DEFAULT 0 NOT NULL,
        last_error TEXT,
        sent_at TIMESTAMP WITH TIME ZONE,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (tenant_id, alert_id, channel, occasion, level)
    )
"""

INDEXES = (
    "CREATE INDEX alerts_by_kind ON ml.alerts (tenant_id, model, kind, as_of)",
    "CREATE INDEX alert_deliveries_due ON ml.alert_deliveries (next_attempt_at) WHERE state = 'pending'",
    "CREATE INDEX alert_deliveries_recent ON ml.alert_deliveries (tenant_id, model, due_at)",
    "CREATE INDEX predictions_by_time ON ml.predictions (tenant_id, predicted_at)",
    "CREATE INDEX predictions_with_features ON ml.predictions (tenant_id, predicted_at) WHERE features IS NOT NULL",
)


def upgrade() -> None:
    for name, kind in COLUMNS.items():
        op.execute(f"ALTER TABLE ml.alerts ADD COLUMN {name} {kind}")
    op.execute(DELIVERIES)
    tenancy.isolate_tenants("ml.alert_deliveries")
    for statement in INDEXES:
        op.execute(statement)
