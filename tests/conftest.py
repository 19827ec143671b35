"""Shared fixtures: a sandbox, and an empty database, SQLite or PostgreSQL, for each test."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import cast
from uuid import uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from files_support import Desk, open_bucket
from hypothesis import HealthCheck, settings
from shared_bucket_support import opened
from support import logged, run, server_in

from leadpost.outbox import Outbox, SharedTokenBucket, _verifier
from leadpost.outbox.database import _settling, _sql
from leadpost.sandbox import Faults, Sandbox

# No test fails because a machine is slow.
settings.register_profile("slow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slow")


# Each HTTP client reads a whole file of certificates, which takes 45 ms of CPU time, but of a
# directory only those that it needs; and no test needs any.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent)


# httpcore tries this import several times a call, and a search of the whole path that finds nothing
# takes a sixth of the CPU time of tests with sockets.
if not find_spec("sniffio"):
    sys.modules["sniffio"] = cast("ModuleType", None)


def pytest_configure() -> None:
    # A shell makes its background jobs ignore Ctrl-C, and nohup makes them ignore SIGHUP; their
    # child processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let one process compile each file of tests, not all of them at once."""
    if not isinstance(collector, pytest.Module) or sys.dont_write_bytecode:
        return (yield)
    with collector.path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed
        return (yield)


def pytest_collection_finish() -> None:
    # No collection need look at thousands of tests again: this saves an eighth of the CPU time.
    gc.collect()
    gc.freeze()


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A sandbox without a limit, which processes its queue at once."""
    with Sandbox(limit=None, pace=1000, faults=Faults(retry_after=0)) as running:
        yield running


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory, and an environment without keys."""
    monkeypatch.chdir(tmp_path)
    for name in ("REGION", "HOST", "SYNC_HOST", "ACCESS_KEY", "SECRET_KEY", "API_KEY"):
        monkeypatch.delenv(f"LEADPOST_{name}", raising=False)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a real PostgreSQL: LEADPOST_TEST_POSTGRES_URL, or one that is started here."""
    if given := os.environ.get("LEADPOST_TEST_POSTGRES_URL"):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="leadpost-") as folder, server_in(folder):
        url = f"postgresql+asyncpg://postgres@/postgres?host={folder}"
        # Its data need not survive the machine: creating a database takes a third of the time.
        off = ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        run(_administer(sa.make_url(url), *off))
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an empty SQLite database."""
    return f"sqlite+aiosqlite:///{tmp_path}/store.db"


@pytest.fixture(params=["sqlite_url", "postgresql_url"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty database, first SQLite, then PostgreSQL."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture(scope="session")
def postgresql_database(postgresql: str) -> Iterator[str]:
    """The URL of a PostgreSQL database for this process: creating one takes 0.2 s of CPU time."""
    server = sa.make_url(postgresql)
    name = f"leadpost_{uuid4().hex}"
    run(_administer(server, f"CREATE DATABASE {name}"))
    yield server.set(database=name).render_as_string(hide_password=False)
    run(_administer(server, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def postgresql_url(postgresql: str, postgresql_database: str) -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    yield postgresql_database
    database = sa.make_url(postgresql_database)
    # From outside, as its own settings may not allow it.
    run(_administer(sa.make_url(postgresql), f"ALTER DATABASE {database.database} RESET ALL"))
    run(_administer(database, *_EMPTY))


_EMPTY = (
    """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
    """,
    """
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT nspname FROM pg_namespace
            WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
        LOOP EXECUTE format('DROP SCHEMA %I CASCADE', name); END LOOP;
    END $$
    """,
    "CREATE SCHEMA public",
    "GRANT USAGE ON SCHEMA public TO PUBLIC",  # as in a new database
)


async def _administer(server: sa.URL, *statements: str) -> None:
    url = server.set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


@pytest.fixture
async def outbox(sqlite_url: str) -> AsyncIterator[Outbox]:
    """An empty outbox in a file."""
    async with Outbox(sqlite_url, "acme") as opened:
        yield opened


@pytest.fixture
async def shared(store_url: str) -> AsyncIterator[SharedTokenBucket]:
    """An open shared bucket."""
    async with opened(store_url) as bucket:
        yield bucket


@pytest.fixture
def jump_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the database's clock, in seconds from the real time."""
    now = {dialect: words["now"] for dialect, words in _sql.WORDS.items()}

    def jump(seconds: float) -> None:
        for dialect, words in _sql.WORDS.items():
            monkeypatch.setitem(words, "now", f"({now[dialect]} + {seconds})")

    return jump


@pytest.fixture
def quick_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make workers verify at once, not after minutes."""
    monkeypatch.setattr(_settling, "WAITS", (0.02, 0.05))
    monkeypatch.setattr("leadpost.outbox._worker._FIRST_QUERY", 0.0)
    monkeypatch.setattr(_verifier, "_POLL", 0.05)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Set an empty home for the command, so that it uses no real outbox."""
    if "cli" not in request.path.parts:
        return
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("ACCOUNT", "OUTBOX", "TIMEZONE", "REGION", "SYNC_HOST"):
        monkeypatch.delenv(f"LEADPOST_{name}", raising=False)


@pytest.fixture
def desk(
    tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, quick_queries: None
) -> Desk:
    """A working directory with files, a bucket without a limit, and statuses asked for at once."""
    del quick_queries
    folder = tmp_path / "desk"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for module in ("sending.sender", "comparing.comparison"):
        monkeypatch.setattr(f"leadpost.cli.files.{module}.SharedTokenBucket", open_bucket)
    return Desk(folder, sandbox)


@pytest.fixture
def calls(desk: Desk) -> Path:
    """The path of a file on the desk."""
    return desk.folder / "calls.csv"


@pytest.fixture
def everything_logged() -> Iterator[StringIO]:
    """All logs of any level, those of httpx and httpcore included."""
    with logged(lambda _: True) as log:
        yield log


@pytest.fixture
def nothing_unhandled(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail if an event loop reports what nobody handled, such as an exception of a lost task."""
    yield
    records = caplog.get_records("call")
    gc.collect()
    records += caplog.records
    assert [record.message for record in records if record.name == "asyncio"] == []


@pytest.fixture
def garbage_of_httpcore() -> Iterator[None]:
    """Collect what httpcore leaves of connections, once the event loop no longer refers to it."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
