"""The names that the pipeline writes into Dagster are those that docs/reference/dagster.md lists."""

from __future__ import annotations

import datetime as dt
import re
import uuid

from ml_pipeline.assets.checks import CHECKS
from ml_pipeline.resources.leases import LEASE_TAG
from ml_pipeline.settings import PROJECT_ROOT
from ml_pipeline.work.alerts.run_failures import ERRORS, FAILED
from ml_pipeline.work.retraining.decide import Approved

PAGE = (PROJECT_ROOT / "docs/reference/dagster.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_tags_of_runs_are_documented():
    approved = Approved(uuid.uuid4(), "acme", "story_points", "train", "drift", None, "", {}, dt.datetime.now(dt.UTC))
    assert set(re.findall(r"`(ml_pipeline/\w+)`", section("Tags of runs"))) == {LEASE_TAG, *approved.tags}


def test_the_checks_are_documented_with_their_asset():
    documented = set(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", section("Asset checks"), re.MULTILINE))
    assert documented == {(check.name, check.step) for check in CHECKS}


def test_the_metadata_of_failures_is_documented():
    assert {ERRORS, FAILED} <= set(re.findall(r"`(ml_pipeline/\w+)`", section("Metadata of materializations")))
