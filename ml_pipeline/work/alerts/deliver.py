"""Delivery of alerts: each channel gets the messages that are due.

A delivery is a row per alert and channel, written together with the alert. A sender claims rows for a limited time,
sends them outside of any transaction, and marks them as sent. If it dies in between, the claim expires and another
sender takes over: a message may arrive twice, and is never lost.
"""

from __future__ import annotations

import datetime as dt
import logging
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ml_pipeline.monitoring import alert_rules
from ml_pipeline.resources import notifier, tables
from ml_pipeline.resources.notifier import Channel, ChannelError, Notice
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.severity import rank
from ml_pipeline.work.alerts.raising import AHEAD, MESSAGES

FIRST_PAUSE, LONGEST_PAUSE = dt.timedelta(seconds=30), dt.timedelta(hours=1)
# Longer than any channel may take for one message.
CLAIM = dt.timedelta(seconds=90)
# Seconds after which a tick starts no further message; Dagster stops a tick after 60.
SECONDS = 20.0
ALERTS_PER_MESSAGE = 50

Clock = Callable[[], dt.datetime]
logger = logging.getLogger("ml_pipeline.alerts")


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@dataclass
class Delivered:
    """What one round of delivery did; each alert counts once per channel."""

    sent: int = 0
    to_retry: int = 0
    failed: int = 0
    not_set_up: int = 0
    errors: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = {"sent": self.sent, "to be retried": self.to_retry, "given up": self.failed}
        counts["waiting for a channel that is not configured"] = self.not_set_up
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "nothing was due"


@dataclass(frozen=True)
class _Claim:
    """Deliveries of one tenant, model and channel that this sender has claimed, and their message."""

    tenant: str
    model: str
    channel: str
    rows: tuple[Mapping[str, Any], ...]
    notice: Notice


def deliver(
    warehouse: Warehouse,
    channels: Mapping[str, Channel],
    *,
    seconds: float = SECONDS,
    clock: Clock = utc_now,
) -> Delivered:
    """Sends the deliveries that are due. Channels are independent: one that hangs or is down delays no other.

    A channel that is down is not tried again in this round, so that an outage costs few attempts. A round lasts at most
    ``seconds`` plus the longest deadline of a channel. Several senders may run at once and share the work.
    """
    return _Round(warehouse, channels, seconds, clock).run()


