"""What a person sees in Dagster's and MLflow's pages of a small installation, in a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
import sqlalchemy as sa

from ml_pipeline import partitions
from ml_pipeline.cli.app import run_pipeline
from ml_pipeline.demo.simulator import demo_organisations, simulate
from ml_pipeline.importers import import_tables
from ml_pipeline.resources import postgres
from ml_pipeline.resources.registry import Registry
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings

pytestmark = [pytest.mark.browser, pytest.mark.long]

MODELS = ["lead_time", "rework_risk", "story_points"]
TENANTS = 2
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120.0


@pytest.fixture(scope="module")
def chromium() -> str:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no Chromium on this machine: `make setup-browser` installs it")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def installation(
    chromium: str, server: str, template_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Two tenants; the story points of one, with a year of issues, were trained three months ago and again now."""
    administration = postgres.parse_url(server)
    name = f"pages_{uuid.uuid4().hex[:12]}"
    with sa.create_engine(administration, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template_database}"))
    settings = Settings(
        database_url=postgres.plain(administration.set(drivername="postgresql", database=name)),
        home=tmp_path_factory.mktemp("pages"),
        workers=2,
        dagster_port=free_port(),
        mlflow_port=free_port(),
    )
    now = pd.Timestamp.now("UTC").floor("h")
    import_tables(Warehouse(settings), "acme", simulate(demo_organisations(now)[0]).issues, None)
    Warehouse(settings).add_tenant("globex")
    with mock.patch.dict(os.environ):
        for as_of in ((now - pd.Timedelta(days=90)).isoformat(), now.isoformat()):
            assert run_pipeline(settings, ["acme"], ["story_points"], as_of, 0) == []
    yield settings
    postgres.close_engines(name)


@pytest.fixture(scope="module")
def pages(installation: Settings) -> Iterator[Settings]:
    """The installation while ``ml-pipeline up`` serves its pages."""
    environment = os.environ | {
        "DATABASE_URL": str(installation.database_url),
        "ML_PIPELINE_HOME": str(installation.home),
        "ML_PIPELINE_DAGSTER_PORT": str(installation.dagster_port),
        "ML_PIPELINE_MLFLOW_PORT": str(installation.mlflow_port),
    }
    log = installation.home / "up.log"
    with log.open("wb") as output:
        command = [str(Path(sys.executable).with_name("ml-pipeline")), "up"]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + PATIENCE
        while "Everything runs" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield installation
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(pages: Settings, browser) -> Iterator:
    context = browser.new_context(viewport={"width": 1500, "height": 900})
    context.set_default_timeout(30_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def dagster(pages: Settings) -> str:
    return f"http://127.0.0.1:{pages.dagster_port}"


@pytest.fixture
def mlflow(pages: Settings) -> str:
    return f"http://127.0.0.1:{pages.mlflow_port}"


@pytest.fixture
def expect():
    from playwright.sync_api import expect

    expect.set_options(timeout=30_000)
    return expect


def test_the_lineage_shows_every_models_assets_and_the_edges_between_them(page, dagster: str, expect):
    page.goto(f"{dagster}/asset-groups?expanded={','.join(f'global@global:{model}' for model in MODELS)}")
    for step in ("features", "model", "predictions", "daily_metrics", "drift_report"):
        expect(page.get_by_text(step, exact=True)).to_have_count(len(MODELS))
    expect(page.locator("path[marker-end]")).to_have_count(
        7 * len(MODELS)
    )  # from the source table to MLflow and the log


def test_a_tenants_model_is_shown_materialized_with_its_decision_and_chart(page, dagster: str, expect):
    page.goto(f"{dagster}/assets/story_points/model?view=partitions&partition=acme")
    expect(page.get_by_text("Materialized", exact=True)).to_be_visible()
    expect(page.get_by_text("ml_pipeline/decision", exact=True)).to_be_visible()
    chart = page.get_by_alt_text("version against baseline")
    chart.scroll_into_view_if_needed()
    assert chart.evaluate("image => image.naturalWidth") == 240


def test_a_backfill_of_daily_metrics_offers_every_day_of_every_tenant(page, dagster: str, expect):
    page.goto(f"{dagster}/assets/story_points/daily_metrics?view=partitions")
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    everything = dialog.get_by_role("button", name="All", exact=True)
    expect(everything).to_have_count(2)
    for button in everything.all():
        button.click()
    days = (partitions.today() - partitions.days.start.date()).days
    expect(dialog.get_by_text(f"{days * TENANTS} partitions")).to_be_visible()


def test_two_versions_of_a_model_are_compared_side_by_side(page, mlflow: str, expect):
    page.goto(f"{mlflow}/#/models/story_points.acme")
    expect(page.get_by_text("@ champion")).to_be_visible()
    for row in (1, 2):
        page.get_by_role("checkbox").nth(row).check(force=True)
    page.get_by_test_id("compareButton").click()
    expect(page.get_by_text("Comparing 2 Versions")).to_be_visible()
    for name in ("mae", "skill", "as_of"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()


def test_a_versions_page_shows_where_it_comes_from_and_why_it_serves(page, mlflow: str, pages: Settings, expect):
    newest = Registry(pages).versions("acme", "story_points")[0]
    page.goto(pages.version_page("story_points.acme", newest.number))
    for tag in ("semantic_version", "parent_version", "snapshot_hash", "decision"):
        expect(page.get_by_text(tag, exact=True)).to_be_attached()
        expect(page.get_by_text(newest.tags[tag], exact=True).first).to_be_attached()


def test_the_files_of_a_version_can_be_read_on_its_runs_page(page, mlflow: str, pages: Settings, expect):
    registry = Registry(pages)
    newest = registry.versions("acme", "story_points")[0]
    experiment = registry.client.get_run(newest.run_id).info.experiment_id
    page.goto(f"{mlflow}/#/experiments/{experiment}/runs/{newest.run_id}/artifacts")
    page.get_by_text("model", exact=True).click()
    page.get_by_text("manifest.json", exact=True).click()
    expect(page.get_by_text("preprocess-trees.skops").last).to_be_visible()


def test_a_first_visitor_of_mlflow_meets_the_models_and_no_dialog(page, mlflow: str, expect):
    page.goto(f"{mlflow}/#/models")
    expect(page.get_by_text("story_points.acme")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_text("Try it now")).to_have_count(0)
    page.goto(f"{mlflow}/#/")
    expect(page.get_by_text("Recent Experiments")).to_be_visible()
    expect(page.get_by_text("telemetry")).to_have_count(0)
