"""The embedded PostgreSQL: who may use it, who stops it, and what it makes of what killed processes leave behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import psutil
import psycopg2
import pytest
import sqlalchemy as sa

from ml_pipeline.resources import embedded, postgres, supervisor
from ml_pipeline.resources.embedded import OWNER, SUPERUSER, WORKER, EmbeddedServer, embedded_server
from ml_pipeline.resources.folders import FolderUnsafe, make_home
from ml_pipeline.resources.orphaned_server import stop_leftover
from ml_pipeline.resources.postgres import DatabaseUnavailable
from ml_pipeline.resources.preparation import prepare
from ml_pipeline.resources.registry import Registry
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel ends a server with its supervisor on Linux only"
)
USE = """
import sys, time
from pathlib import Path
from ml_pipeline.resources.embedded import embedded_server
with embedded_server(Path(sys.argv[1])) as server:
    print(server.socket, flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def new_cluster() -> Iterator[Path]:
    """A data folder as ``initdb`` makes it: a copy takes a tenth of the time."""
    with TemporaryDirectory(prefix="ml-pipeline-tests-") as folder:
        Path(folder).chmod(0o711)
        data = Path(folder) / "postgres"
        EmbeddedServer(data, 20)._make_data(embedded.server_user(), embedded._binaries())
        yield data


@pytest.fixture
def data(new_cluster: Path, open_folder: Path) -> Path:
    """The data folder of an installation that was made and is not used."""
    make_home(open_folder / "home")
    target = open_folder / "home" / "postgres"
    subprocess.run(["cp", "-a", str(new_cluster), str(target)], check=True)
    with (target / "postgresql.conf").open("a") as file:
        file.write("fsync = off\n")
    return target


def ask(server: EmbeddedServer, question: str, login: str = SUPERUSER, database: str = "postgres"):
    connection = psycopg2.connect(host=str(server.socket), user=login, dbname=database)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(question)
            return cursor.fetchone()[0]
    finally:
        connection.close()


def postmaster(data: Path) -> psutil.Process:
    return psutil.Process(int((data / "postmaster.pid").read_text().splitlines()[0]))


def wait_until(true: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@contextmanager
def command_using(data: Path) -> Iterator[subprocess.Popen]:
    """Another process that uses the server until it is killed."""
    command = [sys.executable, "-c", USE, str(data), "600"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_five_first_commands_at_once_all_succeed_and_the_last_one_stops_the_server(open_folder: Path):
    data = open_folder / "home" / "postgres"
    commands = [
        subprocess.Popen([sys.executable, "-c", USE, str(data), "0.3"], stderr=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    errors = [command.communicate(timeout=120)[1] for command in commands]
    assert [(command.returncode, error) for command, error in zip(commands, errors, strict=True)] == [(0, "")] * 5
    assert not (data / "postmaster.pid").exists()
    assert not EmbeddedServer(data, 20)._is_supervised()


def test_a_cluster_that_was_half_made_is_made_again(open_folder: Path):
    data = open_folder / "home" / "postgres"
    make_home(data.parent)
    for left in (data.with_name("postgres.new"), data):
        (left / "global").mkdir(parents=True)
        (left / "PG_VERSION").write_text("18\n")
    with embedded_server(data) as server:
        assert ask(server, "SELECT 1") == 1
    assert {path.name.split("-")[0] for path in data.parent.iterdir()} == {
        "postgres",
        "postgres.control",
        "postgres.incomplete",
        "postgres.socket",
    }


@pytest.mark.parametrize("of", ["a sleeper", "another server"])
def test_a_stale_process_number_harms_nobody(of: str, data: Path, server: str):
    """After a restart, or in a container, the number in ``postmaster.pid`` belongs to somebody else."""
    sleeper = subprocess.Popen(["sleep", "600"])
    others = Path(postgres.parse_url(server).query["host"]).with_name("postgres")  # the server of the tests themselves
    innocent = psutil.Process(sleeper.pid) if of == "a sleeper" else postmaster(others)
    try:
        (data / "postmaster.pid").write_text(
            f"{innocent.pid}\n{data}\n{innocent.create_time():.0f}\n5432\n\n\n\nready\n"
        )
        with embedded_server(data) as running:
            assert ask(running, "SELECT 1") == 1
            assert postmaster(data).pid != innocent.pid
        assert innocent.is_running() and innocent.status() == psutil.STATUS_SLEEPING
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_killed_command_leaves_no_server_running(data: Path):
    with command_using(data) as command:
        server = postmaster(data)
        keeper = server.parent()
        command.kill()
        command.wait()
        wait_until(lambda: has_ended(server))
        assert keeper is not None
        wait_until(lambda: has_ended(keeper))


def test_the_server_goes_on_while_another_command_uses_it(data: Path):
    with command_using(data) as command, embedded_server(data) as server:
        before = postmaster(data).pid
        command.kill()
        command.wait()
        time.sleep(0.3)
        assert ask(server, "SELECT 1") == 1
        assert postmaster(data).pid == before


def test_logins_that_a_killed_starter_did_not_make_are_made_by_the_next_user(data: Path):
    prepare_logins = embedded.prepare_logins
    with mock.patch.object(embedded, "prepare_logins"), embedded_server(data) as first:
        with pytest.raises(psycopg2.OperationalError, match='role "pipeline" does not exist'):
            psycopg2.connect(host=str(first.socket), user="pipeline", dbname="postgres")
        with mock.patch.object(embedded, "prepare_logins", prepare_logins), embedded_server(data) as second:
            assert ask(second, "SELECT 1") == 1


@on_linux
def test_a_server_that_was_killed_at_work_is_started_again_at_once(data: Path):
    with embedded_server(data) as server, closing(psycopg2.connect(host=str(server.socket), user=SUPERUSER)) as busy:
        busy.cursor().execute("SELECT 1")
        worker = psycopg2.connect(host=str(server.socket), user=SUPERUSER)
        thread = threading.Thread(target=count_for_a_minute, args=(worker,), daemon=True)
        thread.start()
        counting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%generate_series%'"
        wait_until(lambda: ask(server, counting) > 1)  # this question is one of them
        before = postmaster(data)
        before.kill()
        wait_until(lambda: has_ended(before))
        wait_until(lambda: is_compatible(server))
        thread.join(10)
        assert not thread.is_alive()


def count_for_a_minute(connection: Any) -> None:
    with suppress(psycopg2.Error):
        connection.cursor().execute("SELECT count(*) FROM generate_series(1, 1000000000)")


def is_compatible(server: EmbeddedServer) -> bool:
    try:
        return ask(server, "SELECT 1") == 1
    except psycopg2.Error:
        return False


@on_linux
def test_a_killed_supervisor_takes_the_server_with_it_and_a_user_starts_both_again(data: Path):
    with embedded_server(data) as server:
        before = postmaster(data)
        keeper = before.parent()
        assert keeper is not None
        keeper.kill()
        wait_until(lambda: has_ended(before) and has_ended(keeper))
        server.check()
        assert ask(server, "SELECT 1") == 1
        assert postmaster(data).pid != before.pid


def test_a_server_without_supervisor_is_stopped_and_started_under_one(data: Path):
    with orphan(data) as before, embedded_server(data) as server:
        assert ask(server, "SELECT 1") == 1
        assert has_ended(before)
        assert postmaster(data).pid != before.pid


def test_a_server_that_says_it_started_at_another_time_is_left_alone(data: Path):
    with orphan(data) as before:
        file = data / "postmaster.pid"
        lines = file.read_text().splitlines()
        file.write_text("\n".join([*lines[:2], str(int(lines[2]) - 3600), *lines[3:], ""]))
        with pytest.raises(DatabaseUnavailable, match=rf"Process {before.pid} looks like .* kill -INT {before.pid}"):
            stop_leftover(data)
        assert before.is_running()


@contextmanager
def orphan(data: Path) -> Iterator[psutil.Process]:
    """A server on the folder that nobody looks after."""
    user, binaries = embedded.server_user(), embedded._binaries()
    identity = {"user": user.uid, "group": user.gid, "extra_groups": []} if user.name else {}
    command = [str(binaries / "postgres"), "-D", str(data), "-c", "listen_addresses=", "-k", str(data)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd="/", **identity)
    try:
        wait_until(lambda: (data / "postmaster.pid").exists() and "ready" in (data / "postmaster.pid").read_text())
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait()


def test_a_server_that_dies_is_started_again(data: Path):
    with embedded_server(data) as server:
        before = postmaster(data)
        before.kill()
        wait_until(lambda: has_ended(before))
        server._wait_until_ready(None)
        assert ask(server, "SELECT 1") == 1
        assert postmaster(data).pid != before.pid


def test_a_server_that_dies_again_and_again_stays_down_with_a_reason(tmp_path: Path):
    server = EmbeddedServer(tmp_path / "postgres", 20)
    server.control.mkdir()
    (tmp_path / "postgres").mkdir()
    config = {"command": ["false"], "data": str(tmp_path / "postgres"), "socket": str(tmp_path), "uid": None}
    (server.control / supervisor.CONFIG).write_text(json.dumps(config | {"pause": 0.001, "temporary": False}))
    used = supervisor.lock(server.control / supervisor.USERS_LOCK, supervisor.fcntl.LOCK_SH)
    subprocess.run([sys.executable, "-I", "-S", supervisor.__file__, str(server.control)], check=True, timeout=30)
    assert used is not None
    used.close()
    with pytest.raises(
        DatabaseUnavailable, match=r"stays down: PostgreSQL ended 6 times within 10 minutes.*postgres.log"
    ):
        server.check()
    assert (server.control / supervisor.LOG).read_text().count("It is restarted") == supervisor.RESTARTS


@pytest.mark.parametrize(
    "name", ["home", 'o\'b #100%25 "é中" ?[x]*', "long-" + "x" * 200], ids=["short", "odd", "long"]
)
def test_the_socket_is_in_a_folder_of_its_own_that_nobody_else_enters(name: str, data: Path):
    data = data.parent.rename(data.parent.with_name(name)) / "postgres"
    with embedded_server(data) as server:
        user = embedded.server_user()
        assert (stat.S_IMODE(server.socket.stat().st_mode), server.socket.stat().st_uid) == (0o700, user.uid)
        assert stat.S_IMODE((server.socket / embedded.SOCKET).stat().st_mode) == 0o700
        assert (server.socket.parent == data.parent) == (name == "home")
        assert ask(server, "SHOW listen_addresses") == ""
        connecting = sa.create_engine(postgres.parse_url(server.url(WORKER)), poolclass=sa.NullPool)
        with connecting.connect() as connection:
            assert connection.scalar(sa.text("SELECT current_user")) == WORKER
        assert open_to_others(data.parent) == []
    assert (name == "home") == server.socket.exists()


def open_to_others(home: Path) -> list[Path]:
    """What group or others may read or write of what is in a folder."""
    return [path for path in home.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o066]


@as_root
@pytest.mark.parametrize("name", ["home", "long-" + "x" * 200], ids=["short", "long"])
def test_another_user_cannot_connect_even_where_the_folder_is_opened(name: str, data: Path):
    data = data.parent.rename(data.parent.with_name(name)) / "postgres"
    psql = embedded._binaries() / "psql"

    def as_nobody(login: str) -> str:
        command = [str(psql), "-h", str(server.socket), "-U", login, "-d", "postgres", "-c", "SELECT 1"]
        nobody = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        return subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **nobody).stderr

    with embedded_server(data) as server:
        assert "Permission denied" in as_nobody(SUPERUSER)
        server.socket.chmod(0o777)
        (server.socket / embedded.SOCKET).chmod(0o777)
        for login in (SUPERUSER, OWNER, WORKER):
            assert f'Peer authentication failed for user "{login}"' in as_nobody(login)


@as_root
def test_a_closed_parent_is_named_and_stays_closed(data: Path):
    closed = data.parent.with_name("closed")
    closed.mkdir(mode=0o700)
    with pytest.raises(FolderUnsafe, match=rf"has no access to {closed}, .*/var/lib/ml-pipeline"):
        EmbeddedServer(closed / "home" / "postgres", 20).acquire()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
def test_a_folder_of_somebody_else_in_the_place_of_the_socket_is_refused(data: Path):
    planted = data.with_name("postgres.socket")
    planted.mkdir(mode=0o777)
    shutil.chown(planted, "nobody")
    with pytest.raises(FolderUnsafe, match=rf"{planted} is a "):
        EmbeddedServer(data, 20).acquire()
    planted.rmdir()
    planted.symlink_to("/tmp")
    with pytest.raises(FolderUnsafe, match="is a symbolic link, owned by"):
        EmbeddedServer(data, 20).acquire()


def test_folders_that_an_older_version_left_open_are_closed(tmp_path: Path):
    home = tmp_path / "home"
    (home / "artifacts" / "models").mkdir(parents=True)
    home.chmod(0o755)
    (home / "artifacts").chmod(0o755)
    make_home(home)
    assert stat.S_IMODE((home / "artifacts").stat().st_mode) == 0o700
    assert stat.S_IMODE(home.stat().st_mode) == 0o755  # it was there, and may hold what is not ours


def test_what_an_older_version_made_as_superuser_is_kept_and_handed_over(data: Path):
    (data / "pg_hba.conf").write_text("local all all trust\n")
    with orphan(data):
        administration = sa.URL.create("postgresql+psycopg2", SUPERUSER, database="postgres", query={"host": str(data)})
        connecting = sa.create_engine(administration, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with connecting.connect() as connection:
            connection.execute(sa.text("CREATE DATABASE ml_pipeline"))
        before = Settings(database_url=postgres.plain(administration.set(database="ml_pipeline")))
        prepare(before)
        Warehouse(before).add_tenant("acme")
        with postgres.engine(Warehouse(before).url).begin() as connection:
            connection.execute(sa.text("CREATE TYPE source.mood AS ENUM ('good')"))
            connection.execute(sa.text("CREATE VIEW source.names AS SELECT display_name FROM source.tenants"))
        Registry(before).client.create_registered_model("kept")
        postgres.close_engines("ml_pipeline")
    with embedded_server(data) as server:
        after = Settings(database_url=server.url(), worker_database_url=server.url(WORKER))
        prepare(after)
        assert Warehouse(after).tenants() == ["acme"]
        assert Registry(after.for_workers()).client.get_registered_model("kept").name == "kept"
        left = """SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.relowner = 'postgres'::regrole AND n.nspname !~ '^(pg_|information_schema)'"""
        assert ask(server, left, database="ml_pipeline") == 0
        postgres.close_engines("ml_pipeline")
