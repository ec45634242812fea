"""A tenant's country and clock: whose holidays its features see, and what becomes of versions when they change."""

from __future__ import annotations

import pytest

from ml_pipeline.resources import tables
from ml_pipeline.resources.snapshots import Snapshots
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.specs.temporal import Temporal
from ml_pipeline.work.tenant_settings import EVERY_MODEL, BadSetting, parse_setting, spec_for, write_setting
from ml_pipeline.work.training.task import FEATURES, PREDICTIONS

LOCAL = Temporal(business=True, country="CZ")


@pytest.fixture
def local(tenant, make_issues):
    """A tenant whose model looks at holidays, with a hundred days of issues."""
    return tenant.changed("features", temporal=LOCAL).holds(make_issues(100))


def put(tenant, name: str, value: str | None, model: str = EVERY_MODEL) -> None:
    write_setting(Warehouse(tenant.settings), tenant.name, model, name, value, "test")


def place(tenant) -> tuple[str, str]:
    temporal = spec_for(Warehouse(tenant.settings), tenant.spec, tenant.name).features.temporal
    return temporal.country, temporal.time_zone


def test_what_is_set_for_a_tenant_goes_before_the_specification_and_a_model_before_the_tenant(local):
    assert place(local) == ("CZ", "UTC")
    put(local, "country", "US")
    put(local, "time_zone", "America/New_York")
    assert place(local) == ("US", "America/New_York")
    put(local, "country", "JP", local.spec.name)
    assert place(local) == ("JP", "America/New_York")
    assert place(local.named("globex")) == ("CZ", "UTC")


def test_a_model_without_calendar_features_is_the_same_everywhere(tenant, make_issues):
    tenant.holds(make_issues(1))
    put(tenant, "country", "US")
    assert spec_for(Warehouse(tenant.settings), tenant.spec, tenant.name) == tenant.spec


def test_the_snapshot_has_the_holidays_of_the_tenants_country(local):
    put(local, "country", "US")
    assert local.train(100, (FEATURES,)).error is None
    (stored,) = local.rows(tables.feature_sets)
    frame = Snapshots(local.settings).read(stored["path"], stored["snapshot_hash"], tenant=local.name)
    free = frame.loc[frame["calendar_is_holiday"] == 1, "event_time"].dt.strftime("%m-%d").unique()
    assert free.tolist() == ["01-01", "01-19", "02-16"]  # New Year, King, Washington


def test_a_version_that_learned_another_countrys_holidays_does_not_predict(local):
    assert local.train(100).done[PREDICTIONS]["scored"] > 0
    put(local, "country", "US")
    found = local.train(100, (PREDICTIONS,)).done[PREDICTIONS]
    assert found["scored"] == 0
    assert "does not fit the specification" in found["reason"]


def test_drift_is_reported_with_temporal_features(tenant, make_issues):
    temporal = LOCAL.model_copy(update={"rolling": True, "queue": True, "fourier": True})
    watched = tenant.changed("features", temporal=temporal).holds(make_issues(100))
    assert watched.train(80).error is None
    assert watched.monitor(99).error is None
    (report,) = watched.rows(tables.drift_reports)
    compared = report["columns"]
    assert not compared["history_rolling_30d_mean"]["judged"]
    assert compared["calendar_week_sin_1"]["judged"]
    assert not {"calendar_is_holiday", "calendar_year_sin_1"} & compared.keys()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("country", "XX", r"country is 'XX': no holiday calendar for 'XX'\. Write an ISO 3166-1 code"),
        ("time_zone", "Mars", r"time_zone is 'Mars': unknown time zone 'Mars'\. Write an IANA name"),
    ],
)
def test_a_place_that_is_nowhere_is_refused(name, value, message):
    with pytest.raises(BadSetting, match=message):
        parse_setting(name, value)
