"""Alerts from being raised to being acknowledged, on the real database and with real servers to tell."""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from ml_pipeline.resources import tables
from ml_pipeline.resources.notifier import LOG, SMTP, WEBHOOK, ChannelError, Notice, channels
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from ml_pipeline.work.alerts.acknowledging import NoSuchAlert, acknowledge, list_alerts
from ml_pipeline.work.alerts.deliver import CLAIM, Delivered, deliver
from ml_pipeline.work.alerts.raising import NewAlert, escalate, raise_alert

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)
MINUTE = dt.timedelta(minutes=1)


@dataclass
class Desk:
    """One installation with a clock that a test moves."""

    settings: Settings
    now: dt.datetime = NOW
    tenant: str = "acme"
    model: str = "story_points"

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse(self.settings)

    def clock(self) -> dt.datetime:
        return self.now

    def raised(self, level: str = "HIGH", *, kind: str = "drift", as_of: dt.datetime | None = None, **values) -> bool:
        given = {"message": f"{kind} is {level}", "detail": {"score": float("nan")}} | values
        with self.warehouse.tenant(self.tenant) as connection:
            about = self.now if as_of is None else as_of
            alert = NewAlert(self.tenant, self.model, kind=kind, level=level, as_of=about, **given)
            return raise_alert(connection, alert, settings=self.settings, now=self.now)

    def deliver(self, made=None, **options) -> Delivered:
        made = channels(self.settings) if made is None else made
        return deliver(self.warehouse, made, clock=self.clock, **options)

    def escalate(self) -> int:
        return escalate(self.warehouse, self.settings, now=self.now)

    def acknowledge(self, **values) -> list[str]:
        return acknowledge(self.warehouse, self.tenant, by="ann", now=self.now, **values)

    def alerts(self) -> list[dict[str, Any]]:
        return list_alerts(self.warehouse)[::-1]

    def deliveries(self, channel: str = WEBHOOK) -> list[dict[str, Any]]:
        table = tables.alert_deliveries
        query = sa.select(table).where(table.c.channel == channel).order_by(table.c.due_at, table.c.created_at)
        with self.warehouse.operator() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


@pytest.fixture
def desk(settings: Settings, receiver, mail_server) -> Desk:
    channels_set_up = {
        "alert_webhook": SecretStr(receiver.url),
        "alert_webhook_timeout": 2.0,
        "alert_smtp": SecretStr(mail_server.url),
        "alert_smtp_timeout": 2.0,
        "alert_to": ("ann@example.org",),
    }
    return Desk(settings.model_copy(update=channels_set_up))


@dataclass
class Recorded:
    """A channel in this process, for what a server can not show: when it is called, by whom, and what it does then."""

    act: Callable[[], None] = lambda: None
    deadline: float = 5.0
    notices: list[Notice] = field(default_factory=list)

    def send(self, notice: Notice) -> None:
        self.notices.append(notice)
        self.act()


def test_an_alert_is_stored_with_its_report_and_one_delivery_for_each_channel_that_gets_its_level(desk: Desk):
    assert desk.raised("MEDIUM", detail={"score": float("nan"), "columns": ["a"]})
    [alert] = desk.alerts()
    assert (alert["level"], alert["message"], alert["occurrences"]) == ("MEDIUM", "drift is MEDIUM", 1)
    assert alert["detail"] == {"score": None, "columns": ["a"]}
    assert [(row["channel"], row["state"]) for row in alert["deliveries"]] == [
        ("log", "pending"),
        ("webhook", "pending"),
    ]


def test_an_alert_that_is_rolled_back_leaves_no_delivery(desk: Desk):
    with pytest.raises(ZeroDivisionError), desk.warehouse.tenant("acme") as connection:
        facts = {"kind": "drift", "level": "HIGH", "message": "", "as_of": NOW, "detail": {}}
        raise_alert(connection, NewAlert("acme", "story_points", **facts), settings=desk.settings)
        _ = 1 / 0
    assert desk.alerts() == [] and desk.deliveries() == []


def test_a_level_that_is_none_is_refused(desk: Desk):
    with pytest.raises(ValueError, match="'WARN'"):
        desk.raised("WARN")


