"""``make demo``: the whole main job on three simulated tenants."""

from __future__ import annotations

import time

import pandas as pd

from ml_pipeline.cli import run_pipeline, show_status
from ml_pipeline.cli_common import console, prepared, progress_bar
from ml_pipeline.demo.simulator import demo_organisations, simulate
from ml_pipeline.importers import import_tables
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings

DAYS = 60


def take_tour() -> None:
    """Simulates what is missing, runs everything, and says how to go on."""
    started = time.monotonic()
    with prepared() as settings:
        tenants = _organisations(settings)
        failures = run_pipeline(settings, tenants, (), "", DAYS)
        show_status(settings, tenants, (), as_json=False)
    for failure in failures:
        console.print(f"[red]Failed:[/red] {failure}", highlight=False)
    console.print(
        f"Done in {time.monotonic() - started:.0f} s. Everything is kept under {settings.home}.\n"
        "\n"
        "  make up                                     Dagster and MLflow in the browser\n"
        "  .venv/bin/ml-pipeline status --tenant acme  this table again\n"
        "  .venv/bin/ml-pipeline import jira FILE      your own issues (docs/import.md)\n"
        "  .venv/bin/ml-pipeline run                   models for them\n",
        highlight=False,
    )
    if failures:
        raise SystemExit(1)


def _organisations(settings: Settings) -> list[str]:
    warehouse = Warehouse(settings)
    there = set(warehouse.tenants())
    organisations = demo_organisations(pd.Timestamp.now("UTC").floor("h"))
    missing = [organisation for organisation in organisations if organisation.tenant_id not in there]
    for organisation in organisations:
        if organisation not in missing:
            console.print(f"{organisation.tenant_id} is there from an earlier demo: continuing with it.")
    if missing:
        with progress_bar("Simulating a year", len(missing)) as advance:
            for organisation in missing:
                history = simulate(organisation)
                import_tables(warehouse, organisation.tenant_id, history.issues, history.pull_requests)
                advance(organisation)
    return [organisation.tenant_id for organisation in organisations]
