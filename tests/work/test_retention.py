"""What goes at which age, that nothing younger does, and that each tenant loses only its own."""

from __future__ import annotations

import datetime as dt
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from ml_pipeline.resources import tables
from ml_pipeline.resources.snapshots import Snapshots, SnapshotUnusable
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.work import retention
from ml_pipeline.work.retention import Pruned, prune
from ml_pipeline.work.training.task import FEATURES

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)
SECOND = dt.timedelta(seconds=1)


def stored(warehouse: Warehouse, table: sa.Table, *rows: dict[str, Any], tenant: str = "acme") -> None:
    warehouse.add_tenant(tenant)
    with warehouse.tenant(tenant) as connection:
        for row in rows:
            connection.execute(sa.insert(table).values({"tenant_id": tenant, "model": "story_points", **row}))


def left(warehouse: Warehouse, column: sa.Column) -> list[Any]:
    with warehouse.operator() as connection:
        return list(connection.scalars(sa.select(column).order_by(column.table.c.tenant_id, column)))


def pruned(settings: Settings, **values: Any) -> dict[str, int]:
    """What was deleted, after a second pruning found nothing more."""
    settings = settings.model_copy(update=values)
    first = prune(settings, now=NOW)
    second = prune(settings, now=NOW)
    assert first.failures == second.failures == {}
    assert +second.counts == Counter()
    return dict(+first.counts)


def prediction(entity: str, age: dt.timedelta, features: dict[str, Any] | None = None) -> dict[str, Any]:
    at = NOW - age
    numbers = {"value": 3.0, "baseline": 2.0, "version": 1}
    row = {"entity_id": entity, "origin": "live", "event_time": at, "predicted_at": at, **numbers}
    return row if features is None else row | {"features": features}


def alert(kind: str, age: dt.timedelta, *, acknowledged: bool = False, **values: Any) -> dict[str, Any]:
    at = NOW - age
    seen = {"as_of": at, "created_at": at, "last_seen_at": at, "acknowledged_at": at if acknowledged else None}
    return {"alert_id": uuid.uuid4(), "kind": kind, "level": "HIGH", "message": "", "detail": {}, **seen, **values}


def test_a_prediction_keeps_its_features_for_seven_days_and_itself_for_longer(settings, warehouse):
    rows = [
        prediction("old", 7 * DAY + SECOND, {"size": 1}),
        prediction("young", 7 * DAY - DAY, {"size": 2}),
        prediction("without", 30 * DAY),
    ]
    stored(warehouse, tables.predictions, *rows)
    assert pruned(settings) == {"features of predictions": 1}
    table = tables.predictions
    with warehouse.operator() as connection:
        found = connection.execute(sa.select(table.c.entity_id, table.c.features, table.c.value)).all()
        is_null = connection.scalars(sa.select(table.c.entity_id).where(table.c.features.is_(sa.null()))).all()
    assert sorted(found) == [("old", None, 3.0), ("without", None, 3.0), ("young", {"size": 2}, 3.0)]
    assert sorted(is_null) == ["old", "without"]  # nothing at all, and not the JSON value null


def test_predictions_go_after_their_days(settings, warehouse):
    stored(warehouse, tables.predictions, prediction("old", 401 * DAY, {"a": 1}), prediction("young", 399 * DAY))
    assert pruned(settings) == {"predictions": 1}
    assert left(warehouse, tables.predictions.c.entity_id) == ["young"]


def test_more_rows_than_a_batch_go_in_several(settings, warehouse, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 7)
    old = [prediction(f"old-{number}", 500 * DAY) for number in range(21)]
    full = [prediction(f"full-{number}", 30 * DAY, {"a": 1}) for number in range(20)]
    stored(warehouse, tables.predictions, *old, *full)
    assert pruned(settings) == {"predictions": 21, "features of predictions": 20}
    assert len(left(warehouse, tables.predictions.c.entity_id)) == 20


def history(warehouse: Warehouse, age: dt.timedelta) -> None:
    at = NOW - age
    day = {"model": "story_points", "day": at.date()}
    counts = {"baseline_rows": 1, "current_rows": 1, "drifted": [], "columns": {}, "status": "stable", "reason": ""}
    stored(warehouse, tables.drift_reports, day | counts)
    numbers = {"origin": "live", "outcomes": 1, "evaluated": 1, "metric": "mae", "metrics": {}}
    stored(warehouse, tables.daily_metrics, day | numbers)
    made = {"verdict": "x", "reason": "", "numbers": {}, "as_of": at, "created_at": at}
    kinds = [("retrain", "done"), ("promote", None), ("rollback", None), ("retrain", "approved")]
    decided = [
        made | {"decision_id": uuid.uuid4(), "kind": kind, "state": state, "model": f"model of {age.days} days"}
        for kind, state in kinds
    ]
    stored(warehouse, tables.decisions, *decided)


