"""What a person sees in Dagster's and MLflow's pages of a small installation, in a real browser."""

from __future__ import annotations

import pytest

from ml_pipeline import partitions
from ml_pipeline.resources.registry import Registry
from ml_pipeline.settings import Settings
from tests.stack import TENANTS, Stack

pytestmark = [pytest.mark.browser, pytest.mark.long]

MODELS = ["lead_time", "rework_risk", "story_points"]


@pytest.fixture
def pages(stack: Stack) -> Settings:
    return stack.settings


@pytest.fixture
def dagster(stack: Stack) -> str:
    return stack.dagster


@pytest.fixture
def mlflow(stack: Stack) -> str:
    return stack.mlflow


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
    expect(dialog.get_by_text(f"{days * len(TENANTS)} partitions")).to_be_visible()


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
