"""Leases show which processes are alive: a process holds its lease until it ends, and every process can see that.

A lease is a PostgreSQL advisory lock on a connection of its own. The server releases the lock when the connection ends:
at once if the process is killed, after a minute if its machine is lost. The alternative, a row with a heartbeat, needs
a clock that never goes back and an expiry time, which is either long after a death or shorter than a paused machine.

A lock belongs to a session: behind PgBouncer, DATABASE_URL must name a pool in session mode.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from ml_pipeline.errors import UserError
from ml_pipeline.resources import postgres
from ml_pipeline.resources.warehouse import APP_ROLE, Warehouse
from ml_pipeline.settings import Settings

LEASE_TAG = "ml_pipeline/lease"  # of a run; the value is the run's id, which is also the name of its lease

# Interval at which a process checks that it still holds its lease, and takes it again after a restart of the server.
BEAT_SECONDS = 2.0
# Longest time for which a living process may be without its lease: two intervals, and the time to connect.
LOST_SECONDS = 3 * BEAT_SECONDS

logger = logging.getLogger(__name__)


class LeaseTaken(UserError):
    """Another process holds the lease; the message names the lease."""


@contextmanager
def lease(settings: Settings, name: str) -> Iterator[None]:
    """Hold the lease ``name`` until the block, or the process, ends.

    Raises
    ------
    DatabaseUnavailable
        If no connection can be made.
    LeaseTaken
        If another process holds it.
    """
    holder = _Holder(settings, name)
    holder.take()
    thread = threading.Thread(target=holder.keep, name=f"lease {name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        holder.ended.set()
        thread.join()
        holder.close()


class _Holder:
    """The connection that holds one lease; after ``take``, only the thread of ``keep`` uses it."""

    def __init__(self, settings: Settings, name: str) -> None:
        url = postgres.parse_url(settings.database_url or "")
        options = {"role": APP_ROLE, "tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10"}
        # This connection is idle by design, so the server's limit for idle sessions is switched off.
        options |= {"tcp_keepalives_count": "3", "idle_session_timeout": "0"}
        url = postgres.url_with_options(url, **options)
        # A connection ends, too, if the server's machine is lost and answers nothing.
        waiting = {"connect_timeout": 10, "tcp_user_timeout": 10_000}
        self._engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool, connect_args=waiting)
        self._key = key_of(name)
        self._connection: sa.Connection | None = None
        self.name = name
        self.ended = threading.Event()

    def take(self) -> None:
        self._connection = postgres.connect(self._engine)
        if not self._connection.scalar(sa.select(sa.func.pg_try_advisory_lock(self._key))):
            self.close()
            raise LeaseTaken(
                f"the lease {self.name} is held by another process, or still by an earlier connection of this process. "
                "Try again in a minute"
            )

    def keep(self) -> None:
        lost = False
        while not self.ended.wait(BEAT_SECONDS):
            try:
                if self._connection is None:
                    self.take()
                    logger.warning("The lease %s is held again.", self.name)
                else:
                    self._connection.execute(sa.select(1))
                lost = False
            except (SQLAlchemyError, postgres.DatabaseUnavailable, LeaseTaken) as error:
                if not lost:
                    detail = str(error).splitlines()[0]
                    logger.warning("The lease %s is lost (%s). It is taken again when possible.", self.name, detail)
                lost = True
                self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()  # closes it without a message to the server, which may be gone
            self._connection.close()
            self._connection = None


def held(warehouse: Warehouse, names: Iterable[str]) -> set[str]:
    """The leases that are held now."""
    keys = {key_of(name): name for name in names}
    locks = sa.text(
        "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 "
        "AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with warehouse.operator() as connection:
        return {keys[key] for key in connection.scalars(locks) if key in keys}


def key_of(name: str) -> int:
    """The 64-bit number of a lease's advisory lock, from a hash of its name.

    >>> key_of("a") == key_of("a") != key_of("b")
    True
    """
    digest = hashlib.sha256(f"ml_pipeline.lease {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
