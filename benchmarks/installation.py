"""A separate installation for benchmarks: embedded PostgreSQL and all data in a temporary folder."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import sqlalchemy as sa

from ml_pipeline.resources import embedded, postgres
from ml_pipeline.resources.embedded_logins import SUPERUSER, WORKER
from ml_pipeline.resources.preparation import prepare, quiet
from ml_pipeline.settings import PROJECT_ROOT, Settings, export_to_children, load_settings


@contextmanager
def temporary_installation(workers: int = 2) -> Iterator[Settings]:
    """Settings of a migrated, empty installation, deleted at the end; child processes have the same settings."""
    quiet()
    with TemporaryDirectory(prefix="ml-pipeline-benchmark-") as folder:
        home = Path(folder)
        home.chmod(0o711)  # PostgreSQL, where root runs this, is another user
        with embedded.embedded_server(home / "postgres") as server:
            values = {"DATABASE_URL": server.url(), "ML_PIPELINE_WORKER_DATABASE_URL": server.url(WORKER)}
            values |= {"ML_PIPELINE_HOME": folder, "ML_PIPELINE_WORKERS": str(workers), "DAGSTER_HOME": folder}
            export_to_children(values)
            settings = load_settings(values)
            prepare(settings)
            yield settings
            postgres.close_engines(postgres.DATABASE)


def superuser(settings: Settings) -> sa.Engine:
    """Connections of the server's superuser, to whom row-level security does not apply."""
    return postgres.engine(postgres.parse_url(settings.database_url or "").set(username=SUPERUSER))


@contextmanager
def product_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The instance of the project's ``dagster.yaml``, its relative folders inside the installation."""
    shutil.copy(PROJECT_ROOT / "dagster.yaml", settings.home)
    with contextlib.chdir(settings.home), dg.DagsterInstance.from_config(str(settings.home)) as instance:
        yield instance


@contextmanager
def default_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """An instance with the defaults of Dagster's PostgreSQL package, in its own database on the same server."""
    administration = postgres.parse_url(settings.database_url or "")
    postgres.create_database(administration, "dagster_defaults")
    folder = settings.home / "defaults"
    folder.mkdir(exist_ok=True)
    url = postgres.plain(administration.set(database="dagster_defaults"))
    lines = ["storage:", "  postgres:", f"    postgres_url: '{url}'", "telemetry:", "  enabled: false"]
    (folder / "dagster.yaml").write_text("\n".join(lines), encoding="utf-8")
    with contextlib.chdir(folder), dg.DagsterInstance.from_config(str(folder)) as instance:
        yield instance
