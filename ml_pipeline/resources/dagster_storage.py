"""Dagster's storage for ``dagster.yaml``: tables in a schema of the pipeline's database, files in ``home``.

The event log keeps its connections. Dagster's own storage opens one per event, which is most of the cost of a
materialization in a batched run.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Self

import sqlalchemy as sa
from dagster import Field, StringSource
from dagster._core.execution.compute_logs import redirect_to_file
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._serdes import ConfigurableClassData
from dagster._utils import ensure_file, touch_file
from dagster_postgres.event_log.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage.run_storage import PostgresRunStorage
from dagster_postgres.schedule_storage.schedule_storage import PostgresScheduleStorage
from dagster_postgres.utils import create_pg_engine

from ml_pipeline.resources import postgres
from ml_pipeline.settings import load_settings

SCHEMA = "dagster"


class NoDatabase(Exception):
    """Dagster was started without DATABASE_URL; the message says what to run instead."""


def dagster_url(database_url: str | None) -> str:
    """The URL of Dagster's schema; the schema is created if it is missing.

    Raises
    ------
    NoDatabase
        If ``database_url`` is not set.
    """
    if not database_url:
        raise NoDatabase(
            "Dagster has no database: DATABASE_URL is not set. Run `ml-pipeline up`, which starts an embedded "
            "PostgreSQL, or export DATABASE_URL=postgresql://user:password@host:5432/name and start again. "
            "For commands that only load the definitions, as `dg check defs`, set DAGSTER_HOME to an empty folder"
        )
    url = postgres.parse_url(database_url)
    with postgres.exclusive(url, "dagster") as connection:
        connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
    return postgres.plain(postgres.url_with_options(url, search_path=SCHEMA))


class _OwnSchema:
    """Configuration of the three storages: a URL, by default DATABASE_URL."""

    CONFIG: ClassVar[dict[str, Field]] = {"database_url": Field(StringSource, is_required=False)}

    @classmethod
    def config_type(cls) -> dict[str, Field]:
        return cls.CONFIG

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        given = config_value.get("database_url") or load_settings().database_url
        return cls(postgres_url=dagster_url(given), inst_data=inst_data)  # type: ignore[call-arg]


class RunStorage(_OwnSchema, PostgresRunStorage):
    """Runs, tags and daemon heartbeats."""


class ScheduleStorage(_OwnSchema, PostgresScheduleStorage):
    """States and ticks of sensors and schedules."""


class EventLogStorage(_OwnSchema, PostgresEventLogStorage):
    """Events and materializations, written over connections that are kept."""

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(postgres_url, inst_data=inst_data)
        # Each statement is a transaction, and waiting for the disk each time is a fifth of a batched run's cost.
        # After a crash of the server, the last events are missing: the log shows less than was done, never more.
        url = postgres.url_with_options(postgres.parse_url(postgres_url), synchronous_commit="off")
        self._engine = create_pg_engine(
            postgres.plain(url),
            None,
            isolation_level="AUTOCOMMIT",
            pool_size=2,
            max_overflow=8,
            pool_recycle=1800,
            pool_pre_ping=True,  # reconnects at once after a restart of the server
        )

    def dispose(self) -> None:
        super().dispose()
        self._engine.dispose()


class _OwnFolder:
    """A folder under the installation's home, wherever Dagster is started."""

    FOLDER: ClassVar[str]

    @classmethod
    def config_type(cls) -> dict[str, Field]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        return cls(base_dir=str(load_settings().home / cls.FOLDER), inst_data=inst_data)  # type: ignore[call-arg]


class ArtifactStorage(_OwnFolder, LocalArtifactStorage):
    """Dagster's own files; the pipeline stores no artifacts there."""

    FOLDER = "dagster"


class ComputeLogs(_OwnFolder, LocalComputeLogManager):
    """The output of runs, in files only.

    Dagster's own manager also echoes the output through four processes a step; two can outlive a killed run.
    """

    FOLDER = "dagster/logs"

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Iterator[CapturedLogContext]:
        with ExitStack() as redirected:
            for stream, kind in ((sys.stdout, ComputeIOType.STDOUT), (sys.stderr, ComputeIOType.STDERR)):
                path = self.get_captured_local_path(log_key, IO_TYPE_EXTENSION[kind])
                ensure_file(path)
                redirected.enter_context(redirect_to_file(stream, path))
            yield CapturedLogContext(log_key)
        # Tells the pages that nothing more will come. Dagster leaves the method without types.
        touch_file(self.complete_artifact_path(log_key))  # type: ignore[no-untyped-call]


# Dagster's pages need these events for partitions, lineage and the list of runs.
KEPT_EVENTS = (
    "ASSET_MATERIALIZATION",
    "ASSET_OBSERVATION",
    "ASSET_CHECK_EVALUATION",
    "PIPELINE_START",
    "PIPELINE_SUCCESS",
    "PIPELINE_FAILURE",
    "PIPELINE_CANCELED",
)


def prune_events(database_url: str | None, before: dt.datetime) -> int:
    """Delete log rows older than ``before`` of runs that have ended; return their number.

    Materializations stay, and so do the planned ones of failed runs, which show that a partition has failed.
    """
    events = sa.table("event_logs", *map(sa.column, ("run_id", "timestamp", "dagster_event_type")))
    runs = sa.table("runs", *map(sa.column, ("run_id", "status")))
    ended = sa.select(runs.c.run_id).where(runs.c.status.in_(["SUCCESS", "FAILURE", "CANCELED"]))
    failed = sa.select(runs.c.run_id).where(runs.c.status != "SUCCESS")
    kind = events.c.dagster_event_type
    planned_of_failed = (kind == "ASSET_MATERIALIZATION_PLANNED") & events.c.run_id.in_(failed)
    statement = (
        sa.delete(events)
        .where(events.c.timestamp < before.astimezone(dt.UTC).replace(tzinfo=None))
        .where(events.c.run_id.in_(ended))
        .where(sa.or_(kind.is_(None), ~kind.in_(KEPT_EVENTS) & ~planned_of_failed))
    )
    url = postgres.parse_url(dagster_url(database_url))
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        return connection.execute(statement).rowcount
