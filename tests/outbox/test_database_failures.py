"""A database that cannot be used: whether that is temporary, what to do, and no value is shown."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sqlite3
import ssl
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from database_support import (
    chain,
    changed,
    locked_file,
    numbers,
    path_of,
    plain_postgresql,
    put,
)
from pooler import pooler
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.exc import TimeoutError as NoConnection
from support import account, activity, run, server_in, within

from leadpost import OutboxError, OutboxUnavailable
from leadpost.outbox import Outbox
from leadpost.outbox.database import Database, _database
from leadpost.outbox.database._failures import outbox_error
from leadpost.outbox.database._sql import execute
from leadpost.outbox.database._urls import parse_url


async def put_many(url: str) -> None:
    async with Outbox(url, account()) as outbox:
        await outbox.put_many(map(activity, range(1, 5000)))


@contextmanager
def fails(reason: str, *, passes: bool) -> Generator[None]:
    """Check what an error says, and whether it is temporary."""
    with pytest.raises(OutboxError, match=reason) as caught:
        yield
    assert isinstance(caught.value, OutboxUnavailable) is passes


# SQLite.


def test_a_missing_folder(tmp_path: Path) -> None:
    with fails("does the folder exist", passes=False):
        run(put(f"sqlite:///{tmp_path}/missing/store.db"))


def test_no_file_descriptor_left(sqlite_url: str) -> None:
    async def put_with_none_left() -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with Outbox(sqlite_url, account()) as outbox:
            await outbox.put(activity(1))
            working = asyncio.create_task(outbox._database.read(lasting))  # the open connection
            await asyncio.sleep(0.1)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
            try:
                with fails("too many open files", passes=True):
                    await outbox.put(activity(2))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            await working
            await outbox.put(activity(2))

    run(put_with_none_left())


def lasting(connection: sa.Connection) -> None:
    execute(connection, "SELECT 1")
    time.sleep(0.5)


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    with fails("the file cannot be opened", passes=False):
        run(put(f"sqlite:///{tmp_path}"))


def test_a_file_that_is_not_a_database(sqlite_url: str) -> None:
    path_of(sqlite_url).write_text("RelatedProspectId,ActivityEvent\n" * 1000, encoding="utf-8")
    with fails("not a SQLite database: choose another name", passes=False):
        run(put(sqlite_url))
    assert path_of(sqlite_url).read_text(encoding="utf-8").startswith("RelatedProspectId")


def test_a_damaged_file(sqlite_url: str) -> None:
    run(put(sqlite_url))
    content = bytearray(path_of(sqlite_url).read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path_of(sqlite_url).write_bytes(content)
    with fails(r"the file is damaged: `sqlite3 FILE \.recover`", passes=False):
        run(numbers(sqlite_url))


async def test_a_file_that_another_process_keeps_locked(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_database, "LONGEST_WAIT", 1.0)
    await put(sqlite_url)
    database = Database(sqlite_url)
    await database.open()
    with locked_file(sqlite_url), fails("another process keeps it locked", passes=True):
        await database.write(lambda connection: connection.exec_driver_sql("ROLLBACK"), within=None)
    await database.aclose()
    await put(sqlite_url, 3)
    assert await numbers(sqlite_url) == [1, 3]


@pytest.mark.skipif(os.name != "posix", reason="permissions and users of POSIX")
def test_a_read_only_file(sqlite_url: str, tmp_path: Path) -> None:
    run(put(sqlite_url))
    for part in tmp_path.iterdir():
        part.chmod(0o444)
    with unprivileged(tmp_path), fails("read-only: make both writable", passes=False):
        run(put(sqlite_url, 2))
    with unprivileged(tmp_path), fails("may this user write there", passes=False):
        run(put(f"sqlite:///{tmp_path}/new.db"))
    assert run(numbers(sqlite_url)) == [1]


@contextmanager
def unprivileged(folder: Path) -> Generator[None]:
    """Make root, who may write everything, an ordinary user for a while."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    for part in (folder, *folder.parents):
        if part == Path(tempfile.gettempdir()):
            break
        part.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_full_disk_loses_no_entry(sqlite_url: str) -> None:
    run(put(sqlite_url))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path_of(sqlite_url).stat().st_size + 4096, hard))
    try:
        with fails("disk", passes=True):
            run(put_many(sqlite_url))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run(numbers(sqlite_url)) == [1]


# PostgreSQL.


async def test_a_missing_user_and_a_missing_database(postgresql_url: str) -> None:
    await put(postgresql_url)
    with fails("user or password were refused|does not let this user in", passes=False):
        await put(changed(postgresql_url, username="nobody_of_that_name", password="private"))
    with fails("there is no such database: create it, or correct the URL", passes=False):
        await put(changed(postgresql_url, database="missing"))


