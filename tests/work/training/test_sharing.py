"""The pooled prior: what crosses the wall between tenants, and when nothing does."""

from __future__ import annotations

import datetime as dt

import pytest

from ml_pipeline.resources import tables
from ml_pipeline.resources.registry import Registry
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.work.tenant_settings import EVERY_MODEL, write_setting
from ml_pipeline.work.training.sharing import pooled
from ml_pipeline.work.training.task import FEATURES, MODEL

OTHERS = ("globex", "initech", "umbrella")
LATER = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)


def share(tenant, value: bool) -> None:
    write_setting(Warehouse(tenant.settings), tenant.name, EVERY_MODEL, "share", value, "test")


def asked(tenant, moment: dt.datetime = LATER) -> float | None:
    return pooled(Warehouse(tenant.settings), tenant.spec, tenant.name, moment)


def typical(tenant) -> float:
    return tenant.rows(tables.feature_sets)[-1]["typical"]


@pytest.fixture
def sharing(tenant, make_issues):
    """Four tenants with a snapshot each, all of whom share; outcomes of one are ten times as large."""
    tenant = tenant.changed("training", share="opt_in")
    for name in (tenant.name, *OTHERS):
        issues = make_issues(60)
        if name == tenant.name:
            issues["story_points"] = issues["story_points"] * 10
        one = tenant.named(name).holds(issues)
        assert one.train(60, (FEATURES,)).error is None
        share(one, True)
    return tenant


def test_what_is_pooled_are_the_others_of_whom_each_counts_alike(sharing):
    medians = sorted(typical(sharing.named(name)) for name in OTHERS)
    assert asked(sharing) == medians[1]
    assert typical(sharing) > 5 * medians[2]


def test_who_does_not_share_takes_no_part(sharing):
    share(sharing, False)
    assert asked(sharing) is None


def test_who_no_longer_shares_gives_nothing_and_two_others_are_too_few(sharing):
    share(sharing.named("globex"), False)
    assert asked(sharing) is None


def test_nothing_is_pooled_unless_the_specification_says_so(sharing):
    assert asked(sharing.changed("training", share="none")) is None


def test_what_others_knew_later_is_not_known_yet(sharing):
    (snapshot, *_) = sharing.named("globex").rows(tables.feature_sets)
    assert asked(sharing, snapshot["as_of"]) is not None
    assert asked(sharing, snapshot["as_of"] - dt.timedelta(seconds=1)) is None


def test_the_pooled_constant_races_and_its_record_is_in_the_card(sharing):
    assert sharing.train(60, (FEATURES, MODEL)).error is None
    registry = Registry(sharing.settings)
    (version,) = registry.versions(sharing.name, sharing.spec.name)
    with registry.files(version) as folder:
        assert "| pooled |" in (folder / "card.md").read_text(encoding="utf-8")
