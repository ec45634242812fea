"""The tick that sends alerts: real servers, the settings of the environment, and what it says it did."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import dagster as dg
import pytest
import sqlalchemy as sa

from ml_pipeline.resources import tables
from ml_pipeline.resources.dagster_resources import Installation
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.sensors.alert_delivery import alert_delivery
from ml_pipeline.settings import Settings
from ml_pipeline.work.alerts.raising import NewAlert, raise_alert


@pytest.fixture
def instance(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, receiver, mail_server
) -> Iterator[dg.DagsterInstance]:
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    monkeypatch.setenv("ML_PIPELINE_ALERT_WEBHOOK", receiver.url)
    monkeypatch.setenv("ML_PIPELINE_ALERT_WEBHOOK_TIMEOUT", "1")
    monkeypatch.setenv("ML_PIPELINE_ALERT_SMTP", mail_server.url)
    monkeypatch.setenv("ML_PIPELINE_ALERT_TO", "ann@example.org")
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def tick(instance: dg.DagsterInstance) -> str:
    with dg.build_sensor_context(instance=instance, resources={"installation": Installation()}) as context:
        result = alert_delivery(context)
    assert isinstance(result, dg.SkipReason)
    return str(result.skip_message)


def raised(warehouse: Warehouse, tenant: str = "acme", level: str = "HIGH") -> None:
    now = dt.datetime.now(dt.UTC)
    with warehouse.tenant(tenant) as connection:
        raise_alert(connection, NewAlert(tenant, "story_points", "drift", level, "Points rose.", as_of=now, detail={}))


def test_a_tick_sends_what_the_pipeline_raised_and_a_second_one_nothing(instance, warehouse, receiver, mail_server):
    raised(warehouse)
    assert tick(instance) == "Deliveries: 3 sent; 0 alerts escalated."
    assert tick(instance) == "Deliveries: nothing was due; 0 alerts escalated."
    assert (len(receiver.requests), len(mail_server.mails)) == (1, 1)


def test_a_dead_webhook_is_told_of_and_the_mail_arrives(instance, warehouse, receiver, mail_server):
    receiver.answers = ["hang"]
    raised(warehouse)
    assert tick(instance) == "Deliveries: 2 sent, 1 to be retried; 0 alerts escalated."
    assert len(mail_server.mails) == 1


def test_a_tick_escalates_what_nobody_acknowledged_and_sends_it(instance, warehouse, receiver, mail_server):
    raised(warehouse)
    tick(instance)
    hours_ago = dt.datetime.now(dt.UTC) - dt.timedelta(hours=5)
    with warehouse.tenant("acme") as connection:
        connection.execute(sa.update(tables.alerts).values(raised_at=hours_ago))
        connection.execute(sa.update(tables.alert_deliveries).values(due_at=hours_ago))
    assert tick(instance) == "Deliveries: 3 sent; 1 alerts escalated."
    assert mail_server.mails[1]["Subject"] == "[ml-pipeline] CRITICAL: acme, story_points: drift, not acknowledged"
