"""A database that hangs, and methods that are cancelled meanwhile: nothing stays locked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import anyio
import pytest
import sqlalchemy as sa
from database_support import (
    alone,
    answer,
    close_quickly,
    frozen_server,
    lasting,
    lasting_at_most,
    locked_file,
    outbox_of,
    plain_postgresql,
    plain_sqlite,
    posting,
)
from sqlalchemy.util import await_only
from support import account, activity, run, within

from leadpost import OutboxUnavailable
from leadpost.outbox import Outbox
from leadpost.outbox.database import Database
from leadpost.outbox.database._sqlite import Sqlite


async def listed(outbox: Outbox) -> list[Any]:
    return [entry async for entry in outbox.entries()]


@pytest.fixture(autouse=True)
def nothing_is_left_to_asyncio(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Check that asyncio reports no destroyed task and no exception that was never retrieved."""
    yield
    for phase in ("setup", "call"):
        records = caplog.get_records(phase)
        assert [record.getMessage() for record in records if record.name == "asyncio"] == []


READS: dict[str, Callable[[Outbox], Awaitable[Any]]] = {
    "find": lambda outbox: outbox.find(["call-1"]),
    "counts": lambda outbox: outbox.counts(),
    "entries": listed,
    "history": lambda outbox: outbox.history(1),
    "others": lambda outbox: outbox.others(),
    "health": lambda outbox: outbox.health(),
    "verify": lambda outbox: outbox.verify(posting()),
}

WRITES: dict[str, Callable[[Outbox], Awaitable[Any]]] = {
    "put": lambda outbox: outbox.put(activity(2)),
    "put with a key": lambda outbox: outbox.put(activity(1), key="call-1"),
    "put_many": lambda outbox: outbox.put_many(map(activity, range(1, 600))),
    "retry": lambda outbox: outbox.retry("failed"),
    "replace": lambda outbox: outbox.replace({"call-1": activity(3)}),
    "arrived": lambda outbox: outbox.arrived([1]),
    "adopt": lambda outbox: outbox.adopt("another"),
    "prune": lambda outbox: outbox.prune(timedelta(0)),
    "drain": lambda outbox: outbox.drain(posting()),
    "run": lambda outbox: outbox.run(posting()),
    "reconcile": lambda outbox: outbox.reconcile(posting()),
}


async def time_out(work: Awaitable[Any]) -> None:
    """Run work that hangs with a time-out of a second, and check that it ends within 2 s."""
    async with lasting_at_most(2.0):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await work


# A PostgreSQL that hangs.


@pytest.mark.parametrize("connections", [20, 1])
def test_every_method_can_time_out_while_the_server_hangs(
    postgresql_url: str, connections: int
) -> None:
    async def hang() -> None:
        outbox = await outbox_of(postgresql_url, connections)
        methods = {**READS, **WRITES}
        await asyncio.gather(*(method(outbox) for method in READS.values()))  # it is connected
        with frozen_server(postgresql_url):
            await asyncio.gather(*(time_out(method(outbox)) for method in methods.values()))
            await close_quickly(outbox)

    alone(hang())
    run(is_free(postgresql_url))


async def is_free(url: str) -> None:
    """Check that nothing is locked, and that nothing was done."""
    async with within(5):
        async with plain_postgresql(url) as server, server.transaction():
            await server.execute("LOCK TABLE leadpost_entries IN ACCESS EXCLUSIVE MODE")
        async with Outbox(url, account()) as outbox:
            assert [entry.activity["ActivityEvent"] for entry in await listed(outbox)] == [1]
            await outbox.put(activity(2))


def test_a_run_can_be_cancelled_while_the_server_hangs(postgresql_url: str) -> None:
    async def hang() -> None:
        outbox = await outbox_of(postgresql_url)
        assert await outbox.drain(posting()) == {"accepted": 1}
        running = asyncio.create_task(outbox.run(posting()))
        await asyncio.sleep(0.5)
        with frozen_server(postgresql_url):
            await asyncio.sleep(1)  # now its tasks wait for the server
            async with lasting_at_most(1.0):
                running.cancel()
                await asyncio.wait([running])
            await close_quickly(outbox)

    alone(hang())
    run(is_free(postgresql_url))


