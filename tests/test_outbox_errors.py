"""A store that cannot be used says what to do, and what was put before is still there."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import create_async_engine
from support import Vendor, account, activity, run, server_in, within

from leadpost import AsyncActivityPoster, OpenBucket, OutboxError, OutboxUnavailable
from leadpost.cli.outbox_url import shown_url
from leadpost.outbox import Outbox
from leadpost.outbox.failures import told
from leadpost.outbox.store import Store


async def put(url: str, number: int = 1) -> None:
    async with Outbox(url) as outbox:
        await outbox.put(activity(number))


async def numbers(url: str) -> list[int]:
    async with Outbox(url) as outbox:
        return [entry.payload["ActivityEvent"] async for entry in outbox.entries()]


def url_of(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("leadpost.db", "found text that is none"),
        ("sqlite+pysqlite:///leadpost.db", "found sqlite\\+pysqlite"),
        ("mysql://host/database", "found mysql"),
        ("sqlite+aiosqlite://", "found no file"),
        ("sqlite+aiosqlite:///:memory:", "found no file"),
    ],
)
def test_a_url_that_cannot_be_one(url: str, found: str) -> None:
    with pytest.raises(OutboxError, match=f"{found}.*wanted sqlite:///FILE"):
        Outbox(url)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
async def test_a_url_as_postgresql_itself_writes_it(postgresql_url: str, scheme: str) -> None:
    plain = postgresql_url.replace("postgresql+asyncpg", scheme)
    await put(plain)
    assert await numbers(postgresql_url) == [1]
    assert shown_url(plain).startswith("postgresql+asyncpg://")


async def test_a_url_of_sqlite_without_its_driver(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await put(f"sqlite:///{path}")
    assert await numbers(url_of(path)) == [1]
    assert shown_url(f"sqlite:///{path}") == str(path)


def test_a_password_is_shown_nowhere() -> None:
    outbox = Outbox("postgresql+asyncpg://me:private@127.0.0.1:9/x")
    with pytest.raises(OutboxUnavailable) as caught:
        run(put("postgresql+asyncpg://me:private@127.0.0.1:9/x"))
    assert "private" not in f"{outbox!r} {caught.value!s}"
    assert "no connection" in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(OutboxError, match="is there such a folder"):
        run(put(url_of(tmp_path / "missing" / "store.db")))


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_text("RelatedProspectId,ActivityEvent\n" * 1000)
    with pytest.raises(OutboxError, match="no SQLite database: choose another name"):
        run(put(url_of(path)))
    assert path.read_text().startswith("RelatedProspectId")


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    run(put(url_of(path)))
    content = bytearray(path.read_bytes())
    content[4096 : 4096 * 12] = b"\xff" * (4096 * 11)
    path.write_bytes(content)
    with pytest.raises(OutboxError, match="the file is damaged"):
        run(numbers(url_of(path)))


def test_a_file_that_another_keeps_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leadpost.outbox.store.BUSY", 0.1)
    path = tmp_path / "store.db"
    run(put(url_of(path)))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutboxUnavailable, match="another process keeps it locked"):
        run(put(url_of(path), 2))
    other.execute("ROLLBACK")
    other.close()
    run(put(url_of(path), 3))
    assert run(numbers(url_of(path))) == [1, 3]


@pytest.mark.skipif(os.name != "posix", reason="permissions and users of POSIX")
def test_a_file_that_may_only_be_read(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    run(put(url_of(path)))
    for part in tmp_path.iterdir():
        part.chmod(0o444)
    with unprivileged(tmp_path), pytest.raises(OutboxError, match="read-only: make both writable"):
        run(put(url_of(path), 2))
    with unprivileged(tmp_path), pytest.raises(OutboxError, match="may this user write there"):
        run(put(url_of(tmp_path / "new.db")))
    assert run(numbers(url_of(path))) == [1]


@contextmanager
def unprivileged(folder: Path) -> Generator[None]:
    """Let root, who may write everything, be nobody for a while."""
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


def test_a_full_disk_loses_nothing_that_was_put(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    run(put(url_of(path)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 4096, hard))
    try:
        with pytest.raises(OutboxError, match="disk"):
            run(put_many(url_of(path)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run(numbers(url_of(path))) == [1]


async def put_many(url: str) -> None:
    async with Outbox(url) as outbox:
        await outbox.put_many(activity(number) for number in range(1, 5000))


async def test_a_user_and_a_database_that_are_not_there(
    postgresql_url: str, postgresql: str
) -> None:
    async with Outbox(postgresql_url) as outbox:
        await outbox.put(activity(1))
    wrong = sa.make_url(postgresql_url).set(username="nobody_of_that_name", password="private")
    with pytest.raises(OutboxError, match="user or password were refused: correct the URL") as e:
        await put(wrong.render_as_string(hide_password=False))
    assert "private" not in str(e.value)
    missing = sa.make_url(postgresql).set(database="missing")
    with pytest.raises(OutboxError, match="there is no such database"):
        await put(missing.render_as_string(hide_password=False))


def test_the_password_of_a_server_that_asks_for_one() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="leadpost-") as folder,
        server_in(folder) as server,
    ):
        server.psql("ALTER USER postgres PASSWORD 'right';")
        rule = "local all all scram-sha-256\n"
        (Path(folder) / "pg_hba.conf").write_text(rule, encoding="utf-8")
        server.stop()
        server.ensure_postgres_running()
        url = f"postgresql+asyncpg://postgres:{{}}@/postgres?host={folder}"
        run(put(url.format("right")))
        with pytest.raises(OutboxError, match="user or password were refused") as caught:
            run(put(url.format("wrong-one")))
        assert "wrong-one" not in str(caught.value)
        assert run(numbers(url.format("right"))) == [1]


async def test_an_option_and_a_socket_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutboxError, match=r"does not know an option of the URL.*'hots'"):
        await put("postgresql+asyncpg://me:private@/x?hots=y")
    with pytest.raises(OutboxUnavailable, match="socket is not there: does the server run"):
        await put(f"postgresql+asyncpg://me@/x?host={tmp_path}")


async def test_a_host_that_is_not_found() -> None:
    with pytest.raises(OutboxUnavailable, match="its host is not found"):
        await put("postgresql+asyncpg://me@no-such-host.invalid/x")


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (InvalidRequestError("private"), "x: InvalidRequestError"),
        (sqlite3.OperationalError("private"), "x: OperationalError ()"),
        (asyncpg.InternalClientError("private"), "x: no connection (InternalClientError)"),
        (NoConnection("private"), "x: no connection (TimeoutError)"),
    ],
)
def test_what_nobody_thought_of_is_told_by_its_kind_alone(failure: Exception, text: str) -> None:
    assert str(told(failure, "x")) == text


def test_a_store_shows_no_password() -> None:
    shown = repr(Store("postgresql+asyncpg://me:private@host/x"))
    assert shown == "<Store postgresql+asyncpg://me:***@host/x>"


def test_the_extra_that_is_missing() -> None:
    script = (
        "import sys; sys.modules['aiosqlite'] = None\n"
        "try:\n    import leadpost.outbox\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "pip install 'leadpost[outbox]'" in done.stdout


async def test_a_lock_is_waited_for_turn_after_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leadpost.outbox.store._TURN", 0.02)
    path = tmp_path / "store.db"
    async with Outbox(url_of(path)) as outbox, within(30):
        other = sqlite3.connect(path, isolation_level=None)
        for put in (outbox.put(activity(1)), outbox.put_many([activity(2)])):
            other.execute("BEGIN IMMEDIATE")
            putting = asyncio.create_task(put)
            await asyncio.sleep(0.2)
            assert not putting.done()
            other.execute("ROLLBACK")
            await putting
        other.close()
        assert (await outbox.counts())["pending"] == 2


async def test_waiting_for_a_lock_can_be_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with Outbox(url_of(path)) as outbox:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with within(30):  # far less than it would wait
            for putting in (outbox.put(activity(1)), outbox.put_many([activity(2)])):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await putting
        other.execute("ROLLBACK")
        other.close()
        assert [entry async for entry in outbox.entries()] == []


@pytest.mark.parametrize("option", ["password", "passfile"])
def test_a_password_among_the_options_is_shown_nowhere(option: str) -> None:
    url = f"postgresql+asyncpg://postgres@/postgres?host=/tmp&{option}=private"
    assert "private" not in f"{Outbox(url)!r}{shown_url(url)}"
    assert "host=%2Ftmp" in shown_url(url)


async def test_one_who_is_cancelled_twice_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with Outbox(url_of(path)) as outbox, within(30):
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        putting = asyncio.create_task(outbox.put_many([activity(2)]))
        await asyncio.sleep(0.05)
        for _ in range(3):
            putting.cancel()
            await asyncio.sleep(0)
        other.execute("ROLLBACK")
        with pytest.raises(asyncio.CancelledError):
            await putting
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
        other.close()
        await outbox.put(activity(1))


async def test_a_run_ends_although_the_database_hangs(postgresql_url: str) -> None:
    engine = create_async_engine(postgresql_url)
    vendor = Vendor()
    client = vendor.client()
    async with Outbox(postgresql_url) as outbox, engine.connect() as holder, within(30):
        await outbox.put(activity(1))
        posting = AsyncActivityPoster(account(), client=client, bucket=OpenBucket())
        running = asyncio.create_task(outbox.run(posting))
        while not vendor.requests:
            await asyncio.sleep(0.01)
        await holder.execute(sa.text("LOCK TABLE leadpost_workers"))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await holder.rollback()
    if (closing := outbox._database._closing) is not None:
        await closing
    await engine.dispose()


async def test_a_store_closes_although_its_last_work_ends_just_then(sqlite_url: str) -> None:
    async with Outbox(sqlite_url) as outbox:
        work = asyncio.create_task(asyncio.sleep(0))
        await work
        outbox._store._busy.add(work)  # as it is until the loop's next turn
    assert outbox._database._closing is None
    outbox._database._busy.clear()
    await outbox._database._close_later()
