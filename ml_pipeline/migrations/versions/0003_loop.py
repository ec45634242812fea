"""Tenant settings, anomalies, and more columns of drift reports, decisions and deployments."""

from alembic import op

from ml_pipeline.migrations import tenancy

revision = "0003"
down_revision = "0002"

TABLES = {
    "ml.settings": """
        CREATE TABLE ml.settings (
            tenant_id TEXT NOT NULL,
            model TEXT NOT NULL,
            name TEXT NOT NULL,
            value JSONB NOT NULL,
            changed_by TEXT NOT NULL,
            changed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (tenant_id, model, name)
        )
    """,
    "ml.anomalies": """
        CREATE TABLE ml.anomalies (
            tenant_id TEXT NOT NULL,
            model TEXT NOT NULL,
            day DATE NOT NULL,
            kind TEXT NOT NULL,
            subject TEXT NOT NULL,
            score DOUBLE PRECISION NOT NULL,
            reason TEXT NOT NULL,
            detail JSONB NOT NULL,
            computed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (tenant_id, model, day, kind, subject)
        )
    """,
}

COLUMNS = {
    "ml.drift_reports": {
        "reference": "TEXT",
        "alert": "BOOLEAN DEFAULT false NOT NULL",
        "recommendation": "TEXT",
        "causes": "JSONB",
        "details": "JSONB",
        "performance": "JSONB",
        "health_parts": "JSONB",
    },
    "ml.decisions": {"state": "TEXT", "settled_at": "TIMESTAMP WITH TIME ZONE"},
    "ml.deployments": {"watch": "TEXT", "watched_at": "TIMESTAMP WITH TIME ZONE"},
}

# For the queries over all tenants that sensors make at every tick.
INDEXES = (
    "CREATE UNIQUE INDEX decisions_waiting ON ml.decisions (tenant_id, model) WHERE state = 'approved'",
    "CREATE INDEX decisions_newest ON ml.decisions (tenant_id, model, kind, created_at)",
    "CREATE INDEX outcomes_by_time ON ml.outcomes (tenant_id, model, label_time)",
    "CREATE INDEX deployments_watched ON ml.deployments (tenant_id, model) WHERE watch = 'open'",
)


def upgrade() -> None:
    for table, statement in TABLES.items():
        op.execute(statement)
        tenancy.isolate_tenants(table)
    for table, columns in COLUMNS.items():
        for name, kind in columns.items():
            op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
    for statement in INDEXES:
        op.execute(statement)