def test_a_wrong_password_and_a_stopped_server() -> None:
    with tempfile.TemporaryDirectory(prefix="leadpost-") as folder, server_in(folder) as server:
        url = f"postgresql://postgres:{{}}@/postgres?host={folder}"
        server.psql("ALTER USER postgres PASSWORD 'right';")
        rule = "local all all scram-sha-256\n"
        (Path(folder) / "pg_hba.conf").write_text(rule, encoding="utf-8")
        server.stop()
        with fails("socket is missing: is the server running", passes=True):
            run(put(url.format("right")))
        server.ensure_postgres_running()
        run(put(url.format("right")))
        for password in ("wrong-one", ""):
            with fails("user or password were refused: correct the URL", passes=False):
                run(put(url.format(password)))
        (Path(folder) / "pg_hba.conf").write_text("local all all reject\n", encoding="utf-8")
        server.stop()
        server.ensure_postgres_running()
        with fails("does not let this user in from here", passes=False):
            run(put(url.format("right")))


async def test_a_server_without_a_free_connection(postgresql_url: str) -> None:
    name = f"busy_{sa.make_url(postgresql_url).database}"
    async with plain_postgresql(postgresql_url) as server:
        await server.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 0")
        try:
            with fails("no free connection: use fewer, or raise max_connections", passes=True):
                await put(changed(postgresql_url, username=name))
        finally:
            await server.execute(f"DROP ROLE {name}")


async def test_backends_killed_during_a_statement(postgresql_url: str) -> None:
    async with Outbox(postgresql_url, account()) as outbox, within(20):
        async with plain_postgresql(postgresql_url) as server, server.transaction():
            await server.execute("LOCK TABLE leadpost_entries")
            putting = asyncio.create_task(outbox.put(activity(1)))
            query = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted"
            while not putting.done():  # it has two attempts
                await server.fetch(query)
                await asyncio.sleep(0.01)
            with fails("stops, starts, or ended the statement|connection", passes=True):
                await putting
        await outbox.put(activity(2))
    assert await numbers(postgresql_url) == [2]


@pytest.mark.parametrize(
    ("code", "words", "reason", "passes"),
    [
        ("57P03", "the database system is starting up", "the server stops, starts", True),
        ("53300", "sorry, too many clients already", "no free connection", True),
        ("28000", "no pg_hba.conf entry", "check the user, pg_hba.conf and sslmode", False),
        ("3D000", 'database "private" does not exist', "there is no such database", False),
    ],
)
async def test_a_server_that_rejects_the_connection(
    postgresql: str, code: str, words: str, reason: str, *, passes: bool
) -> None:
    folder = str(sa.make_url(postgresql).query["host"])
    async with pooler(folder) as door:
        door.refusal, door.code = words, code
        with fails(rf"127\.0\.0\.1/crm: .*{reason}.*\({code}\)", passes=passes):
            await put(f"postgresql://ada@127.0.0.1:{door.port}/crm")


async def test_a_server_without_tls(postgresql: str) -> None:
    folder = str(sa.make_url(postgresql).query["host"])
    async with pooler(folder) as door:
        for mode in ("require", "verify-full&sslrootcert=system", "prefer&channel_binding=require"):
            url = f"postgresql://ada@127.0.0.1:{door.port}/crm?sslmode={mode}"
            with fails(
                "the server offers no TLS, which sslmode or channel_binding asks for", passes=False
            ):
                await put(url)


async def test_a_missing_socket_and_a_missing_server(tmp_path: Path) -> None:
    with fails("socket is missing: is the server running", passes=True):
        await put(f"postgresql://me@/x?host={tmp_path}")
    with fails("no connection.*: is the server running", passes=True):
        await put("postgresql://me@127.0.0.1:9/x")


async def test_an_unknown_host() -> None:
    with fails("its host is not found: correct the URL, or check the network", passes=True):
        await put("postgresql://me@no-such-host.invalid/x")


async def test_a_host_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with fails("no answer: is the server running", passes=True):
            await put(f"postgresql://me@127.0.0.1:{port}/x?connect_timeout=1")


async def test_missing_tables(store_url: str) -> None:
    async with Outbox(store_url, account()) as outbox:
        await outbox._database.write(
            lambda connection: connection.execute(sa.text("DROP TABLE leadpost_changes"))
        )
        with fails(r"\(42P01\)|\(SQLITE_ERROR\)", passes=False):
            await outbox._database.read(
                lambda connection: connection.execute(sa.text("SELECT * FROM leadpost_changes"))
            )


async def test_a_number_that_is_too_large_is_not_a_lost_connection(
    postgresql_url: str,
) -> None:
    async with Outbox(postgresql_url, account()) as outbox:
        with fails("DataError", passes=False):
            await outbox.history(2**70)


# Other failures.

