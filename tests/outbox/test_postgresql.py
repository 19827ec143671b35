"""PostgreSQL: the settings of transactions, and connections."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Literal

import pytest
import sqlalchemy as sa
from database_support import execute, name_of, numbers, plain_postgresql, setting
from outbox_support import working
from support import LeadSquared, account, activity, within

from leadpost import AsyncActivityPoster, OpenBucket, OutboxUnavailable
from leadpost.outbox import Outbox, SharedTokenBucket, _worker
from leadpost.outbox.database import Database
from leadpost.outbox.database._postgresql import Postgresql


@pytest.mark.parametrize(
    ("name", "default", "ours"),
    [
        ("synchronous_commit", "off", "on"),
        ("synchronous_commit", "remote_apply", "remote_apply"),
        ("synchronous_commit", "local", "local"),
        ("default_transaction_isolation", "serializable", "serializable"),
        ("transaction_isolation", "", "read committed"),
        ("idle_in_transaction_session_timeout", "0", "5s"),
    ],
)
async def test_a_transaction_has_its_settings_whatever_the_defaults_of_the_database(
    postgresql_url: str, name: str, default: str, ours: str
) -> None:
    of = f"ALTER DATABASE {name_of(postgresql_url)} SET"
    await execute(postgresql_url, f"{of} default_transaction_isolation = serializable")
    if default:
        await execute(postgresql_url, f"{of} {name} = '{default}'")
    async with Outbox(postgresql_url, account()) as outbox:
        assert await outbox._database.write(setting(name)) == ours
        if name != "idle_in_transaction_session_timeout":
            assert await outbox._database.read(setting(name)) == ours


async def test_a_transaction_that_need_not_be_durable_keeps_the_default(
    postgresql_url: str,
) -> None:
    await execute(
        postgresql_url, f"ALTER DATABASE {name_of(postgresql_url)} SET synchronous_commit = off"
    )
    database = Database(postgresql_url, durable=False)
    await database.open()
    assert await database.write(setting("synchronous_commit")) == "off"
    await database.aclose()


async def test_settings_end_with_the_transaction(postgresql_url: str) -> None:
    await execute(
        postgresql_url, f"ALTER DATABASE {name_of(postgresql_url)} SET synchronous_commit = off"
    )
    async with Outbox(postgresql_url, account(), connections=1) as outbox:
        await outbox.put(activity(1))
        engine = outbox._database._engine
        assert isinstance(engine, Postgresql)
        async with engine._engine.connect() as connection:  # the same one
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            assert await connection.run_sync(setting("synchronous_commit")) == "off"


async def backends(url: str) -> list[int]:
    """Return the processes that serve an outbox."""
    async with plain_postgresql(url) as server:
        rows = await server.fetch(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'leadpost'"
        )
    return [row["pid"] for row in rows]


async def test_killed_connections_are_replaced(postgresql_url: str) -> None:
    async with Outbox(postgresql_url, account(), connections=3) as outbox, within(20):
        await outbox.put(activity(1), key="call-1")
        for method in (
            lambda: outbox.put(activity(2)),
            lambda: outbox.put_many([activity(3)]),
            lambda: outbox.find(["call-1"]),
            outbox.counts,
        ):
            await asyncio.gather(*(outbox.counts() for _ in range(3)))
            await kill_backends(postgresql_url)
            await method()
        assert await numbers(postgresql_url) == [1, 2, 3]


async def kill_backends(url: str) -> None:
    pids = await backends(url)
    assert pids
    async with plain_postgresql(url) as server:
        for pid in pids:
            await server.execute(f"SELECT pg_terminate_backend({pid})")
    while set(await backends(url)) & set(pids):
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("kills", [1, 2])
async def test_what_lost_its_connection_before_the_commit_is_tried_once_more(
    postgresql_url: str, kills: int
) -> None:
    calls = 0

    def insert(connection: sa.Connection) -> None:
        nonlocal calls
        calls += 1
        connection.exec_driver_sql("INSERT INTO seen VALUES (1)")
        if calls <= kills:
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    await execute(postgresql_url, "CREATE TABLE seen (call INTEGER)")
    async with Outbox(postgresql_url, account()) as outbox:
        with nullcontext() if kills == 1 else pytest.raises(OutboxUnavailable):
            await outbox._database.write(insert)
    assert calls == 2
    async with plain_postgresql(postgresql_url) as server:
        assert await server.fetchval("SELECT count(*) FROM seen") == 2 - kills


async def test_a_connection_is_replaced_if_a_transaction_fails_at_its_beginning(
    postgresql_url: str,
) -> None:
    async with Outbox(postgresql_url, account(), connections=1) as outbox:
        engine = outbox._database._engine
        assert isinstance(engine, Postgresql)
        (connection,) = engine._open
        connection.settings = "SELECT 1 / 0"
        await outbox.put(activity(1))
    assert connection.is_closed()
    assert await numbers(postgresql_url) == [1]


@pytest.mark.parametrize(("options", "most"), [({"connections": 3}, 4), ({}, 5)])
async def test_a_process_has_at_most_its_number_of_connections(
    postgresql_url: str, options: dict[str, int], most: int
) -> None:
    """By default five, with one of a shared bucket."""
    bucket = SharedTokenBucket(postgresql_url)
    posting = AsyncActivityPoster(account(), client=LeadSquared().client(), bucket=bucket)
    async with (
        within(20),
        Outbox(postgresql_url, account(), **options) as outbox,
        posting,
        working(outbox.run(posting)),
    ):
        await asyncio.gather(
            *(outbox.put(activity(number)) for number in range(1, 30)),
            *(outbox.counts() for _ in range(30)),
        )
        while not (await outbox.counts())["accepted"]:
            await asyncio.sleep(0.01)
        assert len(await backends(postgresql_url)) == most
    while await backends(postgresql_url):
        await asyncio.sleep(0.01)


async def test_a_run_ends_although_its_table_is_locked(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_worker, "GRACE", 0.1)
    monkeypatch.setattr(_worker, "_RECORDING", 0.1)
    leadsquared = LeadSquared()
    posting = AsyncActivityPoster(account(), client=leadsquared.client(), bucket=OpenBucket())
    async with (
        Outbox(postgresql_url, account()) as outbox,
        plain_postgresql(postgresql_url) as holder,
        within(30),
    ):
        await outbox.put(activity(1))
        running = asyncio.create_task(outbox.run(posting))
        while not leadsquared.requests:
            await asyncio.sleep(0.01)
        async with holder.transaction():
            await holder.execute("LOCK TABLE leadpost_entries")
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running


_PUTS = """
DO $$ BEGIN
    FOR n IN 1..1000 LOOP
        INSERT INTO leadpost_entries (account, activity) VALUES ('acme', '{}');
    END LOOP;
END $$
"""


async def test_counts_stay_few_rows_and_right_without_a_worker(postgresql_url: str) -> None:
    async def put(
        seed: float, isolation: Literal["read_committed", "repeatable_read"] = "read_committed"
    ) -> None:
        async with plain_postgresql(postgresql_url) as server:
            await server.execute(f"SELECT setseed({seed})")  # or else they may be many, by chance
            for _ in range(3):
                async with server.transaction(isolation=isolation):
                    await server.execute(_PUTS)

    async with Outbox(postgresql_url, account(name="acme")) as outbox:
        await asyncio.gather(put(0.1), put(0.2), put(0.3, "repeatable_read"))
        assert (await outbox.counts())["pending"] == 9000
        await put(0.4)
        assert (await outbox.counts())["pending"] == 12000
        async with plain_postgresql(postgresql_url) as server:
            assert await server.fetchval("SELECT count(*) FROM leadpost_counts") < 4000
            await server.execute("TRUNCATE leadpost_entries, leadpost_counts CASCADE")
        assert not any((await outbox.counts()).values())
