"""The channels that send alerts to people: a Slack-compatible webhook, mail, and the log.

A channel sends one message, or raises ``ChannelError``; the caller decides on retries. Addresses of channels contain
secrets, so errors of libraries are not passed on: each is replaced by a message without the address.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import logging
import smtplib
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from http.client import HTTPException
from typing import Any, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from ml_pipeline.display import command, printable
from ml_pipeline.display import message as as_message
from ml_pipeline.settings import Settings
from ml_pipeline.severity import highest

WEBHOOK, SMTP, LOG = "webhook", "smtp", "log"

MESSAGE_LENGTH = 2500  # Slack allows 3,000 characters in one block
SHOWN_ALERTS = 15  # three blocks each; Slack allows 50 blocks in one message
DETAIL_LENGTH = 20_000  # characters of each report in a mail
LOOPBACK = ("localhost", "127.0.0.1", "::1")

logger = logging.getLogger("ml_pipeline.alerts")


class ChannelError(Exception):
    """A message was not sent; the text contains the reason, and no addresses.

    Parameters
    ----------
    down
        Whether the channel itself does not work, so that other messages would fail too.
    retry_after
        Seconds until the next attempt, if the channel named a number.
    """

    def __init__(self, message: str, *, down: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.down = down
        self.retry_after = retry_after


@dataclass(frozen=True)
class Alert:
    """One alert of a message."""

    alert_id: str
    kind: str
    level: str
    message: str
    as_of: dt.datetime
    occurrences: int = 1
    escalated: bool = False
    detail: Any = None


@dataclass(frozen=True)
class Notice:
    """The content of one message: the due alerts of one tenant and model, worst first."""

    tenant: str
    model: str
    alerts: tuple[Alert, ...]

    @property
    def level(self) -> str:
        return highest(alert.level for alert in self.alerts)

    @property
    def title(self) -> str:
        kinds = ", ".join(dict.fromkeys(alert.kind.replace("_", " ") for alert in self.alerts))
        again = ", not acknowledged" if any(alert.escalated for alert in self.alerts) else ""
        return f"{self.level}: {self.tenant}, {self.model}: {kinds}{again}"

    @property
    def key(self) -> str:
        """A hash of the content, by which a receiver recognizes a message that arrives twice."""
        parts = (f"{alert.alert_id} {alert.level} {alert.escalated}" for alert in self.alerts)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


class Channel(Protocol):
    """Sends messages; ``deadline`` is the number of seconds after which a message counts as not sent."""

    @property
    def deadline(self) -> float: ...

    def send(self, notice: Notice) -> None:
        """Send the message.

        Raises
        ------
        ChannelError
            If it was not accepted.
        """


def thresholds(settings: Settings) -> dict[str, str]:
    """The configured channels, each with the lowest level of alerts that it sends."""
    levels: dict[str, str] = {LOG: settings.alert_log_level}
    if settings.alert_webhook is not None:
        levels[WEBHOOK] = settings.alert_webhook_level
    if settings.alert_smtp is not None:
        levels[SMTP] = settings.alert_smtp_level
    return levels


def channels(settings: Settings) -> dict[str, Channel]:
    """The configured channels by name."""
    made: dict[str, Channel] = {LOG: Log()}
    if settings.alert_webhook is not None:
        made[WEBHOOK] = Webhook(settings.alert_webhook.get_secret_value(), settings.alert_webhook_timeout)
    if settings.alert_smtp is not None:
        url = settings.alert_smtp.get_secret_value()
        made[SMTP] = Mail(url, settings.alert_from, settings.alert_to, settings.alert_smtp_timeout)
    return made


class Log:
    """The log of the delivering process, which is Dagster's daemon."""

    deadline = 5.0

    def send(self, notice: Notice) -> None:
        for alert in notice.alerts:
            severe = logging.ERROR if alert.level in ("HIGH", "CRITICAL") else logging.WARNING
            text = f"{_head(alert)}: tenant {notice.tenant}, model {notice.model}: {alert.message} [{alert.alert_id}]"
            logger.log(severe, "%s", printable(" ".join(text.split())))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: the page that a webhook redirects to does not accept alerts."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Webhook:
    """Posts a JSON document with ``text`` and ``blocks``, the format of Slack, Mattermost and others.

    If the answer is lost, the message is sent twice; both have the same header ``Idempotency-Key``.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self.timeout = timeout

    @property
    def deadline(self) -> float:
        return self.timeout

    def send(self, notice: Notice) -> None:
        body = json.dumps(slack_message(notice)).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "ml-pipeline", "Idempotency-Key": notice.key}
        request = urllib.request.Request(self.url, body, headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirects)
        try:
            with opener.open(request, timeout=self.timeout):
                pass
        except HTTPError as error:
            with error:
                down = error.code >= 500 or error.code in (408, 429)
                given = error.headers.get("Retry-After") or ""
                wait = min(float(given), 3600.0) if given.isdigit() else 0.0
                raise ChannelError(f"the webhook answered {error.code}", down=down, retry_after=wait) from None
        except (OSError, HTTPException, ValueError) as error:
            raise ChannelError(f"the webhook did not answer: {_cause(error)}", down=True) from None


def slack_message(notice: Notice) -> dict[str, Any]:
    """The message in Slack's format: a line for the notification, and blocks for each alert.

    >>> at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    >>> slack_message(Notice("acme", "effort", (Alert("7", "drift", "HIGH", "Points rose.", at),)))["text"]
    'HIGH: acme, effort: drift. Points rose.'
    """
    parts = []
    for alert in notice.alerts[:SHOWN_ALERTS]:
        facts = f"{_facts(alert)} · alert {alert.alert_id} · {_acknowledge(notice, alert)}"
        parts += [
            {"type": "section", "text": _plain(_head(alert))},
            {"type": "section", "text": _plain(alert.message)},
            {"type": "context", "elements": [_plain(facts)]},
        ]
    if len(notice.alerts) > SHOWN_ALERTS:
        parts.append({"type": "section", "text": _plain(f"and {len(notice.alerts) - SHOWN_ALERTS} more alerts")})
    title = {"type": "header", "text": _plain(printable(notice.title)[:150])}
    text = f"{notice.title}. {_short(notice.alerts[0].message)}"
    return {"text": as_message(text), "mrkdwn": False, "blocks": [title, *parts]}


class Mail:
    """Sends mail by SMTP, with TLS (``smtps://``) or with STARTTLS if the server offers it (``smtp://``).

    A password is sent over an encrypted connection only, except to this machine.
    """

    def __init__(self, url: str, sender: str | None, recipients: tuple[str, ...], timeout: float) -> None:
        parts = urlsplit(url)
        self.tls = parts.scheme == "smtps"
        self.host = parts.hostname or ""
        self.user = unquote(parts.username or "")
        self.password = unquote(parts.password or "")
        self.port = parts.port or (465 if self.tls else 587 if self.user else 25)
        self.sender = sender or (self.user if "@" in self.user else "ml-pipeline@localhost")
        self.recipients = recipients
        self.timeout = timeout

    @property
    def deadline(self) -> float:
        return self.timeout

    def send(self, notice: Notice) -> None:
        if not self.recipients:
            raise ChannelError("mail has no recipients: set ML_PIPELINE_ALERT_TO", down=True)
        message = mail_message(notice, self.sender, self.recipients)
        try:
            with self._session() as session:
                refused = session.send_message(message)
        except smtplib.SMTPResponseException as error:
            what = "refused the login" if isinstance(error, smtplib.SMTPAuthenticationError) else "refused the mail"
            raise ChannelError(f"the mail server {what} ({error.smtp_code})", down=True) from None
        except smtplib.SMTPRecipientsRefused as error:
            codes = sorted({code for code, _ in error.recipients.values()})
            raise ChannelError(f"the mail server refused every recipient ({codes})") from None
        except (OSError, smtplib.SMTPException, ValueError) as error:
            raise ChannelError(f"the mail server did not answer: {_cause(error)}", down=True) from None
        if refused:
            logger.warning("The mail server refused %d of %d recipients of alerts", len(refused), len(self.recipients))

    @contextmanager
    def _session(self) -> Iterator[smtplib.SMTP]:
        context = ssl.create_default_context()
        if self.tls:
            session: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=self.timeout, context=context)
        else:
            session = smtplib.SMTP(self.host, self.port, timeout=self.timeout)
        with session:
            session.ehlo()
            encrypted = self.tls
            if not encrypted and session.has_extn("starttls"):
                session.starttls(context=context)
                session.ehlo()
                encrypted = True
            if self.user:
                if not encrypted and self.host not in LOOPBACK:
                    raise ChannelError("the mail server offers no STARTTLS, so the password was not sent", down=True)
                session.login(self.user, self.password)
            yield session


def mail_message(notice: Notice, sender: str, recipients: tuple[str, ...]) -> EmailMessage:
    """The mail: each alert with its message, the command that acknowledges it, and its report."""
    message = EmailMessage()
    message["Subject"] = printable(f"[ml-pipeline] {notice.title}")[:200]
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Message-ID"] = f"<{notice.key}@ml-pipeline>"
    message["X-Alert-IDs"] = " ".join(alert.alert_id for alert in notice.alerts)
    message["Auto-Submitted"] = "auto-generated"
    parts = []
    for alert in notice.alerts:
        said = printable(alert.message, lines=True).replace(
            "\n", "\n    "
        )  # indented, so that it cannot look like a line of the mail itself
        text = f"{_head(alert)}\n{said}\n\n{_facts(alert)}\nAcknowledge it: {_acknowledge(notice, alert)}\n"
        if alert.detail:
            report = printable(json.dumps(alert.detail, indent=1, ensure_ascii=False), lines=True)
            cut = "\n... (the rest is in ml.alerts)" if len(report) > DETAIL_LENGTH else ""
            text += f"\nReport:\n{report[:DETAIL_LENGTH]}{cut}\n"
        parts.append(text)
    message.set_content(
        f"Tenant {printable(notice.tenant)}, model {printable(notice.model)}\n\n" + "\n----\n\n".join(parts)
    )
    return message


def _head(alert: Alert) -> str:
    again = ", still not acknowledged" if alert.escalated else ""
    return printable(f"{alert.level}{again}: {alert.kind.replace('_', ' ')}")


def _facts(alert: Alert) -> str:
    seen = "once" if alert.occurrences == 1 else f"{alert.occurrences} times"
    return f"as of {alert.as_of.astimezone(dt.UTC):%d %b %Y %H:%M} UTC, seen {seen}"


def _short(text: str) -> str:
    return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 3] + "..."


def _plain(text: str) -> dict[str, Any]:
    """A block that Slack shows literally: text of an alert cannot become a link, markup, an emoji or a mention."""
    return {"type": "plain_text", "text": _short(printable(text, lines=True)), "emoji": False}


def _acknowledge(notice: Notice, alert: Alert) -> str:
    return command("ml-pipeline", "acknowledge", "--tenant", notice.tenant, alert.alert_id)


def _cause(error: Exception) -> str:
    """The reason why a connection failed, without addresses."""
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, smtplib.SMTPServerDisconnected):
        if not isinstance(reason.__context__, OSError):
            return "it closed the connection"
        reason = reason.__context__
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {reason.verify_message}"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return type(reason).__name__
