"""The tables of the warehouse for SQLAlchemy. The migrations create them; a test checks that both are equal."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

metadata = sa.MetaData()

Time = sa.TIMESTAMP(timezone=True)


def _table(schema: str, name: str, *columns: sa.Column[Any], key: tuple[str, ...]) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("tenant_id", sa.Text, nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("tenant_id", *key),
        schema=schema,
    )


def _required(name: str, kind: sa.types.TypeEngine[Any] | type[sa.types.TypeEngine[Any]]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _now(name: str) -> sa.Column[Any]:
    return sa.Column(name, Time, nullable=False, server_default=sa.func.now())


def _sequence() -> sa.Column[Any]:
    """Numbers rows in the order of writing; times cannot, since a clock may go back."""
    return sa.Column("sequence", sa.BigInteger, sa.Identity(), nullable=False)


# The migration contains the check of a tenant's id, a copy of the rule in ``ml_pipeline.identifiers``.
tenants = _table("source", "tenants", sa.Column("display_name", sa.Text), _now("created_at"), key=())
sa.Index("tenants_without_case_twins", sa.func.lower(sa.collate(tenants.c.tenant_id, "C")), unique=True)

issues = _table(
    "source",
    "issues",
    _required("issue_key", sa.Text),
    sa.Column("issue_type", sa.Text),
    sa.Column("team", sa.Text),
    sa.Column("reporter", sa.Text),
    sa.Column("priority", sa.Text),
    _required("created_at", Time),
    sa.Column("started_at", Time),
    sa.Column("estimated_at", Time),
    sa.Column("resolved_at", Time),
    sa.Column("story_points", sa.Double),
    sa.Column("summary", sa.Text),
    sa.Column("description", sa.Text),
    key=("issue_key",),
)

pull_requests = _table(
    "source",
    "pull_requests",
    _required("pull_request", sa.Text),
    sa.Column("repository", sa.Text),
    sa.Column("author", sa.Text),
    sa.Column("author_kind", sa.Text),
    sa.Column("team", sa.Text),
    _required("created_at", Time),
    sa.Column("closed_at", Time),
    sa.Column("title", sa.Text),
    sa.Column("body", sa.Text),
    sa.Column("changed_files", sa.Double),
    sa.Column("additions", sa.Double),
    sa.Column("deletions", sa.Double),
    sa.Column("review_cycles", sa.Double),
    sa.Column("rework_commit_count", sa.Double),
    sa.Column("changes_requested", sa.Double),
    sa.Column("commits_after_first_review", sa.Double),
    key=("pull_request",),
)

feature_sets = _table(
    "ml",
    "feature_sets",
    _required("model", sa.Text),
    _required("snapshot_hash", sa.Text),
    _required("as_of", Time),
    _required("rows", sa.Integer),
    _required("matured", sa.Integer),
    _required("path", sa.Text),
    _required("quality_score", sa.Double),
    _required("quality", JSONB),
    sa.Column("typical", sa.Double),  # median or share of the outcomes; None without any
    _now("created_at"),
    _sequence(),
    key=("model", "snapshot_hash"),
)

predictions = _table(
    "ml",
    "predictions",
    _required("model", sa.Text),
    _required("entity_id", sa.Text),
    _required("origin", sa.Text),  # live, shadow or backtest
    _required("version", sa.Integer),  # 0 for a backtest, which has no registered version
    _required("event_time", Time),
    _required("predicted_at", Time),
    _required("value", sa.Double),
    sa.Column("lower", sa.Double),
    sa.Column("upper", sa.Double),
    _required("baseline", sa.Double),
    sa.Column("features", JSONB),
    sa.Column("latency_ms", sa.Double),
    sa.Column("confidence", sa.Double),
    key=("model", "entity_id", "origin", "version"),
)
sa.Index("predictions_by_time", predictions.c.tenant_id, predictions.c.predicted_at)
sa.Index(
    "predictions_with_features",
    predictions.c.tenant_id,
    predictions.c.predicted_at,
    postgresql_where=predictions.c.features.is_not(None),
)

outcomes = _table(
    "ml",
    "outcomes",
    _required("model", sa.Text),
    _required("entity_id", sa.Text),
    _required("label_time", Time),
    _required("value", sa.Double),
    _now("recorded_at"),
    key=("model", "entity_id"),
)

feedback = _table(
    "ml",
    "feedback",
    _required("model", sa.Text),
    _required("entity_id", sa.Text),
    _required("given_at", Time),
    _required("given_by", sa.Text),
    _required("verdict", sa.Text),  # accepted, corrected or rejected
    sa.Column("value", sa.Double),  # the label that the feedback implies, in the reported unit; NULL for a rejection
    _required("weight", sa.Double),  # above 0; an outcome has weight 1
    _required("predicted", sa.Double),
    _required("version", sa.Integer),
    _now("recorded_at"),
    key=("model", "entity_id", "given_at", "given_by"),
)

daily_metrics = _table(
    "ml",
    "daily_metrics",
    _required("model", sa.Text),
    _required("day", sa.Date),
    _required("origin", sa.Text),  # live or backtest
    sa.Column("version", sa.Integer),
    _required("outcomes", sa.Integer),
    _required("evaluated", sa.Integer),
    sa.Column("completeness", sa.Double),
    _required("metric", sa.Text),
    sa.Column("value", sa.Double),
    sa.Column("baseline_value", sa.Double),
    sa.Column("skill", sa.Double),
    _required("metrics", JSONB),
    _now("computed_at"),
    key=("model", "day"),
)

drift_reports = _table(
    "ml",
    "drift_reports",
    _required("model", sa.Text),
    _required("day", sa.Date),
    _required("status", sa.Text),  # stable, drift or insufficient_data
    sa.Column("severity", sa.Text),
    sa.Column("score", sa.Double),
    _required("baseline_rows", sa.Integer),
    _required("current_rows", sa.Integer),
    _required("drifted", JSONB),
    _required("columns", JSONB),
    sa.Column("health", sa.Double),
    sa.Column("version", sa.Integer),
    _required("reason", sa.Text),
    sa.Column("reference", sa.Text),  # data that the last days were compared with: a version's profile, or earlier days
    sa.Column("alert", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("recommendation", sa.Text),
    sa.Column("causes", JSONB),
    sa.Column("details", JSONB),  # drift of predictions, labels and correlations, and the basis of the thresholds
    sa.Column("performance", JSONB),
    sa.Column("health_parts", JSONB),
    _now("computed_at"),
    key=("model", "day"),
)

anomalies = _table(
    "ml",
    "anomalies",
    _required("model", sa.Text),
    _required("day", sa.Date),
    _required("kind", sa.Text),
    _required("subject", sa.Text),  # an entity, or the unusual figure of the day
    _required("score", sa.Double),  # p-value
    _required("reason", sa.Text),
    _required("detail", JSONB),
    _now("computed_at"),
    key=("model", "day", "kind", "subject"),
)

# The versions that the pipeline registered. Everyone who can open MLflow's pages can create versions there; one whose
# manifest is not in this table for its tenant and model is refused, whatever its tags are.
versions = _table(
    "ml",
    "versions",
    _required("model", sa.Text),
    _required("manifest_sha256", sa.Text),
    _required("key", sa.Text),
    _now("created_at"),
    key=("model", "manifest_sha256"),
)

decisions = _table(
    "ml",
    "decisions",
    _required("decision_id", sa.Uuid),
    _required("model", sa.Text),
    _required("kind", sa.Text),  # retrain, train, promote, promote_by_hand, watch, rollback
    _required("verdict", sa.Text),
    _required("reason", sa.Text),
    _required("numbers", JSONB),
    sa.Column("version", sa.Integer),
    _required("as_of", Time),
    sa.Column("state", sa.Text),  # of a decision that starts a run: approved, done or failed
    sa.Column("settled_at", Time),
    _now("created_at"),
    _sequence(),
    key=("decision_id",),
)

deployments = _table(
    "ml",
    "deployments",
    _required("deployment_id", sa.Uuid),
    _required("model", sa.Text),
    _required("action", sa.Text),  # promote, promote_by_hand, rollback, alias_by_hand
    _required("version", sa.Integer),  # 0 if a person removed the alias
    sa.Column("replaced", sa.Integer),
    _required("state", sa.Text),  # intent, done or undone
    _required("reason", sa.Text),
    _required("as_of", Time),
    sa.Column("watch", sa.Text),  # open, kept, rolled_back or superseded; NULL without a version to compare with
    sa.Column("watched_at", Time),
    _now("created_at"),
    sa.Column("finished_at", Time),
    _sequence(),
    key=("deployment_id",),
)

settings = _table(
    "ml",
    "settings",
    _required("model", sa.Text),  # empty: all models of the tenant
    _required("name", sa.Text),
    _required("value", JSONB),
    _required("changed_by", sa.Text),
    _now("changed_at"),
    key=("model", "name"),
)

alerts = _table(
    "ml",
    "alerts",
    _required("alert_id", sa.Uuid),
    _required("model", sa.Text),
    _required("kind", sa.Text),
    _required("level", sa.Text),
    _required("message", sa.Text),
    _required("detail", JSONB),
    _required("as_of", Time),
    _now("created_at"),
    sa.Column("occurrences", sa.Integer, nullable=False, server_default="1"),
    sa.Column("last_seen_at", Time),
    sa.Column("raised_at", Time),  # clock time (not as-of time) at which it reached its level
    sa.Column("escalated_at", Time),
    sa.Column("escalated_level", sa.Text),
    sa.Column("acknowledged_at", Time),
    sa.Column("acknowledged_by", sa.Text),
    sa.Column("acknowledged_note", sa.Text),
    _sequence(),
    key=("alert_id",),
)
sa.Index("alerts_by_kind", alerts.c.tenant_id, alerts.c.model, alerts.c.kind, alerts.c.as_of)

alert_deliveries = _table(
    "ml",
    "alert_deliveries",
    _required("alert_id", sa.Uuid),
    _required("channel", sa.Text),  # webhook, smtp or log
    _required("occasion", sa.Text),  # raised or escalated
    _required("level", sa.Text),
    _required("model", sa.Text),
    _required("state", sa.Text),  # pending, sent, failed or cancelled
    _required("due_at", Time),
    _required("next_attempt_at", Time),
    sa.Column("claimed_until", Time),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("last_error", sa.Text),
    sa.Column("sent_at", Time),
    _now("created_at"),
    key=("alert_id", "channel", "occasion", "level"),
)
sa.Index(
    "alert_deliveries_due",
    alert_deliveries.c.next_attempt_at,
    postgresql_where=alert_deliveries.c.state == "pending",
)
sa.Index("alert_deliveries_recent", alert_deliveries.c.tenant_id, alert_deliveries.c.model, alert_deliveries.c.due_at)

quarantine = _table(
    "ml",
    "quarantine",
    _required("file", sa.Text),
    _required("line", sa.BigInteger),
    _required("reason", sa.Text),
    _required("content", sa.Text),
    _now("imported_at"),
    key=("file", "line"),
)

# For the queries over all tenants that sensors make at every tick.
sa.Index(
    "decisions_waiting",
    decisions.c.tenant_id,
    decisions.c.model,
    unique=True,
    postgresql_where=decisions.c.state == "approved",
)
sa.Index("outcomes_by_time", outcomes.c.tenant_id, outcomes.c.model, outcomes.c.label_time)
sa.Index("decisions_newest", decisions.c.tenant_id, decisions.c.model, decisions.c.kind, decisions.c.sequence)
sa.Index("deployments_newest", deployments.c.tenant_id, deployments.c.model, deployments.c.sequence)
sa.Index("feature_sets_newest", feature_sets.c.tenant_id, feature_sets.c.model, feature_sets.c.sequence)
sa.Index(
    "deployments_watched", deployments.c.tenant_id, deployments.c.model, postgresql_where=deployments.c.watch == "open"
)
