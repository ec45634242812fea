"""A database of the release before: upgraded whole, or left as it was."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from ml_pipeline.identifiers import BadIdentifier
from ml_pipeline.resources.warehouse import Warehouse


def insert_tenants(engine: sa.Engine, *tenants: str) -> None:
    with engine.begin() as connection:
        for tenant in tenants:
            connection.execute(sa.text("INSERT INTO source.tenants (tenant_id) VALUES (:id)"), {"id": tenant})


def test_ids_that_no_tenant_can_have_stop_the_upgrade_by_name_and_nothing_is_changed(
    warehouse: Warehouse, release_before: Callable[[], sa.Engine]
):
    engine = release_before()
    insert_tenants(engine, "fine", "../../evil", "o'brien", "Acme", "acme")
    with pytest.raises(BadIdentifier) as caught:
        warehouse.migrate()
    said = str(caught.value)
    assert "'../../evil' starts with '.'" in said and '"o\'brien" contains "\'"' in said
    assert "'acme' differs only in case from 'Acme'" in said and "'fine'" not in said
    assert "DELETE FROM source.tenants" in said and "Nothing was changed" in said
    with engine.begin() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM ml.alembic_version")) == "0006"
        assert connection.scalar(sa.text("SELECT to_regclass('ml.versions')")) is None
        assert connection.scalar(sa.text("SELECT count(*) FROM source.tenants")) == 5
        connection.execute(sa.text("DELETE FROM source.tenants WHERE tenant_id IN ('../../evil', 'o''brien', 'Acme')"))
    warehouse.migrate()
    assert warehouse.tenants() == ["acme", "fine"]


def test_stored_words_take_their_new_names_and_nothing_else_changes(warehouse: Warehouse, superuser: sa.Engine):
    insert_tenants(superuser, "acme")
    with superuser.begin() as connection:
        for verdict, numbers in (
            ("hold", {"cause": "drift", "held_by": ["harm"], "score": 0.3}),
            ("roll back", {"loss": 1.5}),
            ("promote", {}),
            ("fall back", {"constant_pairs": 40, "constant_gain_lower": 0.2}),
        ):
            connection.execute(
                sa.text(
                    "INSERT INTO ml.decisions (tenant_id, decision_id, model, kind, verdict, reason, numbers, as_of) "
                    "VALUES ('acme', gen_random_uuid(), 'm', 'retrain', :verdict, 'because', :numbers, now())"
                ),
                {"verdict": verdict, "numbers": json.dumps(numbers)},
            )
        connection.execute(
            sa.text(
                "INSERT INTO ml.drift_reports (tenant_id, model, day, status, baseline_rows, current_rows, drifted, "
                "columns, reason, performance) VALUES ('acme', 'm', '2026-01-01', 'stable', 0, 0, '[]', '{}', '', "
                """'{"rise": 0.2, "constant_rise": null}')"""
            )
        )
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))  # a tag without its version
        connection.execute(
            sa.text(
                "INSERT INTO mlflow.model_version_tags (name, version, key, value) "
                "VALUES ('acme.story_points', 1, 'cause', 'drift'), ('acme.story_points', 1, 'key', 'k')"
            )
        )
        connection.execute(sa.text("UPDATE ml.alembic_version SET version_num = '0009'"))
    warehouse.migrate()
    with superuser.begin() as connection:
        found = connection.execute(sa.text("SELECT verdict, numbers FROM ml.decisions ORDER BY sequence")).all()
        tags = connection.execute(sa.text("SELECT key FROM mlflow.model_version_tags ORDER BY value")).scalars().all()
        performance = connection.scalar(sa.text("SELECT performance FROM ml.drift_reports"))
    assert [tuple(row) for row in found] == [
        ("blocked", {"trigger": "drift", "blocked_by": ["harm"], "score": 0.3}),
        ("roll_back", {"loss": 1.5}),
        ("promote", {}),
        ("fall_back", {"baseline_pairs": 40, "baseline_gain_lower": 0.2}),
    ]
    assert tags == ["trigger", "key"]
    assert performance == {"rise": 0.2, "baseline_rise": None}


def test_the_trials_that_searches_stored_are_dropped(warehouse: Warehouse, superuser: sa.Engine):
    with superuser.begin() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA optuna AUTHORIZATION {warehouse.url.username}"))
        connection.execute(sa.text("CREATE TABLE optuna.studies (study_name TEXT)"))
        connection.execute(sa.text("UPDATE ml.alembic_version SET version_num = '0010'"))
    warehouse.migrate()
    with superuser.begin() as connection:
        assert connection.scalar(sa.text("SELECT to_regnamespace('optuna')")) is None