class _Round:
    def __init__(self, warehouse: Warehouse, channels: Mapping[str, Channel], seconds: float, clock: Clock) -> None:
        self.warehouse = warehouse
        self.channels = channels
        self.clock = clock
        self.attempts_allowed = warehouse.settings.alert_attempts
        self.no_more_at = time.monotonic() + seconds
        self.done = Delivered()
        self.ends: queue.Queue[tuple[_Claim, Exception | None]] = queue.Queue()
        self.due: dict[str, deque[tuple[str, str]]] = {}
        self.sending: dict[str, tuple[_Claim, float]] = {}

    def run(self) -> Delivered:
        for tenant, model, channel in self._due():
            if channel in self.channels:
                self.due.setdefault(channel, deque()).append((tenant, model))
            else:
                self.done.not_set_up += 1
        for channel in self.due:
            self._begin(channel)
        while self.sending:
            deadline = min(ends for _, ends in self.sending.values())
            try:
                claim, error = self.ends.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                for channel, (claim, ends) in list(self.sending.items()):
                    if ends <= time.monotonic():
                        late = f"the {channel} did not answer within {self.channels[channel].deadline:g} s"
                        self._ended(claim, ChannelError(late, down=True))
                continue
            held = self.sending.get(claim.channel)
            if held is not None and held[0] is claim:  # otherwise it ended after its deadline, and counts as not sent
                self._ended(claim, error)
        return self.done

    def _due(self) -> list[tuple[str, str, str]]:
        """Tenant, model and channel of the messages that are due, the longest waiting first."""
        table = tables.alert_deliveries
        group = (table.c.tenant_id, table.c.model, table.c.channel)
        place = sa.func.row_number().over(partition_by=table.c.channel, order_by=sa.func.min(table.c.next_attempt_at))
        groups = sa.select(*group, place.label("place")).where(_is_due(self.clock())).group_by(*group).subquery()
        query = sa.select(groups.c.tenant_id, groups.c.model, groups.c.channel).where(groups.c.place <= MESSAGES)
        with self.warehouse.operator() as connection:
            return [
                (row.tenant_id, row.model, row.channel) for row in connection.execute(query.order_by(groups.c.place))
            ]

    def _begin(self, channel: str) -> None:
        """Sends the channel's next message in a thread, which is given up after the channel's deadline."""
        waiting = self.due[channel]
        while waiting and time.monotonic() < self.no_more_at:
            claim = self._claim(*waiting.popleft(), channel)
            if claim is not None:
                self.sending[channel] = (claim, time.monotonic() + self.channels[channel].deadline)
                threading.Thread(target=self._send, args=(claim,), daemon=True).start()
                return

    def _send(self, claim: _Claim) -> None:
        try:
            self.channels[claim.channel].send(claim.notice)
        except Exception as error:  # noqa: BLE001 - stored with the delivery, which is tried again
            self.ends.put((claim, error))
        else:
            self.ends.put((claim, None))

    def _ended(self, claim: _Claim, error: Exception | None) -> None:
        del self.sending[claim.channel]
        if error is None:
            self._mark_sent(claim)
        else:
            known = error if isinstance(error, ChannelError) else ChannelError(f"{type(error).__name__} while sending")
            self._mark_failed(claim, known)
            if known.down:
                return
        self._begin(claim.channel)

    def _claim(self, tenant: str, model: str, channel: str) -> _Claim | None:
        """Claims the deliveries of one message that are due; None if another sender was faster."""
        table, alerts, now = tables.alert_deliveries, tables.alerts, self.clock()
        facts = ("kind", "message", "detail", "as_of", "occurrences")
        query = (
            sa.select(table, *(alerts.c[name] for name in facts))
            .join(alerts, (alerts.c.tenant_id == table.c.tenant_id) & (alerts.c.alert_id == table.c.alert_id))
            .where(table.c.tenant_id == tenant, table.c.model == model, table.c.channel == channel, _is_due(now))
            .order_by(table.c.due_at, table.c.created_at)
            .limit(ALERTS_PER_MESSAGE)
            .with_for_update(skip_locked=True, of=table)
        )
        with self.warehouse.tenant(tenant) as connection:
            found = [dict(row) for row in connection.execute(query).mappings()]
            rows = tuple(row for row in found if row["attempts"] < self.attempts_allowed)
            for row in rows:
                # Counted before sending, so that a message that kills its sender is not tried forever.
                connection.execute(_update(row).values(attempts=table.c.attempts + 1, claimed_until=now + CLAIM))
            for row in found:
                if row not in rows:
                    self._give_up(connection, row, "every process that tried to send it died")
        return _Claim(tenant, model, channel, rows, _notice(tenant, model, rows)) if rows else None

    def _mark_sent(self, claim: _Claim) -> None:
        with self.warehouse.tenant(claim.tenant) as connection:
            for row in claim.rows:
                values = {"state": "sent", "sent_at": self.clock(), "claimed_until": None}
                connection.execute(_update(row).values(values))
        self.done.sent += len(claim.rows)

    def _mark_failed(self, claim: _Claim, error: ChannelError) -> None:
        self.done.errors[claim.channel] = str(error)
        with self.warehouse.tenant(claim.tenant) as connection:
            for row in claim.rows:
                attempts = row["attempts"] + 1
                pause = alert_rules.backoff(attempts, FIRST_PAUSE, LONGEST_PAUSE)
                again = self.clock() + max(pause, dt.timedelta(seconds=error.retry_after))
                values = {"last_error": str(error), "claimed_until": None, "next_attempt_at": again}
                if attempts >= self.attempts_allowed:
                    self._give_up(connection, row, str(error))
                    continue
                self.done.to_retry += 1
                connection.execute(_update(row).where(tables.alert_deliveries.c.state == "pending").values(values))

    def _give_up(self, connection: sa.Connection, row: Mapping[str, Any], why: str) -> None:
        self.done.failed += 1
        values = {"state": "failed", "claimed_until": None, "last_error": why}
        connection.execute(_update(row).where(tables.alert_deliveries.c.state == "pending").values(values))
        logger.error("The %s did not get alert %s, and delivery is given up: %s", row["channel"], row["alert_id"], why)


def _is_due(now: dt.datetime) -> sa.ColumnElement[bool]:
    table = tables.alert_deliveries
    claimed = (table.c.claimed_until > now) & (table.c.claimed_until <= now + AHEAD)
    free = table.c.claimed_until.is_(None) | ~claimed
    waits = (table.c.next_attempt_at > now) & (table.c.next_attempt_at <= now + AHEAD)
    return (table.c.state == "pending") & ~waits & free


def _update(row: Mapping[str, Any]) -> sa.Update:
    table = tables.alert_deliveries
    return sa.update(table).where(*(column == row[column.name] for column in table.primary_key))


def _notice(tenant: str, model: str, rows: Sequence[Mapping[str, Any]]) -> Notice:
    """The message. An alert that got worse before it was sent appears once, at its worst level."""
    alerts: dict[uuid.UUID, notifier.Alert] = {}
    for row in sorted(rows, key=lambda row: rank(row["level"])):
        facts = (row["kind"], row["level"], row["message"], row["as_of"], row["occurrences"])
        escalated = row["occasion"] == "escalated"
        alerts[row["alert_id"]] = notifier.Alert(str(row["alert_id"]), *facts, escalated, row["detail"])
    worst_first = sorted(alerts.values(), key=lambda alert: -rank(alert.level))
    return Notice(tenant, model, tuple(worst_first))
