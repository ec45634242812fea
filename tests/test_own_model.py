"""A model of one's own: a YAML file in a folder, on a table of one's own, and no line of Python."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from ml_pipeline import launch, partitions
from ml_pipeline.definitions import definitions
from ml_pipeline.resources import postgres, tables
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.warehouse import APP_ROLE, Warehouse
from ml_pipeline.settings import Settings, load_settings
from ml_pipeline.specs import load_specs

STEPS = ("features", "model", "predictions", "daily_metrics", "drift_report")
YESTERDAY = partitions.today() - dt.timedelta(days=1)

CLAIMS = """
name: claims
title: Is this claim a fraud?
task: binary
source:
  table: shop.claims{url}
  tenant: customer
  entity: claim
  event_time: filed_at
  columns:
    kind: {{type: category}}
    amount: {{type: number}}
    investigated_at: {{type: time, known_at: label}}
    fraud: {{type: number, known_at: label}}
label:
  value: fraud > 0
  time: investigated_at
features:
  categorical: [kind]
  numeric: [amount]
  history: [kind]
training:
  estimator: lightgbm
  loss: log_loss
  params: {{n_estimators: 20, num_leaves: 7}}
"""

TABLE = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.claims (
        customer text, claim integer, filed_at timestamptz, kind text, amount numeric,
        investigated_at timestamptz, fraud integer
    )
"""

ISOLATION = """
    ALTER TABLE shop.claims ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY tenant_isolation ON shop.claims TO ml_app
        USING (customer = nullif(current_setting('app.tenant_id', true), ''));
"""


def claims() -> pd.DataFrame:
    """Claims of the last 100 days, three a day; the large ones are mostly frauds, as is known two days later."""
    rng = np.random.default_rng(3)
    filed = pd.Timestamp(partitions.today(), tz="UTC") - pd.to_timedelta(np.arange(300, 0, -1) * 8, unit="h")
    amount = rng.lognormal(3, 1, 300).round(2)
    investigated = (filed + pd.Timedelta(days=2)).to_series(index=range(300))
    still_open = investigated > pd.Timestamp(partitions.today(), tz="UTC")
    fraud = pd.Series((amount > 25) ^ (rng.random(300) < 0.1), dtype="Int64")
    return pd.DataFrame(
        {
            "customer": "acme",
            "claim": range(300),
            "filed_at": filed,
            "kind": rng.choice(["fire", "water"], 300),
            "amount": amount,
            "investigated_at": investigated.mask(still_open),
            "fraud": fraud.mask(still_open),
        }
    )


def fill(url: sa.URL, *, readable_by: str | None = None) -> None:
    with postgres.engine(url).begin() as connection:
        connection.execute(sa.text(TABLE))
        claims().to_sql("claims", connection, schema="shop", if_exists="append", index=False)
        if readable_by:
            connection.execute(sa.text(f"GRANT USAGE ON SCHEMA shop TO {readable_by}"))
            connection.execute(sa.text(f"GRANT SELECT ON shop.claims TO {readable_by}"))
            connection.execute(sa.text(ISOLATION))


@pytest.fixture
def installed(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The test's installation in the environment, with a folder for specifications."""
    (tmp_path / "specs").mkdir()
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    monkeypatch.setenv("ML_PIPELINE_WORKER_DATABASE_URL", str(settings.worker_database_url))
    monkeypatch.setenv("ML_PIPELINE_HOME", str(settings.home))
    monkeypatch.setenv("ML_PIPELINE_SPECS", str(tmp_path / "specs"))
    monkeypatch.setenv("ML_PIPELINE_WORKERS", "2")
    return load_settings()


@pytest.fixture
def replica(server: str) -> Iterator[sa.URL]:
    administration = postgres.parse_url(server)
    name = f"replica_{uuid.uuid4().hex[:12]}"
    postgres.create_database(administration, name)
    yield administration.set(database=name)
    postgres.close_engines(name)
    with sa.create_engine(administration, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


def run_all_assets(settings: Settings) -> dict[str, int]:
    """Materializes the five assets of the tenant ``acme``; returns how many partitions of each are materialized."""
    Warehouse(settings).add_tenant("acme")
    specs = {name: spec for name, spec in load_specs(settings.specs).items() if name == "claims"}
    loaded = definitions(specs, Installation())
    with dg.DagsterInstance.ephemeral() as instance:
        known = launch.add_partitions(instance, ["acme"])
        since = YESTERDAY - dt.timedelta(days=4)
        for job, tags in (
            ("train", partitions.tenant_range(known, "acme", "acme")),
            ("monitor", partitions.tenant_day_range(known, "acme", "acme", since, YESTERDAY)),
        ):
            assert loaded.resolve_job_def(job).execute_in_process(instance=instance, tags=tags).success
        return {step: len(instance.get_materialized_partitions(dg.AssetKey(["claims", step]))) for step in STEPS}


def check_results(settings: Settings) -> None:
    with Warehouse(settings).tenant("acme") as connection:
        metrics = (
            connection.execute(sa.select(tables.daily_metrics).order_by(tables.daily_metrics.c.day)).mappings().all()
        )
        verdict = connection.scalar(sa.select(tables.decisions.c.verdict))
        scored = connection.execute(sa.select(tables.predictions).filter_by(origin="live")).mappings().all()
    assert verdict == "promote"
    assert len(scored) == 5 and all(0 <= row["value"] <= 1 for row in scored)
    assert [(row["outcomes"], row["evaluated"], row["metric"]) for row in metrics] == [(3, 3, "brier")] * 5


def test_a_yaml_file_on_a_table_beside_the_pipelines_own_is_all_a_model_needs(installed: Settings, tmp_path: Path):
    (tmp_path / "specs" / "claims.yaml").write_text(CLAIMS.format(url=""))
    fill(Warehouse(installed).url, readable_by=APP_ROLE)
    assert run_all_assets(installed) == {
        "features": 1,
        "model": 1,
        "predictions": 1,
        "daily_metrics": 5,
        "drift_report": 5,
    }
    check_results(installed)


def test_a_model_can_read_a_table_of_another_database(installed: Settings, tmp_path: Path, replica: sa.URL):
    (tmp_path / "specs" / "claims.yaml").write_text(CLAIMS.format(url=f"\n  url: {postgres.plain(replica)}"))
    fill(replica)
    assert run_all_assets(installed)["drift_report"] == 5
    check_results(installed)
