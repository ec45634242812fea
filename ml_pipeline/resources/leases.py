"""Signs of life: a lease is held as long as its process lives, however that ends, and everybody can see who holds one.

A lease is a PostgreSQL advisory lock on a connection of its own. The server lets go of it when the connection ends: at
once where the process was killed, after a minute where its machine was lost. A heartbeat row would need a clock that
never goes back, and an expiry that is either long after a death or shorter than a pause of the machine.

A lock needs a session of its own: behind PgBouncer, DATABASE_URL must name a pool in session mode.
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

LEASE_TAG = "ml_pipeline/lease"  # of a run: its own id, under which its process holds a lease

# How often a process sees that it still holds its lease; after a restart of the server it takes it again.
BEAT_SECONDS = 2.0
# So long a lease may be without its holder although that lives: two beats and the time to connect.
LOST_SECONDS = 3 * BEAT_SECONDS

logger = logging.getLogger(__name__)


class LeaseTaken(UserError):
    """Another process holds the lease; the message names it."""


@contextmanager
def lease(settings: Settings, name: str) -> Iterator[None]:
    """Holds the lease ``name`` until the block, or the process, ends.

    Raises
    ------
    DatabaseUnavailable
        If no connection can be made.
    LeaseTaken
        If somebody holds it.
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
    """The connection that holds one lease. After ``take`` only the thread of ``keep`` uses it."""

    def __init__(self, settings: Settings, name: str) -> None:
        url = postgres.parse_url(settings.database_url or "")
        options = {"role": APP_ROLE, "tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10"}
        # A connection that idles is what this is; the limits that a server sets are for others.
        options |= {"tcp_keepalives_count": "3", "idle_session_timeout": "0"}
        url = postgres.url_with_options(url, **options)
        # Also a server whose machine is gone, and which therefore answers nothing, is given up.
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
            raise LeaseTaken(f"the lease {self.name} is held by another process, or by a connection of this one's past")

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
                    logger.warning("The lease %s is lost (%s); it is taken again when possible.", self.name, detail)
                lost = True
                self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.invalidate()  # closes it without a word to a server that may be gone
            self._connection.close()
            self._connection = None


def held(warehouse: Warehouse, names: Iterable[str]) -> set[str]:
    """Which of the leases somebody holds at this moment."""
    keys = {key_of(name): name for name in names}
    locks = sa.text(
        "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 "
        "AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with warehouse.operator() as connection:
        return {keys[key] for key in connection.scalars(locks) if key in keys}


def key_of(name: str) -> int:
    """The number of a lease's lock: 64 bits of a hash, as PostgreSQL takes them.

    >>> key_of("a") == key_of("a") != key_of("b")
    True
    """
    digest = hashlib.sha256(f"ml_pipeline.lease {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