def test_within_a_day_the_same_kind_counts_up_and_afterwards_it_is_new(desk: Desk):
    assert desk.raised(as_of=NOW)
    assert not desk.raised(as_of=NOW + 5 * HOUR)
    assert not desk.raised("MEDIUM", as_of=NOW + 23 * HOUR)
    assert desk.raised(as_of=NOW + 24 * HOUR)
    assert [alert["occurrences"] for alert in desk.alerts()] == [3, 1]
    assert desk.alerts()[0]["last_seen_at"] == NOW + 23 * HOUR


def test_other_kinds_models_and_tenants_are_alerts_of_their_own(desk: Desk):
    for other in (desk, Desk(desk.settings, model="lead_time"), Desk(desk.settings, tenant="globex")):
        assert other.raised()
        assert other.raised(kind="run_failed")
    assert len(desk.alerts()) == 6


def test_a_day_that_is_computed_again_does_not_count(desk: Desk):
    desk.raised(as_of=NOW)
    desk.raised(as_of=NOW + HOUR)
    for as_of in (NOW, NOW + HOUR, NOW - HOUR):
        assert not desk.raised(as_of=as_of)
    [alert] = desk.alerts()
    assert alert["occurrences"] == 2


def test_an_open_alert_that_gets_worse_takes_the_level_and_is_told_again_at_once(desk: Desk):
    desk.raised("MEDIUM")
    desk.deliver()
    desk.now += 10 * MINUTE
    assert desk.raised("CRITICAL", message="now it is bad")
    [alert] = desk.alerts()
    assert (alert["level"], alert["message"], alert["occurrences"]) == ("CRITICAL", "now it is bad", 2)
    assert [(row["level"], row["due_at"]) for row in desk.deliveries()] == [
        ("MEDIUM", NOW),
        ("CRITICAL", NOW + 10 * MINUTE),
    ]


def test_an_acknowledged_alert_that_gets_worse_is_a_new_one(desk: Desk):
    desk.raised("MEDIUM")
    desk.acknowledge(model=desk.model)
    assert not desk.raised("MEDIUM", as_of=NOW + HOUR)
    assert desk.raised("HIGH", as_of=NOW + HOUR)
    assert [(alert["level"], alert["acknowledged_by"]) for alert in desk.alerts()] == [
        ("MEDIUM", "ann"),
        ("HIGH", None),
    ]


def test_a_backfill_of_sixty_days_is_stored_and_tells_nobody_but_of_the_last_two_days(desk: Desk):
    for day in range(60, 0, -1):
        desk.raised(as_of=NOW - day * 24 * HOUR)
    assert len(desk.alerts()) == 60
    assert len(desk.deliveries()) == 2