def test_history_is_kept_for_ever_unless_told_otherwise(settings, warehouse):
    history(warehouse, 3000 * DAY)
    assert pruned(settings) == {}


def test_history_goes_after_its_days_but_not_what_a_version_was_promoted_with(settings, warehouse):
    history(warehouse, 102 * DAY)
    history(warehouse, 98 * DAY)
    assert pruned(settings, history_retention_days=100) == {"daily metrics": 1, "drift reports": 1, "decisions": 1}
    assert left(warehouse, tables.daily_metrics.c.day) == [(NOW - 98 * DAY).date()]
    assert left(warehouse, tables.drift_reports.c.day) == [(NOW - 98 * DAY).date()]
    kinds = ["promote", "promote", "retrain", "retrain", "retrain", "rollback", "rollback"]
    assert left(warehouse, tables.decisions.c.kind) == kinds


def test_anomalies_go_with_the_predictions(settings, warehouse):
    fixed = {"kind": "prediction", "subject": "A-1", "score": 0.001, "reason": "", "detail": {}}
    for age in (402, 398):
        stored(warehouse, tables.anomalies, fixed | {"day": (NOW - age * DAY).date()})
    assert pruned(settings) == {"anomalies": 1}


def test_acknowledged_alerts_go_after_their_days_and_open_ones_much_later(settings, warehouse):
    rows = [
        alert("seen, old", 91 * DAY, acknowledged=True),
        alert("seen, young", 89 * DAY, acknowledged=True),
        alert("seen, still coming", 91 * DAY, acknowledged=True, last_seen_at=NOW - DAY),
        alert("seen, stored by a backfill", 91 * DAY, acknowledged=True, created_at=NOW - DAY),
        alert("open, old", 399 * DAY),
        alert("open, very old", 401 * DAY),
        alert("from before there were times", 91 * DAY, acknowledged=True, last_seen_at=None),
    ]
    stored(warehouse, tables.alerts, *rows)
    fixed = {"channel": "log", "occasion": "raised", "level": "HIGH", "state": "sent", "due_at": NOW}
    deliveries = [fixed | {"alert_id": row["alert_id"], "next_attempt_at": NOW} for row in rows]
    stored(warehouse, tables.alert_deliveries, *deliveries)
    assert pruned(settings) == {"alerts": 3, "alert deliveries": 3}
    kept = ["open, old", "seen, still coming", "seen, stored by a backfill", "seen, young"]
    assert left(warehouse, tables.alerts.c.kind) == kept
    assert set(left(warehouse, tables.alert_deliveries.c.alert_id)) == set(left(warehouse, tables.alerts.c.alert_id))


def test_a_dry_run_counts_what_would_go_and_deletes_nothing(settings, warehouse):
    stored(warehouse, tables.predictions, prediction("old", 401 * DAY, {"a": 1}), prediction("full", 8 * DAY, {"a": 1}))
    counted = prune(settings, now=NOW, dry_run=True)
    assert dict(+counted.counts) == {"predictions": 1, "features of predictions": 1}
    assert len(left(warehouse, tables.predictions.c.entity_id)) == 2
    assert pruned(settings) == dict(+counted.counts)


def test_only_the_tenants_asked_for_lose_rows(settings, warehouse):
    for tenant in ("acme", "globex"):
        stored(warehouse, tables.predictions, prediction("old", 500 * DAY), tenant=tenant)
    done: list[str] = []
    result = prune(settings, now=NOW, tenants=["acme"], announce=done.append)
    assert (dict(+result.counts), done) == ({"predictions": 1}, ["acme"])
    assert left(warehouse, tables.predictions.c.tenant_id) == ["globex"]


def test_alerts_that_belong_to_no_tenant_are_pruned_too(settings, warehouse):
    row = {"tenant_id": "__global__", "model": "*", **alert("run_failed", 500 * DAY)}
    with warehouse.tenant("__global__") as connection:
        connection.execute(sa.insert(tables.alerts).values(row))
    assert pruned(settings) == {"alerts": 1}


