"""Closing a database, whatever runs or hangs meanwhile: nothing is left."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from sqlite3 import dbapi2
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from database_support import (
    alone,
    answer,
    close_quickly,
    lasting,
    lasting_at_most,
    locked_file,
    outbox_of,
    path_of,
)
from outbox_support import until_true
from support import account, activity, within

from leadpost import OutboxUnavailable
from leadpost.outbox import Outbox
from leadpost.outbox.database import Database
from leadpost.outbox.database._postgresql import Postgresql
from leadpost.outbox.database._sqlite import Sqlite

pytestmark = pytest.mark.usefixtures("nothing_unhandled")


async def test_closing_waits_for_calls_and_cuts_them_off_then(store_url: str) -> None:
    begun = threading.Event()

    def short(connection: sa.Connection) -> int:
        begun.set()
        connection.exec_driver_sql("SELECT pg_sleep(0.1)" if is_postgresql else "SELECT 1")
        return answer(connection)

    def long(connection: sa.Connection) -> None:
        begun.set()
        lasting(connection)

    async def call(work: Callable[[sa.Connection], Any]) -> asyncio.Task[Any]:
        begun.clear()
        working = asyncio.create_task(database.write(work, within=None))
        while not begun.is_set():
            await asyncio.sleep(0)
        return working

    database = Database(store_url, connections=1)
    is_postgresql = not database.is_sqlite
    await database.open()
    working = await call(short)
    await database.aclose()
    assert working.done()
    assert await working == 1

    await database.open()
    engine = database._engine
    working = await call(long)
    waiting = asyncio.create_task(database.read(answer))  # for the only connection
    await asyncio.sleep(0.01)
    async with lasting_at_most(2.2):
        await database.aclose()
        for task in (working, waiting):
            with pytest.raises(OutboxUnavailable, match="it was closed meanwhile"):
                await task
    await until_nothing_is_left(engine)


async def until_nothing_is_left(engine: Sqlite | Postgresql | None) -> None:
    """Wait until there is no connection to a server, and no thread of a file."""
    async with within(5):
        if isinstance(engine, Sqlite):
            while any(thread.is_alive() for thread in engine._threads._threads):
                await asyncio.sleep(0.001)
        else:
            assert isinstance(engine, Postgresql)
            assert not engine._open


def test_closing_waits_for_connections_that_were_being_made(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, begun = dbapi2.connect, threading.Event()

    def connect_slowly(*args: Any, **settings: Any) -> sqlite3.Connection:
        begun.set()
        time.sleep(0.1)
        connection: sqlite3.Connection = connect(*args, **settings)
        return connection

    async def cancel() -> None:
        database = Database(sqlite_url)
        await database.open()
        engine = database._engine
        monkeypatch.setattr(dbapi2, "connect", connect_slowly)
        calls = [asyncio.create_task(database.read(lasting)) for _ in range(3)]
        while not begun.is_set():
            await asyncio.sleep(0.001)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await database.aclose()
        await until_nothing_is_left(engine)

    # Or else a thread finds its loop closed, which pytest reports.
    alone(cancel())


async def test_closing_leaves_no_file_open_though_a_thread_takes_longer(sqlite_url: str) -> None:
    database, begun = Database(sqlite_url), threading.Event()
    await database.open()

    def deaf(_: sa.Connection) -> None:
        begun.set()
        time.sleep(2.0)

    working = asyncio.create_task(database.write(deaf))
    await until_true(begun.is_set)
    async with lasting_at_most(2.0):
        await database.aclose()
    await asyncio.wait([working])
    assert isinstance(working.exception(), OutboxUnavailable)
    await until_true(lambda: not files_of(sqlite_url))


def files_of(sqlite_url: str) -> list[str]:
    """Return the files of a database that this process has open."""
    name = str(path_of(sqlite_url))
    return [file.path for file in psutil.Process().open_files() if file.path.startswith(name)]


def test_a_loop_that_ends_while_it_closes_leaves_no_connection(postgresql_url: str) -> None:
    async def close() -> Postgresql:
        database = Database(postgresql_url)
        await database.open()
        await asyncio.gather(*(database.read(answer) for _ in range(4)))
        engine = database._engine
        assert isinstance(engine, Postgresql)
        tasks.append(asyncio.create_task(database.aclose()))
        await asyncio.sleep(0)
        return engine

    tasks: list[asyncio.Task[None]] = []
    assert not asyncio.run(close())._open


async def test_what_no_thread_can_be_started_for_is_not_done_later(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container has a limit; the queue of an executor keeps what it could not begin."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with Outbox(sqlite_url, account()) as outbox:
        assert isinstance(outbox._database._engine, Sqlite)
        outbox._database._engine._threads = ThreadPoolExecutor(2)  # without any thread yet
        begun = threading.Event()

        def slowly(_: sa.Connection) -> None:
            begun.set()
            time.sleep(0.2)

        reading = asyncio.create_task(outbox._database.read(slowly))
        await until_true(begun.is_set)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            with pytest.raises(OutboxUnavailable, match="no thread can be started"):
                await outbox.put(activity(1))
        await reading
        assert (await outbox.counts())["pending"] == 0
    no_threads = Database(sqlite_url)
    await no_threads.open()
    assert isinstance(no_threads._engine, Sqlite)
    no_threads._engine._threads.shutdown()  # as Python does when its main thread ends
    await no_threads.aclose()
    assert not files_of(sqlite_url)


async def test_closing_while_the_file_is_locked(sqlite_url: str) -> None:
    outbox = await outbox_of(sqlite_url)
    with locked_file(sqlite_url):
        puts = [asyncio.create_task(outbox.put(activity(2))) for _ in range(3)]
        await asyncio.sleep(0.1)
        await close_quickly(outbox)
        for put in puts:
            with pytest.raises(OutboxUnavailable, match="it was closed meanwhile"):
                await put


async def test_what_has_not_begun_when_it_is_closed_is_done_all_the_same(store_url: str) -> None:
    database = Database(store_url)
    await database.open()
    engine = database._engine
    reading = asyncio.create_task(database.read(answer))
    await asyncio.sleep(0)
    await database.aclose()
    assert await reading == 1
    await until_nothing_is_left(engine)


async def test_closing_that_is_cancelled_logs_no_error(
    store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(store_url)
    await database.open()
    await asyncio.gather(*(database.read(answer) for _ in range(4)))
    engine = database._engine
    closing = asyncio.create_task(database.aclose())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await until_nothing_is_left(engine)
    assert not caplog.text
