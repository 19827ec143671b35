"""The database of an outbox: what is promised of it, and what happens when it hangs."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import anyio
import pytest
import sqlalchemy as sa
from database_support import (
    frozen_server,
    locked_file,
    path_of,
    plain_postgresql,
    plain_sqlite,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from support import Vendor, account, activity, run, within

from leadpost import AsyncActivityPoster, OpenBucket, OutboxError, OutboxUnavailable
from leadpost.outbox import Outbox
from leadpost.outbox.database import Database, ddl


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


def posting() -> AsyncActivityPoster:
    return AsyncActivityPoster(account(), client=Vendor().client(), bucket=OpenBucket())


def alone(main: Coroutine[Any, Any, None]) -> None:
    """Run something in its own loop, whose end shows what was left behind."""
    run(main)
    gc.collect()


@asynccontextmanager
async def lasting_at_most(limit: float) -> AsyncGenerator[None]:
    """Check how long something takes, without the time for which the machine was too busy."""
    lost, ended = 0.0, Event()

    def measure() -> None:
        nonlocal lost
        before = time.monotonic()
        while not ended.wait(0.02):
            now = time.monotonic()
            lost += now - before - 0.02
            before = now

    begin = time.monotonic()
    measuring = Thread(target=measure)
    measuring.start()
    try:
        yield
        took = time.monotonic() - begin
    finally:
        ended.set()
        measuring.join()
    assert took - lost < limit


async def time_out(work: Awaitable[Any]) -> None:
    """Run work that hangs with a time-out of a second, and check that it ends within 2 s."""
    async with lasting_at_most(2.0):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await work


async def outbox_of(url: str, connections: int = 4) -> Outbox:
    """Open an outbox with one entry; it is closed by the caller."""
    outbox = await Outbox(url, account(), connections=connections).__aenter__()
    await outbox.put(activity(1), key="call-1")
    await outbox.verify(posting())  # whose keys post from it is known now
    return outbox


async def close_quickly(outbox: Outbox) -> None:
    async with lasting_at_most(2.2):
        await outbox.aclose()


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
            async with lasting_at_most(1.5):
                with anyio.move_on_after(0.5) as scope:
                    await outbox.aclose()

    alone(cancel())
    run(is_free(postgresql_url))


async def test_a_cancellation_during_another_is_not_lost(
    store_url: str,
) -> None:
    database = Database(store_url)
    cancelled = asyncio.Event()

    async def stubborn(_: AsyncConnection) -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            await asyncio.sleep(0.2)
            raise

    await database.open()
    working = asyncio.create_task(database.write(stubborn, within=0.05))
    await cancelled.wait()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    await database.aclose()


async def test_work_that_takes_too_long_times_out(store_url: str) -> None:
    async def lasting(connection: AsyncConnection) -> None:
        await connection.execute(sa.text("SELECT 1"))
        await asyncio.sleep(30)

    database = Database(store_url)
    await database.open()
    with pytest.raises(OutboxUnavailable, match=r"no answer within 0\.1 s"):
        await database.write(lasting, within=0.1)
    assert await database.write(answer) == 1
    await database.aclose()


async def test_work_that_cannot_be_stopped_is_left_behind(store_url: str) -> None:
    async def deaf(_: AsyncConnection) -> None:
        for _turn in range(12):
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                continue

    database = Database(store_url)
    await database.open()
    with pytest.raises(OutboxUnavailable, match=r"no answer within 0\.1 s"):
        await database.write(deaf, within=0.1)
    assert await database.read(answer) == 1
    await database.aclose()
    assert not database._left_behind


async def answer(connection: AsyncConnection) -> int:
    return int((await connection.execute(sa.text("SELECT 1"))).scalar_one())


# What is promised of every database.


async def synchronous(connection: AsyncConnection) -> int:
    return int((await connection.exec_driver_sql("PRAGMA synchronous")).scalar_one())


async def test_sqlite_waits_for_the_disk(sqlite_url: str) -> None:
    async with Outbox(sqlite_url, account()) as outbox:
        assert await outbox._database.write(synchronous) == 2  # FULL
    quick = Database(sqlite_url, durable=False)
    await quick.open()
    assert await quick.write(synchronous) == 1  # NORMAL
    await quick.aclose()


async def test_a_connection_made_while_the_file_is_locked_is_set_up_too(
    sqlite_url: str,
) -> None:
    await (await outbox_of(sqlite_url)).aclose()
    quick = Database(sqlite_url, durable=False)  # as SQLite's default is FULL
    with plain_sqlite(sqlite_url) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        opening = asyncio.create_task(quick.open())
        await asyncio.sleep(0.7)
        assert not opening.done()
    await opening
    assert await quick.write(synchronous) == 1
    await quick.aclose()


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
async def test_only_the_owner_can_read_the_file(sqlite_url: str) -> None:
    async with Outbox(sqlite_url, account()):
        modes = {
            file.name: file.stat().st_mode & 0o777 for file in path_of(sqlite_url).parent.iterdir()
        }
    assert set(modes.values()) == {0o600}, modes


async def test_ids_of_deleted_entries_are_never_reused(store_url: str) -> None:
    async with Outbox(store_url, account()) as outbox:
        first = [await outbox.put(activity(number)) for number in (1, 2)]
        await outbox._database.write(
            lambda connection: connection.execute(
                sa.text("UPDATE leadpost_entries SET state = 'succeeded'")
            )
        )
        assert await outbox.prune(timedelta(0)) == 2
    async with Outbox(store_url, account()) as outbox:
        assert await outbox.put(activity(3)) > max(first)


async def test_opening_does_not_wait_for_others_writes(store_url: str) -> None:
    await (await outbox_of(store_url)).aclose()
    async with (
        uncommitted(store_url),
        lasting_at_most(0.5),
        Outbox(store_url, account()) as outbox,
    ):
        assert await outbox.find(["call-1"])


async def test_opening_does_not_wait_for_writes_to_a_file_with_a_rollback_journal(
    sqlite_url: str,
) -> None:
    await (await outbox_of(sqlite_url)).aclose()
    with plain_sqlite(sqlite_url) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN IMMEDIATE")
        async with lasting_at_most(0.8), Outbox(sqlite_url, account()) as outbox:
            assert await outbox.find(["call-1"])


@asynccontextmanager
async def uncommitted(url: str) -> AsyncGenerator[None]:
    """Change every row in a transaction that remains open."""
    change = "UPDATE leadpost_entries SET priority = priority + 1"
    if url.startswith("sqlite"):
        with locked_file(url, "BEGIN IMMEDIATE"):
            yield
        return
    async with plain_postgresql(url) as server, server.transaction():
        await server.execute(change)
        yield


async def test_processes_that_open_an_empty_database_at_once_create_one_set_of_tables(
    store_url: str,
) -> None:
    async def put(number: int) -> None:
        async with Outbox(store_url, account(), connections=1) as outbox:
            await outbox.put(activity(number))

    async with within(20):
        await asyncio.gather(*map(put, range(1, 9)))
    async with Outbox(store_url, account()) as outbox:
        assert (await outbox.counts())["pending"] == 8


async def test_opening_an_existing_file_writes_nothing(sqlite_url: str) -> None:
    await (await outbox_of(sqlite_url)).aclose()
    before = path_of(sqlite_url).read_bytes()
    async with Outbox(sqlite_url, account()) as outbox:
        assert await outbox.find(["call-1"])
    assert path_of(sqlite_url).read_bytes() == before


async def test_the_printed_schema_of_sqlite_is_the_one_an_outbox_creates(
    sqlite_url: str, tmp_path: Path
) -> None:
    with plain_sqlite(sqlite_url) as other:
        other.executescript(ddl("sqlite"))
    await (await outbox_of(sqlite_url)).aclose()
    by_itself = f"sqlite:///{tmp_path}/other.db"
    await (await outbox_of(by_itself)).aclose()
    assert objects_in(sqlite_url) == objects_in(by_itself)


def objects_in(url: str) -> set[tuple[str, str, str]]:
    with plain_sqlite(url) as connection:
        found = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
    return {(kind, name, " ".join((sql or "").split())) for kind, name, sql in found}


async def test_incomplete_tables_raise(sqlite_url: str) -> None:
    statements = ddl("sqlite")
    with plain_sqlite(sqlite_url) as other:
        other.executescript(statements[: statements.index("INSERT INTO leadpost_schema")])
    with pytest.raises(OutboxError, match="tables of version None, this leadpost needs version 1"):
        await Outbox(sqlite_url, account()).__aenter__()


async def test_tables_of_another_version_raise(store_url: str) -> None:
    database = Database(store_url)
    await database.open()
    await database.write(
        lambda connection: connection.execute(sa.text("UPDATE leadpost_schema SET version = 7"))
    )
    await database.aclose()
    with pytest.raises(OutboxError, match="tables of version 7, this leadpost needs version 1"):
        await Outbox(store_url, account()).__aenter__()


def test_the_schema_of_an_unknown_database_raises() -> None:
    with pytest.raises(KeyError):
        ddl("mysql")


async def test_a_database_that_is_not_open_raises(sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with pytest.raises(RuntimeError, match="is not open: use it within `async with`"):
        await database.read(answer)
    await database.aclose()


def test_connections_must_be_at_least_one() -> None:
    with pytest.raises(ValueError, match="connections: found 0, wanted 1 or more"):
        Database("sqlite:///leadpost.db", connections=0)


def test_a_missing_extra_is_named() -> None:
    script = (
        "import sys; sys.modules['aiosqlite'] = None\n"
        "try:\n    import leadpost.outbox\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "pip install 'leadpost[outbox]'" in done.stdout


async def test_a_put_that_is_cancelled_halfway_leaves_no_lock(sqlite_url: str) -> None:
    many = [activity(1)] * 10_000
    kept: list[asyncio.Task[int]] = []  # with what they raised, and the cursors in its frames
    async with Outbox(sqlite_url, account()) as outbox:
        for after in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2):
            kept.append(asyncio.create_task(outbox.put_many(many)))
            while not outbox._database._writes.locked():
                await asyncio.sleep(0.001)
            await asyncio.sleep(after)
            kept[-1].cancel()
            await asyncio.wait(kept)
            async with asyncio.timeout(5):
                await outbox.put(activity(2))
        assert (await outbox.counts())["pending"] % 10_000 == 6