def test_an_interrupted_pruning_is_taken_up_by_the_next(settings, warehouse, monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 5)
    stored(warehouse, tables.predictions, *(prediction(f"old-{number}", 500 * DAY) for number in range(20)))
    batches = retention._apply

    def interrupted(*given):
        yield next(batches(*given))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(retention, "_apply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prune(settings, now=NOW)
    assert len(left(warehouse, tables.predictions.c.entity_id)) == 15
    assert pruned(settings) == {"predictions": 15}


def test_a_tenant_that_fails_does_not_keep_the_others_from_being_pruned(settings, warehouse, tmp_path: Path):
    snapshot(settings, "acme", 1.0, 100)
    file = snapshot(settings, "acme", 2.0, 50)
    file.unlink()
    file.mkdir()  # a store that does not let go of a file
    snapshot(settings, "acme", 3.0, 0)
    stored(warehouse, tables.predictions, prediction("old", 500 * DAY), tenant="globex")
    result: Pruned = prune(settings, now=NOW)
    assert result.failures.keys() == {"acme"}
    assert result.failures["acme"].startswith("SnapshotUnusable: ")
    assert result.counts["predictions"] == 1


def snapshot(settings: Settings, tenant: str, value: float, age: float) -> Path:
    """A feature snapshot of its own content, and its file."""
    digest, url = Snapshots(settings).write(tenant, "story_points", pd.DataFrame({"size": [value]}))
    facts = {"as_of": NOW, "rows": 1, "matured": 1, "quality_score": 100.0, "quality": {}}
    row = {"snapshot_hash": digest, "path": url, "created_at": NOW - age * DAY, **facts}
    stored(Warehouse(settings), tables.feature_sets, row, tenant=tenant)
    return Path(url)


def test_snapshots_go_when_they_are_old_and_not_the_newest(settings, warehouse):
    files = [snapshot(settings, "acme", float(age), age) for age in (90, 31, 29)]
    only = snapshot(settings, "globex", 1.0, 90)
    assert pruned(settings) == {"feature snapshots": 2}
    assert [file.exists() for file in files] == [False, False, True]
    assert only.exists()
    assert left(warehouse, tables.feature_sets.c.path) == [str(files[2]), str(only)]


def test_a_snapshot_that_a_version_was_trained_on_is_kept(tenant, make_issues):
    tenant.holds(make_issues(45)).train(40)
    tenant.train(42, (FEATURES,))
    tenant.train(44, (FEATURES,))
    with Warehouse(tenant.settings).tenant(tenant.name) as connection:
        long_ago = tables.feature_sets.c.created_at - 60 * DAY
        connection.execute(sa.update(tables.feature_sets).values(created_at=long_ago))
    before = tenant.rows(tables.feature_sets)
    assert len(before) == 3
    assert pruned(tenant.settings) == {"feature snapshots": 1, "features of predictions": len(features(tenant))}
    assert tenant.rows(tables.feature_sets) == [before[0], before[2]]
    [version] = tenant.versions()
    assert version.tags["snapshot_hash"] == before[0]["snapshot_hash"]
    Snapshots(tenant.settings).read(before[0]["path"], before[0]["snapshot_hash"], tenant=tenant.name)


def features(tenant) -> list[dict[str, Any]]:
    """Predictions made long enough ago to lose their features, by a tenant whose days are past."""
    return [row for row in tenant.rows(tables.predictions) if row["predicted_at"] < NOW - 7 * DAY]


def test_a_snapshot_that_was_cut_off_between_file_and_row_is_finished(settings, warehouse):
    snapshot(settings, "acme", 1.0, 90).unlink()
    snapshot(settings, "acme", 2.0, 0)
    assert pruned(settings) == {"feature snapshots": 1}


def test_nothing_outside_a_tenants_own_snapshots_is_deleted(settings, warehouse, tmp_path: Path):
    theirs = snapshot(settings, "globex", 1.0, 0)
    outside = tmp_path / "outside.parquet"
    outside.write_bytes(b"")
    facts = {"as_of": NOW, "rows": 1, "matured": 1, "quality_score": 100.0, "quality": {}, "created_at": NOW - 90 * DAY}
    for number, path in enumerate((theirs, outside, f"{settings.artifacts}/snapshots/acme/../../outside.parquet")):
        stored(warehouse, tables.feature_sets, {"snapshot_hash": str(number), "path": str(path), **facts})
        with pytest.raises(SnapshotUnusable, match="not a snapshot of tenant acme"):
            Snapshots(settings).remove("acme", str(path))
    snapshot(settings, "acme", 2.0, 0)
    assert pruned(settings) == {}
    assert theirs.exists() and outside.exists()
