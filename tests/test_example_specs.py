"""The specifications under ``examples/specs``, each on the public data it was written for, from rows to predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from benchmarks import data
from ml_pipeline.resources import postgres, tables
from ml_pipeline.resources.registry import CHAMPION, Registry
from ml_pipeline.resources.snapshots import Snapshots
from ml_pipeline.resources.warehouse import APP_ROLE, Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.specs import ModelSpec, load_specs
from ml_pipeline.work.training.task import TaskReport, TrainingTask, run_training

EXAMPLES = Path(__file__).parents[1] / "examples" / "specs"
LATE_2010 = pd.Timestamp("2010-10-15", tz="UTC")
SPRING_2015 = pd.Timestamp("2015-04-11", tz="UTC")
MONTH = pd.Timedelta(days=30)


@pytest.fixture(scope="module")
def specs() -> dict[str, ModelSpec]:
    return load_specs([EXAMPLES])


@pytest.fixture(scope="module")
def calls(shared_data: Path) -> pd.DataFrame:
    """The calls of the year before ``LATE_2010``, and one after it that nothing may see."""
    found = data.calls(shared_data)
    if found is None:
        pytest.skip("no calls of the bank among the real data")
    since = found["called_at"] > LATE_2010 - pd.Timedelta(days=420)
    return found[since & (found["called_at"] < LATE_2010 + pd.Timedelta(days=1))]


@pytest.fixture(scope="module")
def commits(shared_data: Path) -> pd.DataFrame:
    """What a project's repository held in the spring of 2015: fixes that came later are not there."""
    found = dict(data.commits(shared_data)).get("Mahout")
    if found is None:
        pytest.skip("no commits of Mahout among the real data")
    return as_known(found, SPRING_2015)


def as_known(commits: pd.DataFrame, moment: pd.Timestamp) -> pd.DataFrame:
    existing = commits[commits["committed_at"] <= moment]
    return existing.assign(fixed_at=existing["fixed_at"].where(existing["fixed_at"] <= moment))


def train(settings: Settings, spec: ModelSpec, rows: pd.DataFrame, tenant: str, moment: pd.Timestamp) -> TaskReport:
    """Puts the rows into the specification's table as a team would, then runs features, model and predictions."""
    warehouse = Warehouse(settings)
    schema, name = spec.source.table.split(".")
    with postgres.engine(warehouse.url).begin() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
        rows.assign(tenant_id=tenant).to_sql(name, connection, schema=schema, index=False)
        connection.execute(sa.text(f"GRANT USAGE ON SCHEMA {schema} TO {APP_ROLE}"))
        connection.execute(sa.text(f"GRANT SELECT ON {schema}.{name} TO {APP_ROLE}"))
        for word in ("ENABLE", "FORCE"):
            connection.execute(sa.text(f"ALTER TABLE {schema}.{name} {word} ROW LEVEL SECURITY"))
        own = "tenant_id = nullif(current_setting('app.tenant_id', true), '')"
        connection.execute(sa.text(f"CREATE POLICY tenant_isolation ON {schema}.{name} TO {APP_ROLE} USING ({own})"))
    warehouse.add_tenant(tenant)
    report = run_training(TrainingTask(settings, spec, tenant, moment.isoformat()))
    assert report.error is None
    return report


def stored(settings: Settings, tenant: str, table: sa.Table) -> list[dict]:
    with Warehouse(settings).tenant(tenant) as connection:
        return [dict(row) for row in connection.execute(sa.select(table)).mappings()]


def snapshot(settings: Settings, tenant: str) -> pd.DataFrame:
    (row,) = stored(settings, tenant, tables.feature_sets)
    return Snapshots(settings).read(row["path"], row["snapshot_hash"], tenant=tenant)


def test_lead_score_goes_from_a_table_to_the_probabilities_of_open_leads(settings: Settings, specs, calls):
    train(settings, specs["lead_score"], calls, "bank", LATE_2010)
    (version,) = Registry(settings).versions("bank", "lead_score")
    (decision,) = stored(settings, "bank", tables.decisions)
    scored = stored(settings, "bank", tables.predictions)
    called = calls.set_index("call")["called_at"]
    waiting = called[(called <= LATE_2010) & (called > LATE_2010 - pd.Timedelta(days=7))].index
    assert decision["verdict"] == "promote"
    assert Registry(settings).aliases()["bank", "lead_score"][CHAMPION] == version.number
    assert {row["entity_id"] for row in scored} == set(waiting)
    assert all(0 < row["value"] < 1 for row in scored)
    assert len({row["value"] for row in scored}) > 10


def test_the_length_of_the_call_is_no_feature_of_lead_score(specs):
    assert "duration" not in specs["lead_score"].source_columns


def test_defect_risk_is_trained_judged_and_scores_the_commits_that_may_still_be_blamed(
    settings: Settings, specs, commits
):
    train(settings, specs["defect_risk"], commits, "mahout", SPRING_2015)
    (version,) = Registry(settings).versions("mahout", "defect_risk")
    (decision,) = stored(settings, "mahout", tables.decisions)
    scored = stored(settings, "mahout", tables.predictions)
    young = commits["committed_at"] > SPRING_2015 - pd.Timedelta(days=90)
    waiting = commits["commit"][young & commits["fixed_at"].isna()]
    assert decision["verdict"] == "promote"
    assert version.number == 1
    assert {row["entity_id"] for row in scored} == set(waiting)


def test_the_labels_of_defect_risk_are_known_months_after_the_commit_and_no_sooner(settings: Settings, specs, commits):
    train(settings, specs["defect_risk"], commits, "mahout", SPRING_2015)
    frame = snapshot(settings, "mahout")
    matured = frame[frame["state"] == "matured"]
    waited = matured["label_time"] - matured["event_time"]
    assert (matured["label_time"] <= SPRING_2015).all()
    assert (waited[matured["label"] == 0] == pd.Timedelta(days=90)).all()
    assert waited[matured["label"] == 1].median() > 6 * MONTH
    assert frame.loc[frame["state"] == "open", "label"].isna().all()


def test_a_commit_sees_only_what_had_matured_before_it(settings: Settings, specs, commits):
    train(settings, specs["defect_risk"], commits, "mahout", SPRING_2015)
    frame = snapshot(settings, "mahout")
    known = np.sort(frame.loc[frame["state"] == "matured", "label_time"].to_numpy())
    expected = np.searchsorted(known, frame["event_time"].to_numpy())
    assert frame["history_known"].tolist() == expected.tolist()
    assert frame["history_known"].iloc[-1] < len(frame) - 1
