"""Roles, schemas, tables and tenant isolation."""

from alembic import op

from ml_pipeline.migrations import tenancy

revision = "0001"
down_revision = None

TABLES = {
    "ml.alerts": """
        CREATE TABLE ml.alerts (
            tenant_id TEXT NOT NULL,
            alert_id UUID NOT NULL,
            model TEXT NOT NULL,
            kind TEXT NOT NULL,
            level TEXT NOT NULL,
            message TEXT NOT NULL,
            detail JSONB NOT NULL,
            as_of TIMESTAMP WITH TIME ZONE NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (tenant_id, alert_id)
        )
    """,
    "ml.daily_metrics": """
        CREATE TABLE ml.daily_metrics (
            tenant_id TEXT NOT NULL,
            model TEXT NOT NULL,
            day DATE NOT NULL,
            origin TEXT NOT NULL,
            version INTEGER,
            outcomes INTEGER NOT NULL,
            evaluated INTEGER NOT NULL,
            completeness DOUBLE PRECISION,
            metric TEXT NOT NULL,
            value DOUBLE PRECISION,
            baseline_value DOUBLE PRECISION,
            skill DOUBLE PRECISION,
            metrics JSONB NOT NULL,
            computed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (tenant_id, model, day)
        )
    """,
    "ml.decisions": """
        CREATE TABLE ml.decisions (
            tenant_id TEXT NOT NULL,
            decision_id UUID NOT NULL,
            model TEXT NOT NULL,
            kind TEXT NOT NULL,
            verdict TEXT NOT NULL,
            reason TEXT NOT NULL,
            numbers JSONB NOT NULL,
            version INTEGER,
            as_of TIMESTAMP WITH TIME ZONE NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (tenant_id, decision_id)
        )
    """,
    "ml.deployments": """
        CREATE TABLE ml.deployments (
            tenant_id TEXT NOT NULL,
            deployment_id UUID NOT NULL,
            model TEXT NOT NULL,
            action TEXT NOT NULL,
            version INTEGER NOT NULL,
            replaced INTEGER,
            state TEXT NOT NULL,
            reason TEXT NOT NULL,
            as_of TIMESTAMP WITH TIME ZONE NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            finished_at TIMESTAMP WITH TIME ZONE,
            PRIMARY KEY (tenant_id, deployment_id)
        )
    """,
    "ml.drift_reports": """
        CREATE TABLE ml.drift_reports (
            tenant_id TEXT NOT NULL,
            model TEXT NOT NULL,
            day DATE NOT NULL,
            status TEXT NOT NULL,
            severity TEXT,
            score DOUBLE PRECISION,
            baseline_rows INTEGER NOT NULL,
            current_rows INTEGER NOT NULL,
            drifted JSONB NOT NULL,
            columns JSONB NOT NULL,
            health DOUBLE PRECISION,
            version INTEGER,
            reason TEXT NOT NULL,
            computed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (tenant_id, model, day)
        )
    """,
    "ml.feature_sets": """
        CREATE TABLE ml.feature_sets (
            tenant_id TEXT NOT NULL,
            model TEXT NOT NULL,
            snapshot_hash TEXT NOT NULL,
            as_of TIMESTAMP WITH TIME ZONE NOT NULL,
            rows INTEGER NOT NULL,
            matured INTEGER NOT NULL,
            path TEXT NOT NULL,
            quality_score DOUBLE PRECISION NOT NULL,
            quality JSONB NOT NULL,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (tenant_id, model, snapshot_hash)
        )
    """,
    "ml.outcomes": """
        CREATE TABLE ml.outcomes (
            tenant_id TEXT NOT NULL,
            model TEXT NOT NULL,
            entity_id TEXT NOT NULL,
            label_time TIMESTAMP WITH TIME ZONE NOT NULL,
            value DOUBLE PRECISION NOT NULL,
            recorded_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (tenant_id, model, entity_id)
        )
    """,
    "ml.predictions": """
        CREATE TABLE ml.predictions (
            tenant_id TEXT NOT NULL,
            model TEXT NOT NULL,
            entity_id TEXT NOT NULL,
            origin TEXT NOT NULL,
            version INTEGER NOT NULL,
            event_time TIMESTAMP WITH TIME ZONE NOT NULL,
            predicted_at TIMESTAMP WITH TIME ZONE NOT NULL,
            value DOUBLE PRECISION NOT NULL,
            lower DOUBLE PRECISION,
            upper DOUBLE PRECISION,
            baseline DOUBLE PRECISION NOT NULL,
            features JSONB,
            latency_ms DOUBLE PRECISION,
            PRIMARY KEY (tenant_id, model, entity_id, origin, version)
        )
    """,
    "ml.quarantine": """
        CREATE TABLE ml.quarantine (
            tenant_id TEXT NOT NULL,
            file TEXT NOT NULL,
            line BIGINT NOT NULL,
            reason TEXT NOT NULL,
            content TEXT NOT NULL,
            imported_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (tenant_id, file, line)
        )
    """,
    "source.issues": """
        CREATE TABLE source.issues (
            tenant_id TEXT NOT NULL,
            issue_key TEXT NOT NULL,
            issue_type TEXT,
            team TEXT,
            reporter TEXT,
            priority TEXT,
            created_at TIMESTAMP WITH TIME ZONE NOT NULL,
            started_at TIMESTAMP WITH TIME ZONE,
            estimated_at TIMESTAMP WITH TIME ZONE,
            resolved_at TIMESTAMP WITH TIME ZONE,
            story_points DOUBLE PRECISION,
            summary TEXT,
            description TEXT,
            PRIMARY KEY (tenant_id, issue_key)
        )
    """,
    "source.pull_requests": """
        CREATE TABLE source.pull_requests (
            tenant_id TEXT NOT NULL,
            pull_request TEXT NOT NULL,
            repository TEXT,
            author TEXT,
            author_kind TEXT,
            team TEXT,
            created_at TIMESTAMP WITH TIME ZONE NOT NULL,
            closed_at TIMESTAMP WITH TIME ZONE,
            title TEXT,
            body TEXT,
            changed_files DOUBLE PRECISION,
            additions DOUBLE PRECISION,
            deletions DOUBLE PRECISION,
            review_cycles DOUBLE PRECISION,
            rework_commit_count DOUBLE PRECISION,
            changes_requested DOUBLE PRECISION,
            commits_after_first_review DOUBLE PRECISION,
            PRIMARY KEY (tenant_id, pull_request)
        )
    """,
    "source.tenants": """
        CREATE TABLE source.tenants (
            tenant_id TEXT NOT NULL,
            display_name TEXT,
            created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
            PRIMARY KEY (tenant_id)
        )
    """,
}


def upgrade() -> None:
    tenancy.create_roles()
    for schema in ("source", "ml"):
        tenancy.create_schema(schema)
    for table, statement in TABLES.items():
        op.execute(statement)
        tenancy.isolate_tenants(table)