def test_closing_does_not_wait_for_a_server_that_hangs(postgresql_url: str) -> None:
    async def close() -> None:
        outbox = await outbox_of(postgresql_url)
        await asyncio.gather(*(outbox.counts() for _ in range(4)))
        with frozen_server(postgresql_url):
            await close_quickly(outbox)

    alone(close())
    run(is_free(postgresql_url))


def test_opening_does_not_wait_for_a_server_that_hangs(postgresql_url: str) -> None:
    async def open_it() -> None:
        with frozen_server(postgresql_url):
            await time_out(Outbox(postgresql_url, account()).__aenter__())

    alone(open_it())


def test_an_outbox_works_again_after_its_server_hung(postgresql_url: str) -> None:
    async def hang() -> None:
        outbox = await outbox_of(postgresql_url, connections=2)
        with frozen_server(postgresql_url):
            await asyncio.gather(*(time_out(outbox.put(activity(3))) for _ in range(5)))
        async with within(5):
            await outbox.put(activity(2))
            assert (await outbox.counts())["pending"] == 2
        await close_quickly(outbox)

    alone(hang())


async def test_a_statement_that_waits_for_a_lock_is_cancelled_on_the_server(
    postgresql_url: str,
) -> None:
    async with Outbox(postgresql_url, account()) as outbox, within(10):
        async with plain_postgresql(postgresql_url) as server, server.transaction():
            await server.execute("LOCK TABLE leadpost_entries")
            await time_out(outbox.put(activity(1)))
        async with plain_postgresql(postgresql_url) as server:
            query = "SELECT count(*) FROM pg_locks WHERE relation = 'leadpost_entries'::regclass"
            while await server.fetchval(query):
                await asyncio.sleep(0.01)
        assert await listed(outbox) == []


