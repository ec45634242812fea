"""A real PostgreSQL for the whole session, and a migrated database of its own for each test that asks for one."""

from __future__ import annotations

import base64
import datetime as dt
import json
import socketserver
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa

from ml_pipeline.resources import embedded, postgres
from ml_pipeline.resources.preparation import prepare
from ml_pipeline.resources.registry import Registry
from ml_pipeline.resources.warehouse import Warehouse
from ml_pipeline.settings import Settings
from tests.databases import ReusedDatabase, SavedInstallations
from tests.stack import STACK_FILES
from tests.stack import browser as browser  # a fixture, as those below
from tests.stack import chromium as chromium
from tests.stack import expect as expect
from tests.stack import filled as filled
from tests.stack import page as page
from tests.stack import served as served
from tests.stack import stack as stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start services or simulate weeks come first, so that no worker ends with one of them alone."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each file goes to one worker as with ``--dist loadfile``, and the files that share a stack go to the same one.

    The groups of ``--dist loadgroup`` would say the same, but pytest-xdist 3.8 loses them under pytest 9.2.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class SharedStackScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "stack" if file in STACK_FILES else file

    return SharedStackScheduling(config, log)


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real data is not on this machine")
    return SHARED_DATA


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """URL of the session's PostgreSQL server for its superuser, who makes and removes the tests' databases.

    Not in pytest's own folder: each pytest that starts closes that to everybody but its user, and PostgreSQL, when root
    runs the tests, is another. Nothing of these databases has to outlive a power cut, so nothing is flushed to disk.
    """
    with TemporaryDirectory(prefix="ml-pipeline-tests-", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        with embedded.embedded_server(Path(path) / "home" / "postgres") as running:
            url = running.url(embedded.SUPERUSER)
            connecting = sa.create_engine(postgres.parse_url(url), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
            with connecting.connect() as connection:
                for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                    connection.execute(sa.text(f"ALTER SYSTEM SET {setting} = off"))
                connection.execute(sa.text("SELECT pg_reload_conf()"))
            yield url


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can pass through, as PostgreSQL has to where root runs the tests."""
    with TemporaryDirectory(prefix="ml-pipeline-tests-", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o711)
        yield Path(path)


def settings_of(server: str, database: str, **changes: Any) -> Settings:
    """Settings of an installation in one of the server's databases, with the logins of the product."""
    url = postgres.parse_url(server).set(drivername="postgresql", database=database)
    logins = {"database_url": embedded.OWNER, "worker_database_url": embedded.WORKER}
    return Settings(**{name: postgres.plain(url.set(username=login)) for name, login in logins.items()} | changes)


@pytest.fixture(scope="session")
def template_database(server: str) -> str:
    """Name of a migrated database that others are copied from: a copy takes a tenth of a migration's time."""
    name = "template_migrated"
    administration = postgres.parse_url(server)
    connecting = sa.create_engine(administration, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with connecting.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} OWNER {embedded.OWNER}"))
        prepare(settings_of(server, name))
        # A database can be copied only while nobody is connected to it, and MLflow keeps its connections.
        query = "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE datname = :name"
        connection.execute(sa.text(query), {"name": name})
    return name


@pytest.fixture(scope="session")
def reused_database(server: str, template_database: str) -> ReusedDatabase:
    """The database of one test after another; see :class:`ReusedDatabase`."""
    return ReusedDatabase(server, template_database)


@pytest.fixture
def settings(server: str, reused_database: ReusedDatabase, tmp_path: Path) -> Iterator[Settings]:
    """Settings of an installation of its own: empty migrated database, empty folders."""
    yield settings_of(server, reused_database.name, home=tmp_path, workers=2)
    reused_database.clean()


@pytest.fixture(scope="module")
def saved_installations(
    reused_database: ReusedDatabase, tmp_path_factory: pytest.TempPathFactory
) -> SavedInstallations:
    """The states that this module's tests start from."""
    return SavedInstallations(reused_database, tmp_path_factory.mktemp("saved"))


@pytest.fixture
def start_from(settings: Settings, saved_installations: SavedInstallations) -> Callable[[Callable[[], object]], None]:
    """``start_from(make)``: the test's own installation is as ``make`` leaves it, which runs once a module."""
    return lambda make: saved_installations.start_from(make.__qualname__, settings.home, make)


@pytest.fixture
def superuser(server: str, settings: Settings) -> sa.Engine:
    """The test's own database for the superuser, whom nothing of the product is."""
    database = postgres.parse_url(settings.database_url or "").database
    return postgres.engine(postgres.parse_url(server).set(database=database))


@pytest.fixture
def warehouse(settings: Settings) -> Warehouse:
    """The warehouse of the test's own installation."""
    return Warehouse(settings)


@pytest.fixture
def registry(settings: Settings) -> Registry:
    """The registry of the test's own installation."""
    return Registry(settings)


class Receiver:
    """A web server of this machine that takes alerts: it answers with the next of ``answers``, then with 200."""

    def __init__(self) -> None:
        receiver = self
        self.answers: list[int | str | dict[str, str]] = []  # a status, "hang", or headers of an answer 429
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.ended = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.requests.append((dict(self.headers), body))
                answer = receiver.answers.pop(0) if receiver.answers else 200
                if answer == "hang":
                    receiver.ended.wait(60)
                    return
                headers = answer if isinstance(answer, dict) else {}
                self.send_response(answer if isinstance(answer, int) else 429)
                for name, value in ({"Content-Length": "0"} | headers).items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/services/hush"

    @property
    def texts(self) -> list[str]:
        return [body["text"] for _, body in self.requests]


class MailServer:
    """A mail server of this machine, without encryption: keeps what it gets, or refuses each mail with ``refuse``."""

    def __init__(self) -> None:
        mail_server = self
        self.mails: list[EmailMessage] = []
        self.logins: list[str] = []
        self.refuse: str | None = None

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.say("220 ready")
                while words := self.rfile.readline().decode().split():
                    verb = words[0].upper()
                    if verb == "EHLO":
                        self.say("250-here\r\n250 AUTH PLAIN")
                    elif verb == "AUTH":
                        mail_server.logins.append(base64.b64decode(words[2]).decode())
                        self.say("235 welcome")
                    elif verb == "MAIL" and mail_server.refuse:
                        self.say(mail_server.refuse)
                    elif verb == "DATA":
                        self.say("354 go on")
                        self.keep()
                        self.say("250 taken")
                    elif verb == "QUIT":
                        self.say("221 bye")
                        return
                    else:
                        self.say("250 fine")

            def keep(self) -> None:
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
                mail_server.mails.append(message_from_bytes(b"".join(lines), policy=policy.default))

            def say(self, line: str) -> None:
                self.wfile.write(f"{line}\r\n".encode())

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"smtp://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A webhook that works until it is told to do something else."""
    receiver = Receiver()
    receiver.server.daemon_threads = True
    receiver.server.block_on_close = False
    with serving(receiver.server):
        yield receiver
        receiver.ended.set()


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    """A mail server that works until it is told to do something else."""
    mail_server = MailServer()
    mail_server.server.block_on_close = False
    with serving(mail_server.server):
        yield mail_server


@pytest.fixture(scope="session")
def a_row() -> Callable[..., dict[str, Any]]:
    """``a_row(table, tenant, text)``: any valid row of a table of ours, with ``text`` in every text."""

    def make(table: sa.Table, tenant: str, text: str = "x") -> dict[str, Any]:
        now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
        values = {sa.Text: text, sa.Double: 1.0, sa.Integer: 1, sa.BigInteger: 1, sa.Uuid: uuid.uuid4()}
        values |= {sa.Date: now.date(), sa.Boolean: True}
        row = {}
        for column in table.columns:
            kind = next((value for type_, value in values.items() if type(column.type) is type_), None)
            row[column.name] = now if isinstance(column.type, sa.TIMESTAMP) else {} if kind is None else kind
        return row | {"tenant_id": tenant}

    return make