def test_two_runs_that_raise_the_same_alert_at_once_store_it_once(desk: Desk):
    threads = [threading.Thread(target=desk.raised) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(desk.alerts()) == 1
    assert len(desk.deliveries()) == 1


def test_alerts_of_one_model_wait_for_the_cool_down_and_come_in_one_message(desk: Desk, receiver):
    desk.raised("HIGH", kind="drift")
    desk.deliver()
    for kind in ("degradation", "anomaly"):
        desk.now += 5 * MINUTE
        desk.raised("HIGH", kind=kind)
        assert desk.deliver().sent == 0
    Desk(desk.settings, desk.now, model="lead_time").raised("HIGH")
    desk.deliver()
    desk.now = NOW + 60 * MINUTE
    desk.deliver()
    assert [text.partition(".")[0] for text in receiver.texts] == [
        "HIGH: acme, story_points: drift",
        "HIGH: acme, lead_time: drift",
        "HIGH: acme, story_points: degradation, anomaly",
    ]


def test_something_worse_does_not_wait_for_the_cool_down_and_takes_along_what_does(desk: Desk, receiver):
    desk.raised("MEDIUM", kind="drift")
    desk.deliver()
    desk.now += 5 * MINUTE
    desk.raised("MEDIUM", kind="anomaly")
    desk.raised("CRITICAL", kind="degradation")
    desk.deliver()
    assert receiver.texts[1].startswith("CRITICAL: acme, story_points: degradation, anomaly.")
    desk.now = NOW + 3 * HOUR
    assert desk.deliver() == Delivered()


def test_an_alert_reaches_every_channel_once_however_often_the_tick_is_replayed(desk: Desk, receiver, mail_server):
    desk.raised("HIGH")
    assert desk.deliver() == Delivered(sent=3)
    for _ in range(3):
        assert desk.deliver() == Delivered()
    assert (len(receiver.requests), len(mail_server.mails)) == (1, 1)
    [alert] = desk.alerts()
    assert {row["channel"]: row["state"] for row in alert["deliveries"]} == {LOG: "sent", WEBHOOK: "sent", SMTP: "sent"}
    assert str(alert["alert_id"]) in str(receiver.requests[0][1])


def test_a_webhook_that_fails_once_is_tried_again_after_its_pause(desk: Desk, receiver):
    receiver.answers = [500]
    desk.raised("MEDIUM")
    first = desk.deliver()
    assert (first.sent, first.to_retry, first.errors) == (1, 1, {WEBHOOK: "the webhook answered 500"})
    [row] = desk.deliveries()
    assert (row["state"], row["attempts"], row["last_error"]) == ("pending", 1, "the webhook answered 500")
    desk.now += 29 * dt.timedelta(seconds=1)
    assert desk.deliver() == Delivered()
    desk.now += dt.timedelta(seconds=1)
    assert desk.deliver() == Delivered(sent=1)
    assert len(receiver.requests) == 2


def test_a_webhook_that_asks_for_a_pause_gets_it(desk: Desk, receiver):
    receiver.answers = [{"Retry-After": "600"}]
    desk.raised("MEDIUM")
    desk.deliver()
    assert desk.deliveries()[0]["next_attempt_at"] == NOW + 10 * MINUTE


def test_a_webhook_that_never_answers_does_not_hold_up_the_mail(desk: Desk, receiver, mail_server):
    receiver.answers = ["hang"] * 10
    for tenant in ("acme", "globex", "initech"):
        Desk(desk.settings, tenant=tenant).raised("HIGH")
    started = time.monotonic()
    outcome = desk.deliver()
    assert time.monotonic() - started < 4  # one timeout of two seconds, not three
    assert len(mail_server.mails) == 3
    assert (outcome.sent, outcome.to_retry) == (6, 1)
    assert len(receiver.requests) == 1
    assert [row["state"] for row in desk.deliveries()] == ["pending"] * 3


def test_a_channel_that_ignores_its_own_timeout_is_left_at_its_deadline(desk: Desk, mail_server):
    forever = threading.Event()
    desk.raised("HIGH")
    stuck = Recorded(act=lambda: forever.wait(30) and None, deadline=0.3)
    outcome = desk.deliver({**channels(desk.settings), WEBHOOK: stuck})
    forever.set()
    assert outcome.errors == {WEBHOOK: "the webhook did not answer within 0.3 s"}
    assert len(mail_server.mails) == 1


def test_no_message_is_begun_when_the_time_of_a_round_is_over(desk: Desk):
    for tenant in ("acme", "globex", "initech"):
        Desk(desk.settings, tenant=tenant).raised("LOW")
    slow = Recorded(act=lambda: time.sleep(0.3))
    assert desk.deliver({LOG: slow}, seconds=0.2).sent == 1
    assert desk.deliver({LOG: slow}, seconds=5).sent == 2


def test_a_refused_connection_is_tried_with_growing_pauses_until_it_counts_as_failed(desk: Desk, receiver):
    settings = desk.settings.model_copy(update={"alert_webhook": SecretStr("http://127.0.0.1:9"), "alert_attempts": 4})
    desk = Desk(settings)
    desk.raised("MEDIUM")
    pauses = []
    while desk.deliveries()[0]["state"] == "pending":
        outcome = desk.deliver()
        pauses.append((desk.deliveries()[0]["next_attempt_at"] - desk.now).total_seconds())
        desk.now = max(desk.now, desk.deliveries()[0]["next_attempt_at"])
    assert pauses[:3] == [30, 60, 120]
    assert (outcome.failed, outcome.to_retry) == (1, 0)
    [row] = desk.deliveries()
    assert (row["attempts"], row["last_error"]) == (4, "the webhook did not answer: Connection refused")
    [alert] = desk.alerts()
    assert alert["acknowledged_at"] is None


def test_an_outage_costs_one_attempt_a_round_and_nothing_is_lost(desk: Desk, receiver):
    receiver.answers = [503, 503, 503]
    for tenant in "abcde":
        Desk(desk.settings, tenant=tenant).raised("MEDIUM")
    for _ in range(3):
        assert desk.deliver({WEBHOOK: channels(desk.settings)[WEBHOOK]}).to_retry == 1
    desk.now += HOUR
    assert desk.deliver().sent == 10
    assert sorted(text.split()[1] for text in receiver.texts[3:]) == ["a,", "b,", "c,", "d,", "e,"]


def test_one_message_that_is_refused_does_not_hold_up_the_next(desk: Desk, receiver):
    receiver.answers = [400]
    for tenant in ("acme", "globex"):
        Desk(desk.settings, tenant=tenant).raised("MEDIUM")
    outcome = desk.deliver({WEBHOOK: channels(desk.settings)[WEBHOOK]})
    assert (outcome.sent, outcome.to_retry) == (1, 1)


def test_an_error_nobody_thought_of_is_kept_like_any_other_and_shows_nothing(desk: Desk):
    def fail() -> None:
        raise RuntimeError("with a secret")

    desk.raised("LOW")
    outcome = desk.deliver({LOG: Recorded(act=fail)})
    assert outcome.errors == {LOG: "RuntimeError while sending"}
    assert desk.deliveries(LOG)[0]["last_error"] == "RuntimeError while sending"


def test_senders_at_once_send_each_alert_once(desk: Desk):
    tenants = [f"tenant-{number}" for number in range(12)]
    for tenant in tenants:
        Desk(desk.settings, tenant=tenant).raised("LOW")
    recorded = Recorded(act=lambda: time.sleep(0.02))
    start = threading.Barrier(3)

    def send() -> None:
        start.wait()
        desk.deliver({LOG: recorded})

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(notice.tenant for notice in recorded.notices) == sorted(tenants)


def test_a_sender_that_dies_after_sending_leaves_it_to_be_sent_again(desk: Desk, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    desk.raised("LOW")
    recorded = Recorded()
    with monkeypatch.context() as patched:
        patched.setattr("ml_pipeline.work.alerts.deliver._Round._mark_sent", die)
        with pytest.raises(Killed):
            desk.deliver({LOG: recorded})
    assert desk.deliver({LOG: recorded}) == Delivered()  # still claimed by the one that died
    desk.now += CLAIM
    assert desk.deliver({LOG: recorded}) == Delivered(sent=1)
    first, second = recorded.notices
    assert first.key == second.key


def test_a_message_that_kills_every_sender_is_given_up(desk: Desk):
    desk = Desk(desk.settings.model_copy(update={"alert_attempts": 2}))
    desk.raised("LOW")
    table = tables.alert_deliveries
    with desk.warehouse.tenant("acme") as connection:
        connection.execute(sa.update(table).values(attempts=2, claimed_until=NOW - MINUTE))
    recorded = Recorded()
    assert desk.deliver({LOG: recorded}).failed == 1
    assert recorded.notices == []
    assert "every process that tried to send it died" in desk.deliveries(LOG)[0]["last_error"]


def test_what_waits_for_a_channel_that_is_not_set_up_here_is_counted_and_kept(desk: Desk, receiver):
    desk.raised("MEDIUM")
    outcome = desk.deliver({LOG: Recorded()})
    assert (outcome.sent, outcome.not_set_up) == (1, 1)
    assert str(outcome) == "1 sent, 1 waiting for a channel that is not configured"
    assert desk.deliver().sent == 1


def test_an_alert_that_got_worse_before_anybody_was_told_is_told_once(desk: Desk, receiver):
    desk.raised("MEDIUM")
    desk.raised("CRITICAL")
    desk.deliver()
    [(_, body)] = receiver.requests
    assert body["text"].startswith("CRITICAL: acme, story_points: drift.")
    assert sum("drift is" in json.dumps(block) for block in body["blocks"]) == 1


def test_a_channel_error_reads_as_what_the_channel_said():
    assert str(ChannelError("the webhook answered 500")) == "the webhook answered 500"


def test_an_alert_that_nobody_acknowledged_is_told_again_once_as_critical(desk: Desk, receiver):
    desk.raised("HIGH")
    desk.deliver()
    desk.now += 4 * HOUR - MINUTE
    assert desk.escalate() == 0
    desk.now += MINUTE
    assert desk.escalate() == 1
    desk.deliver()
    assert receiver.texts[1].startswith("CRITICAL: acme, story_points: drift, not acknowledged.")
    [alert] = desk.alerts()
    assert (alert["level"], alert["escalated_level"], alert["escalated_at"]) == ("HIGH", "CRITICAL", desk.now)
    desk.now += 40 * HOUR
    assert desk.escalate() == 0
    assert desk.deliver() == Delivered()


def test_milder_alerts_and_those_that_told_nobody_do_not_escalate(desk: Desk):
    desk.raised("MEDIUM")
    desk.raised("CRITICAL", kind="degradation", as_of=NOW - 30 * 24 * HOUR)
    desk.now += 5 * HOUR
    assert desk.escalate() == 0


def test_escalation_can_be_switched_off(desk: Desk):
    desk = Desk(desk.settings.model_copy(update={"alert_escalation_hours": 0.0}))
    desk.raised("HIGH")
    desk.now += 24 * HOUR
    assert desk.escalate() == 0


def test_an_acknowledged_alert_does_not_escalate_and_keeps_who_when_and_why(desk: Desk, receiver):
    desk.raised("HIGH")
    desk.deliver()
    desk.now += HOUR
    [alert] = desk.alerts()
    assert desk.acknowledge(alert=str(alert["alert_id"]), note="a new team joined") == [str(alert["alert_id"])]
    desk.now += 10 * HOUR
    assert desk.escalate() == 0
    [alert] = desk.alerts()
    kept = (alert["acknowledged_by"], alert["acknowledged_at"], alert["acknowledged_note"])
    assert kept == ("ann", NOW + HOUR, "a new team joined")
    assert desk.acknowledge(alert=str(alert["alert_id"])) == []
    assert desk.alerts()[0]["acknowledged_note"] == "a new team joined"


def test_what_was_still_to_be_sent_of_an_acknowledged_alert_is_not(desk: Desk, receiver):
    desk.raised("HIGH")
    desk.acknowledge(model=desk.model)
    assert desk.deliver() == Delivered()
    assert [row["state"] for row in desk.deliveries()] == ["cancelled"]
    assert receiver.requests == []


def test_all_open_alerts_of_a_model_are_acknowledged_at_once_and_no_others(desk: Desk):
    other_model, other_tenant = Desk(desk.settings, model="lead_time"), Desk(desk.settings, tenant="globex")
    for each in (desk, other_model, other_tenant):
        each.raised("HIGH")
    desk.raised("HIGH", kind="degradation")
    assert len(desk.acknowledge(model=desk.model)) == 2
    still_open = list_alerts(desk.warehouse, only_open=True)
    assert {(alert["tenant_id"], alert["model"]) for alert in still_open} == {
        ("acme", "lead_time"),
        ("globex", "story_points"),
    }


def test_an_alert_is_named_by_the_beginning_of_its_id_within_its_tenant(desk: Desk):
    desk.raised("HIGH")
    [alert] = desk.alerts()
    alert_id = str(alert["alert_id"])
    with pytest.raises(NoSuchAlert, match=f"there is no alert 'zzzz'; the open alerts are: {alert_id}"):
        desk.acknowledge(alert="zzzz")
    with pytest.raises(NoSuchAlert, match=r"tenant globex: there is no alert .*; the open alerts are: none"):
        Desk(desk.settings, tenant="globex").acknowledge(alert=alert_id)
    assert desk.acknowledge(alert=alert_id[:6].upper()) == [alert_id]


def test_an_id_that_fits_several_alerts_is_refused(desk: Desk):
    for kind in ("a", "b"):
        desk.raised("HIGH", kind=kind)
    with pytest.raises(NoSuchAlert, match="the ids of several alerts begin with ''"):
        desk.acknowledge(alert="")
