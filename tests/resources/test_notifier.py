"""The channels against real servers of this machine: what arrives, how they fail, and that no secret is told."""

from __future__ import annotations

import datetime as dt
import logging
import socket
import time
import traceback
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from ml_pipeline.resources.notifier import (
    Alert,
    ChannelError,
    Log,
    Mail,
    Notice,
    Webhook,
    channels,
    mail_message,
    slack_message,
    thresholds,
)
from ml_pipeline.settings import Settings, SettingsError, load_settings

PASSWORD = "open sesame"
AS_OF = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)


def alert(**values) -> Alert:
    fixed = {"alert_id": "7f3e", "kind": "concept_drift", "level": "HIGH", "message": "The error rose by 14%."}
    return Alert(**({**fixed, "as_of": AS_OF} | values))


def notice(*alerts: Alert) -> Notice:
    return Notice("acme", "story_points", alerts or (alert(),))


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def silent() -> Iterator[int]:
    """Port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_webhook_gets_the_alert_with_its_id_and_how_to_acknowledge_it(receiver):
    Webhook(receiver.url, 5).send(notice(alert(occurrences=3)))
    [(headers, body)] = receiver.requests
    assert headers["Content-Type"] == "application/json"
    assert body["text"] == "HIGH: acme, story_points: concept drift. The error rose by 14%."
    _, head, sentence, facts = body["blocks"]
    assert (head["text"]["text"], sentence["text"]["text"]) == ("HIGH: concept drift", "The error rose by 14%.")
    assert facts["elements"][0]["text"] == (
        "as of 31 Jan 2026 00:00 UTC, seen 3 times · alert 7f3e · ml-pipeline acknowledge --tenant acme 7f3e"
    )


def test_a_message_that_comes_twice_can_be_seen_to_be_the_same(receiver):
    webhook = Webhook(receiver.url, 5)
    webhook.send(notice())
    webhook.send(notice())
    webhook.send(notice(alert(escalated=True, level="CRITICAL")))
    first, second, third = (headers["Idempotency-Key"] for headers, _ in receiver.requests)
    assert first == second != third


def test_text_from_a_tenants_data_can_not_call_everybody_or_pose_as_a_link():
    message = slack_message(notice(alert(message="<!channel> see <https://x|here> & now")))
    assert "&lt;!channel&gt; see &lt;https://x|here&gt; &amp; now" in message["text"]
    parts = [part.get("text") or part["elements"][0] for part in message["blocks"]]
    assert {(part["type"], part["emoji"]) for part in parts} == {("plain_text", False)}


def test_a_message_stays_within_what_slack_takes():
    message = slack_message(notice(*(alert(alert_id=str(number), message="x" * 10_000) for number in range(60))))
    assert len(message["blocks"]) <= 50
    assert all(len(part.get("text", {}).get("text", "")) <= 3000 for part in message["blocks"])
    assert message["blocks"][-1]["text"]["text"] == "and 45 more alerts"


@pytest.mark.parametrize(
    ("answer", "text", "down", "wait"),
    [
        (500, "the webhook answered 500", True, 0),
        (404, "the webhook answered 404", False, 0),
        (302, "the webhook answered 302", False, 0),
        ({"Retry-After": "17"}, "the webhook answered 429", True, 17),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, "the webhook answered 429", True, 0),
    ],
    ids=str,
)
def test_an_answer_other_than_success_is_an_error(receiver, answer, text: str, down: bool, wait: float):
    receiver.answers = [answer]
    with pytest.raises(ChannelError) as failed:
        Webhook(receiver.url, 5).send(notice())
    assert (str(failed.value), failed.value.down, failed.value.retry_after) == (text, down, wait)


def test_a_webhook_that_leads_elsewhere_is_not_followed(receiver):
    receiver.answers = [302]
    with pytest.raises(ChannelError):
        Webhook(receiver.url, 5).send(notice())
    assert len(receiver.requests) == 1


def test_a_webhook_that_never_answers_is_left_after_its_timeout(receiver):
    receiver.answers = ["hang"]
    started = time.monotonic()
    with pytest.raises(ChannelError, match="did not answer: no answer in time") as failed:
        Webhook(receiver.url, 0.3).send(notice())
    assert time.monotonic() - started < 3
    assert failed.value.down


def test_no_error_of_a_webhook_shows_its_address(receiver, closed_port: int):
    receiver.answers = [403, "hang"]
    urls = (receiver.url, receiver.url, f"http://127.0.0.1:{closed_port}/services/hush", "http://nowhere.invalid/hush")
    for url in (*urls, "http://127.0.0.1:1/hush\nsecond"):
        with pytest.raises(ChannelError) as failed:
            Webhook(url, 0.3).send(notice())
        assert "hush" not in "".join(traceback.format_exception(failed.value))


def test_a_mail_carries_the_sentence_the_report_and_how_to_acknowledge(mail_server):
    detail = {"columns": {"größe": 0.31}}
    Mail(mail_server.url, "pipeline@example.org", ("ann@example.org", "bo@example.org"), 5).send(
        notice(alert(detail=detail), alert(alert_id="8", kind="run_failed", level="MEDIUM", message="Nothing came."))
    )
    [mail] = mail_server.mails
    assert mail["Subject"] == "[ml-pipeline] HIGH: acme, story_points: concept drift, run failed"
    assert (mail["From"], mail["To"]) == ("pipeline@example.org", "ann@example.org, bo@example.org")
    assert mail["X-Alert-IDs"] == "7f3e 8"
    text = mail.get_content()
    assert "The error rose by 14%." in text and "Nothing came." in text and '"größe": 0.31' in text
    assert "ml-pipeline acknowledge --tenant acme 7f3e" in text


def test_a_subject_is_one_line_whatever_the_alert_says():
    mail = mail_message(notice(alert(kind="a\r\nBcc: eve@example.org")), "a@example.org", ("b@example.org",))
    assert mail["Subject"] == r"[ml-pipeline] HIGH: acme, story_points: a\r\nBcc: eve@example.org"
    assert mail["Bcc"] is None


def test_the_user_of_the_mail_server_logs_in_and_is_the_sender(mail_server):
    url = mail_server.url.replace("smtp://", "smtp://ann%40example.org:h%2Fush@")
    Mail(url, None, ("bo@example.org",), 5).send(notice())
    assert mail_server.logins == ["\0ann@example.org\0h/ush"]
    assert mail_server.mails[0]["From"] == "ann@example.org"


def test_a_password_is_not_sent_in_the_clear_to_another_machine(mail_server, monkeypatch):
    monkeypatch.setattr("ml_pipeline.resources.notifier.LOOPBACK", ())
    with pytest.raises(ChannelError, match="offers no STARTTLS, so the password was not sent"):
        Mail(mail_server.url.replace("smtp://", "smtp://ann:hush@"), None, ("bo@example.org",), 5).send(notice())
    assert (mail_server.logins, mail_server.mails) == ([], [])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("550 hush, no mail from you", "refused the mail (550)"), ("451 later", "refused the mail (451)")],
)
def test_a_mail_that_is_refused_is_an_error_with_the_code_alone(mail_server, answer: str, expected: str):
    mail_server.refuse = answer
    with pytest.raises(ChannelError) as failed:
        Mail(mail_server.url, None, ("bo@example.org",), 5).send(notice())
    assert str(failed.value) == f"the mail server {expected}"
    assert "hush" not in "".join(traceback.format_exception(failed.value))


def test_a_mail_server_that_is_not_there_or_says_nothing_is_an_error(closed_port: int, silent: int):
    for port, expected in ((closed_port, "Connection refused"), (silent, "no answer in time")):
        mail = Mail(f"smtp://ann:{quote(PASSWORD)}@127.0.0.1:{port}", None, ("bo@example.org",), 0.3)
        with pytest.raises(ChannelError, match=f"the mail server did not answer: {expected}") as failed:
            mail.send(notice())
        assert failed.value.down
        assert PASSWORD not in "".join(traceback.format_exception(failed.value))


def test_mail_to_nobody_says_which_setting_is_missing(mail_server):
    with pytest.raises(ChannelError, match="set ML_PIPELINE_ALERT_TO"):
        Mail(mail_server.url, None, (), 5).send(notice())


def test_the_log_gets_one_line_for_each_alert(caplog):
    with caplog.at_level(logging.WARNING, "ml_pipeline.alerts"):
        Log().send(notice(alert(message="two\nlines"), alert(level="LOW", alert_id="8")))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "HIGH: concept drift: tenant acme, model story_points: two lines [7f3e]"),
        ("WARNING", "LOW: concept drift: tenant acme, model story_points: The error rose by 14%. [8]"),
    ]


def test_only_the_channels_that_are_set_up_exist():
    assert list(channels(Settings())) == ["log"]
    variables = {"ML_PIPELINE_ALERT_WEBHOOK": "https://hooks.example/x", "ML_PIPELINE_ALERT_SMTP": "smtps://mail"}
    settings = load_settings(variables | {"ML_PIPELINE_ALERT_SMTP_LEVEL": "CRITICAL"})
    assert thresholds(settings) == {"log": "LOW", "webhook": "MEDIUM", "smtp": "CRITICAL"}
    assert set(channels(settings)) == set(thresholds(settings))


@pytest.mark.parametrize("address", ["smtp://ann:hush@mail:99999", "http://ann:hush@mail", "smtp://ann:hush@"])
def test_an_address_that_can_not_be_is_refused_without_being_shown(address: str):
    with pytest.raises(SettingsError, match=r"^ML_PIPELINE_ALERT_SMTP='\*\*\*'") as refused:
        load_settings({"ML_PIPELINE_ALERT_SMTP": address})
    assert "hush" not in "".join(traceback.format_exception(refused.value))


def test_addresses_of_channels_do_not_appear_where_settings_are_shown():
    variables = {"ML_PIPELINE_ALERT_WEBHOOK": "https://hooks.example/T0/hush", "ML_PIPELINE_ALERT_TO": "a, b"}
    settings = load_settings(variables)
    assert "hush" not in repr(settings) + settings.model_dump_json()
    assert settings.alert_to == ("a", "b")
