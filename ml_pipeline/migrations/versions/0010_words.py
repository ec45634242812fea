"""New words in stored data: verdicts and number keys of decisions, tags of versions and runs."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

VERDICTS = {"hold": "blocked", "roll back": "roll_back", "fall back": "fall_back"}
KEYS = {
    "cause": "trigger",
    "held_by": "blocked_by",
    "constant_pairs": "baseline_pairs",
    "constant_mean_loss": "baseline_mean_loss",
    "constant_champion_mean_loss": "baseline_champion_mean_loss",
    "constant_gain": "baseline_gain",
    "constant_gain_lower": "baseline_gain_lower",
    "constant_gain_upper": "baseline_gain_upper",
}
TAGS = {  # in the tables of MLflow and Dagster, if these exist: (table, column) -> tags
    ("mlflow.model_version_tags", "key"): {"cause": "trigger"},
    ("dagster.run_tags", "key"): {"ml_pipeline/cause": "ml_pipeline/trigger"},
}
VERDICT = sa.text("UPDATE ml.decisions SET verdict = :after WHERE verdict = :before")
KEY = sa.text("""
    UPDATE ml.decisions
    SET numbers = numbers - CAST(:before AS text) || jsonb_build_object(CAST(:after AS text), numbers -> :before)
    WHERE jsonb_exists(numbers, :before)
""")
REPORTED = """
    UPDATE ml.drift_reports
    SET performance = performance - 'constant_rise'
        || jsonb_build_object('baseline_rise', performance -> 'constant_rise')
    WHERE jsonb_exists(performance, 'constant_rise')
"""


def upgrade() -> None:
    # Forced row-level security hides all rows from the owner too. No other session sees the table meanwhile.
    op.execute("ALTER TABLE ml.decisions NO FORCE ROW LEVEL SECURITY")
    connection = op.get_bind()
    for before, after in VERDICTS.items():
        connection.execute(VERDICT, {"before": before, "after": after})
    for before, after in KEYS.items():
        connection.execute(KEY, {"before": before, "after": after})
    op.execute("ALTER TABLE ml.decisions FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE ml.drift_reports NO FORCE ROW LEVEL SECURITY")
    op.execute(REPORTED)
    op.execute("ALTER TABLE ml.drift_reports FORCE ROW LEVEL SECURITY")
    for (table, column), renamed in TAGS.items():
        if connection.scalar(sa.text("SELECT to_regclass(:table)"), {"table": table}) is not None:
            for before, after in renamed.items():
                statement = f"UPDATE {table} SET {column} = :after WHERE {column} = :before"  # noqa: S608 - constants
                connection.execute(sa.text(statement), {"before": before, "after": after})