async def test_what_is_cancelled_is_not_committed_though_a_library_loses_the_cancellation(
    postgresql_url: str,
) -> None:
    """As `asyncio.wait_for` of Python 3.11, by which older versions of SQLAlchemy's pool wait."""
    begun = asyncio.Event()

    def deaf(connection: sa.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE late (number INTEGER)")
        begun.set()
        with suppress(asyncio.CancelledError):
            await_only(asyncio.sleep(5))

    async with Outbox(postgresql_url, account()) as outbox:
        writing = asyncio.create_task(outbox._database.write(deaf))
        await begun.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert not await outbox._database.read(lambda own: sa.inspect(own).has_table("late"))


# A SQLite that hangs.


def test_every_method_can_time_out_while_the_file_is_locked(sqlite_url: str) -> None:
    async def hang() -> None:
        outbox = await outbox_of(sqlite_url, connections=20)
        with locked_file(sqlite_url):
            assert await outbox.find(["call-1"])  # the lock excludes only writers
            await asyncio.gather(*(time_out(write(outbox)) for write in WRITES.values()))
        await close_quickly(outbox)

    alone(hang())
    run(is_unlocked(sqlite_url))


def test_opening_can_time_out_while_the_file_is_locked_for_readers(sqlite_url: str) -> None:
    async def hang() -> None:
        await (await outbox_of(sqlite_url)).aclose()
        with plain_sqlite(sqlite_url) as other:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
            await time_out(Outbox(sqlite_url, account()).__aenter__())

    alone(hang())
    run(is_unlocked(sqlite_url))


async def is_unlocked(url: str) -> None:
    with plain_sqlite(url) as other:
        other.execute("BEGIN EXCLUSIVE")
        other.execute("ROLLBACK")
    async with Outbox(url, account()) as outbox:
        assert [entry.activity["ActivityEvent"] for entry in await listed(outbox)] == [1]
        await outbox.put(activity(2))


async def test_a_method_waits_for_a_lock(sqlite_url: str) -> None:
    async with Outbox(sqlite_url, account()) as outbox, within(30):
        for put in (outbox.put(activity(1)), outbox.put_many([activity(2)])):
            with locked_file(sqlite_url):
                putting = asyncio.create_task(put)
                await asyncio.sleep(0.2)
                assert not putting.done()
            await putting
        assert (await outbox.counts())["pending"] == 2


# Cancellation.


@pytest.mark.parametrize("method", ["put", "put_many", "replace"])
def test_a_method_that_is_cancelled_repeatedly_leaves_no_lock(sqlite_url: str, method: str) -> None:
    async def cancel() -> None:
        outbox = await outbox_of(sqlite_url)
        with locked_file(sqlite_url):
            working = asyncio.ensure_future(WRITES[method](outbox))
            await asyncio.sleep(0.05)
            while not working.done():
                working.cancel()
                await asyncio.sleep(0)
            assert working.cancelled()
        await outbox.aclose()

    alone(cancel())
    run(is_unlocked(sqlite_url))


def test_a_cancelled_scope_of_anyio_leaves_no_lock(postgresql_url: str) -> None:
    async def cancel() -> None:
        outbox = await outbox_of(postgresql_url)
        with frozen_server(postgresql_url):
            async with lasting_at_most(1.5):
                with anyio.move_on_after(0.5) as scope:
                    await outbox.put(activity(2))
            assert scope.cancelled_caught
            async with lasting_at_most(2.2):
                with anyio.move_on_after(0.5) as scope:
                    await outbox.aclose()

    alone(cancel())
    run(is_free(postgresql_url))


async def test_a_cancellation_during_another_is_not_lost(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = asyncio.Event()

    async def stubborn(*_: Any, **__: Any) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            await asyncio.sleep(0.2)
            raise

    database = Database(sqlite_url)
    await database.open()
    # Without a transaction, which a busy machine may not begin in time.
    monkeypatch.setattr(Sqlite, "run", stubborn)
    working = asyncio.create_task(database.write(answer, within=0.05))
    await cancelled.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    await database.aclose()


async def test_work_that_takes_too_long_times_out(store_url: str) -> None:
    database = Database(store_url)
    await database.open()
    async with lasting_at_most(1.0):
        with pytest.raises(OutboxUnavailable, match=r"no answer within 0\.1 s"):
            await database.write(lasting, within=0.1)
    assert await database.write(answer) == 1
    await database.aclose()


async def test_what_was_done_before_a_time_out_is_undone(sqlite_url: str) -> None:
    """A thread cannot be cancelled between two statements: it must not commit afterwards."""
    database = Database(sqlite_url)
    await database.open()

    def written_late(connection: sa.Connection) -> None:
        connection.exec_driver_sql("UPDATE leadpost_schema SET version = 2")
        time.sleep(0.3)

    with pytest.raises(OutboxUnavailable, match=r"no answer within 0\.1 s"):
        await database.write(written_late, within=0.1)
    versions = sa.text("SELECT version FROM leadpost_schema")
    assert await database.read(lambda own: own.execute(versions).scalar_one()) == 1
    await database.aclose()


async def test_work_that_cannot_be_stopped_is_left_behind(store_url: str) -> None:
    def deaf(connection: sa.Connection) -> None:
        for _turn in range(12):
            if connection.dialect.name == "sqlite":
                time.sleep(0.1)
                continue
            with suppress(asyncio.CancelledError):
                await_only(asyncio.sleep(0.1))

    database = Database(store_url)
    await database.open()
    with pytest.raises(OutboxUnavailable, match=r"no answer within 0\.1 s"):
        await database.write(deaf, within=0.1)
    assert await database.read(answer) == 1
    await database.aclose()
    assert not database._running


async def test_the_time_of_a_write_includes_its_wait_for_another(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    await database.open()
    with locked_file(sqlite_url):
        async with lasting_at_most(1.5):
            writes = (database.write(answer, within=0.5) for _ in range(5))
            failures = await asyncio.gather(*writes, return_exceptions=True)
    assert {type(failure) for failure in failures} == {OutboxUnavailable}
    await database.aclose()


async def test_a_put_that_is_cancelled_halfway_leaves_no_lock(sqlite_url: str) -> None:
    many = [activity(1)] * 10_000
    kept: list[asyncio.Task[int]] = []  # with what they raised, and the cursors in its frames
    async with Outbox(sqlite_url, account()) as outbox:
        engine = outbox._database._engine
        assert isinstance(engine, Sqlite)
        for after in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2):
            kept.append(asyncio.create_task(outbox.put_many(many)))
            while not engine._writes.locked():
                await asyncio.sleep(0.001)
            await asyncio.sleep(after)
            kept[-1].cancel()
            await asyncio.wait(kept)
            async with asyncio.timeout(5):
                await outbox.put(activity(2))
        assert (await outbox.counts())["pending"] % 10_000 == 6