STATES = {
    "08006": (True, "the connection was lost"),
    "23505": (False, "was the database restored without its sequences' values?"),
    "25006": (True, "read-only: a standby, or in a failover"),
    "25P03": (True, "did nothing for too long"),
    "40P01": (True, "in favor of another"),
    "53100": (True, "the server's disk is full: make room"),
    "53200": (True, "no memory left"),
    "55P03": (True, "another process keeps a lock"),
    "57P01": (True, "the server stops, starts, or ended the statement"),
    "57P04": (False, "the database was dropped"),
    "58030": (True, "cannot read or write its disk"),
    "3F000": (False, "no such schema: create it, or correct the search_path"),
    "42501": (False, "GRANT what is missing"),
    "42704": (False, "an option of the URL is not known to the server"),
    "XX001": (False, "the server's data are damaged"),
    "XX002": (False, "REINDEX"),
    "22021": (False, "CharacterNotInRepertoireError"),
}


@pytest.mark.parametrize(("state", "expected"), STATES.items(), ids=STATES)
def test_the_sqlstate_decides_whether_a_failure_is_temporary(
    state: str, expected: tuple[bool, str]
) -> None:
    is_temporary, named = expected
    failure = asyncpg.PostgresError.new({"C": state, "M": "private"})
    error = outbox_error(failure, parse_url("postgresql://db/crm"))
    assert isinstance(error, OutboxUnavailable) is is_temporary
    assert str(error).startswith("postgresql://db/crm: ")
    assert named in str(error)
    assert f"({state})" in str(error)
    assert "private" not in str(error)


POSTGRESQL: list[tuple[Exception, bool, str]] = [
    (InvalidRequestError("private"), False, "InvalidRequestError"),
    (asyncpg.InternalClientError("private"), True, "no connection (InternalClientError)"),
    (asyncpg.InterfaceError("private"), True, "no connection (InterfaceError)"),
    (asyncpg.UnsupportedClientFeatureError("private"), False, "UnsupportedClientFeatureError"),
    (asyncpg.ClientConfigurationError("private"), False, "asyncpg cannot use an option"),
    (NoConnection("private"), True, "no connection was free for too long"),
    (ConnectionResetError("private"), True, "no connection (ConnectionResetError)"),
    (PermissionError("private"), False, "this user may not use the server's socket"),
    (ssl.SSLEOFError("private"), True, "no connection (SSLEOFError)"),
    (ssl.SSLError("private"), False, "no TLS connection (None): see sslmode"),
]
SQLITE: list[tuple[Exception, bool, str]] = [
    (sqlite3.OperationalError("private"), False, "OperationalError ()"),
    (NoConnection("private"), True, "no connection was free for too long"),
]


@pytest.mark.parametrize(
    ("url", "failure", "passes", "text"),
    [
        *(("postgresql://db/crm", *case) for case in POSTGRESQL),
        *(("sqlite:///leadpost.db", *case) for case in SQLITE),
    ],
)
def test_any_other_failure_is_named_only_by_its_type(
    url: str, failure: Exception, text: str, *, passes: bool
) -> None:
    error = outbox_error(failure, parse_url(url))
    assert isinstance(error, OutboxUnavailable) is passes
    assert text in str(error)
    assert "private" not in str(error)


def test_an_untrusted_certificate_is_a_permanent_failure() -> None:
    failure = ssl.SSLCertVerificationError("private")
    failure.verify_message = "self-signed certificate"
    error = outbox_error(failure, parse_url("postgresql://db/crm"))
    assert "not trusted (self-signed certificate): see sslmode, channel_binding" in str(error)
    assert not isinstance(error, OutboxUnavailable)


@pytest.mark.parametrize(
    "wrong",
    [
        {"activity": "Smith, no JSON"},
        {"activity": "{'Name': 'Smith'}"},  # Python's, and JSON5
        {"activity": '["Smith",]'},
        {"state": "Smith"},
    ],
)
async def test_no_value_of_a_statement_is_shown(
    store_url: str, caplog: pytest.LogCaptureFixture, wrong: dict[str, str]
) -> None:
    for name in ("aiosqlite", "asyncio", "sqlalchemy.engine", "sqlalchemy.pool"):
        caplog.set_level(1, logger=name)
    row = {"account": "acme", "key": "Jones", "activity": "{}", **wrong}
    database = Database(store_url)
    await database.open()

    def insert(connection: sa.Connection) -> None:
        statement = f"INSERT INTO leadpost_entries ({', '.join(row)})"
        execute(connection, f"{statement} VALUES (:{', :'.join(row)})", **row)

    with pytest.raises(OutboxError) as caught:
        await database.write(insert)
    await database.aclose()
    assert list(chain(caught.value)) == [caught.value]
    texts = f"{caught.value!r} {vars(caught.value)} {caplog.text}"
    assert "Jones" not in texts
    assert "Smith" not in texts or "state" in wrong  # a state is no caller's value
