"""Putting within the caller's transaction, by any driver, and in plain SQL."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from outbox_support import ACME, executed, poster_to, until, working
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from support import account, activity

from leadpost import KeyConflict, OutboxError
from leadpost.outbox import Outbox, put_sync
from leadpost.sandbox import Sandbox


@pytest.fixture
async def outbox(store_url: str) -> AsyncIterator[Outbox]:
    async with Outbox(store_url, ACME) as opened:
        yield opened


def asynchronous(url: str) -> str:
    """Return the URL with the driver that SQLAlchemy needs."""
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
    parsed = sa.make_url(url)
    with_driver = parsed.set(drivername=drivers[parsed.get_backend_name()])
    return with_driver.render_as_string(hide_password=False)


async def keys(outbox: Outbox) -> list[str | None]:
    return [entry.key async for entry in outbox.entries()]


async def test_no_log_of_the_callers_driver_shows_an_entry(
    sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Outbox(sqlite_url, ACME) as outbox:
        engine = create_async_engine(sqlite_url)
        with caplog.at_level(logging.DEBUG):
            async with engine.begin() as own:
                for _ in range(2):
                    private = activity(1, activity_note="private")
                    await outbox.put(private, key="confidential", connection=own)
        await engine.dispose()
    assert "INSERT INTO leadpost_entries" in caplog.text  # aiosqlite logs statements and values
    assert "private" not in caplog.text
    assert "confidential" not in caplog.text


async def test_an_entry_is_part_of_the_callers_transaction(store_url: str) -> None:
    async with Outbox(store_url, ACME) as outbox:
        engine = create_async_engine(asynchronous(store_url))
        async with engine.begin() as own:
            await own.execute(sa.text("CREATE TABLE deals (name VARCHAR)"))
        async with engine.connect() as own:
            await own.execute(sa.text("INSERT INTO deals VALUES ('lost')"))
            await outbox.put(activity(1), connection=own)
            await outbox.put_many([activity(2)], connection=own)
            await own.rollback()
        assert (await outbox.counts())["pending"] == 0
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(sa.text("INSERT INTO deals VALUES ('won')"))
            await outbox.put(activity(3), key="won", connection=session)
            await outbox.put_many([activity(4)], connection=session)
        scoped = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        await outbox.put(activity(5), connection=scoped)
        await scoped.commit()
        await scoped.close()
        assert (await outbox.counts())["pending"] == 3
        await engine.dispose()


@pytest.mark.parametrize("begins_with", ["nothing", "select", "insert"])
async def test_an_error_leaves_the_callers_transaction_unchanged(
    store_url: str, begins_with: str
) -> None:
    async with Outbox(store_url, ACME) as outbox:
        await outbox.put(activity(1), key="taken")
        engine = create_async_engine(asynchronous(store_url))
        async with engine.begin() as own:
            await own.execute(sa.text("CREATE TABLE deals (name VARCHAR)"))

        async def fail(own: AsyncConnection) -> None:
            if begins_with == "select":
                await own.execute(sa.text("SELECT 1"))
            if begins_with == "insert":
                await own.execute(sa.text("INSERT INTO deals VALUES ('won')"))
            with pytest.raises(KeyConflict):
                await outbox.put_many(
                    [activity(2), activity(3)], keys=["new", "taken"], connection=own
                )
            await outbox.put_many([activity(4)], keys=["good"], connection=own)

        async with engine.begin() as own:
            await fail(own)
        assert await keys(outbox) == ["taken", "good"]
        async with engine.connect() as own:
            await fail(own)  # "good" already exists
            await outbox.put_many([activity(5)], keys=["undone"], connection=own)
            await own.rollback()
        assert await keys(outbox) == ["taken", "good"]
        async with engine.connect() as own:
            deals = (await own.execute(sa.text("SELECT count(*) FROM deals"))).scalar_one()
        assert deals == (1 if begins_with == "insert" else 0)
        await engine.dispose()


def test_an_entry_can_be_put_in_a_synchronous_transaction(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/outbox.db"

    async def created() -> None:
        async with Outbox(url, ACME):
            pass

    asyncio.run(created())
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        first = put_sync(connection, activity(1), account=ACME, key="one", priority=3)
        assert put_sync(connection, activity(1), account=account(name=ACME), key="one") == first
    with Session(engine) as session, session.begin():
        put_sync(session, activity(2).to_payload(), account=ACME)
    scoped = scoped_session(sessionmaker(engine))
    put_sync(scoped, activity(3), account=ACME)
    scoped.rollback()
    scoped.remove()
    with engine.begin() as connection:
        with pytest.raises(KeyConflict):
            put_sync(connection, activity(9), account=ACME, key="one")
        with pytest.raises(ValueError, match="account: found empty text"):
            put_sync(connection, activity(9), account="")
    engine.dispose()

    async def found() -> list[tuple[str | None, int]]:
        async with Outbox(url, ACME) as outbox:
            return [(entry.key, entry.priority) async for entry in outbox.entries()]

    assert asyncio.run(found()) == [("one", 3), (None, 0)]


async def test_entries_can_be_put_by_another_driver(postgresql_url: str) -> None:
    url = sa.make_url(postgresql_url).set(drivername="postgresql+psycopg")
    async with Outbox(postgresql_url, ACME) as outbox:
        engine = create_async_engine(url)
        async with engine.begin() as own:
            first = await outbox.put(activity(1), key="one", connection=own)
            assert await outbox.put(activity(1), key="one", connection=own) == first
            both = [activity(1), activity(2)]
            assert await outbox.put_many(both, keys=["one", "two"], connection=own) == 1
            with pytest.raises(KeyConflict):
                await outbox.put_many(both, keys=["three", "one"], connection=own)
        await engine.dispose()
        sync_engine = sa.create_engine(url)
        with Session(sync_engine) as session, session.begin():
            fourth = put_sync(session, activity(4), account=ACME, key="four")
            assert put_sync(session, activity(4), account=ACME, key="four") == fourth
        with sync_engine.connect() as connection:
            put_sync(connection, activity(5), account=ACME, key="undone")
        sync_engine.dispose()
        assert await keys(outbox) == ["one", "two", "four"]


# With plain SQL, from Django or another language.


async def test_account_key_and_activity_are_all_that_plain_sql_needs(
    outbox: Outbox, sandbox: Sandbox
) -> None:
    insert = sa.text(
        "INSERT INTO leadpost_entries (account, key, activity) VALUES (:account, :key, :activity)"
    )
    bad = ["[1]", '"text"', "null", "3", "{}", '{"RelatedProspectId": 5, "ActivityEvent": 201}']
    deep = "[" * 900 + "]" * 900
    for number, text in enumerate([*bad, deep]):
        await executed(outbox, insert, account=ACME, key=f"bad-{number}", activity=text)
    good = '{"RelatedProspectId": "00727844-51aa-11e2-9e64-12314004ac6b", "ActivityEvent": 201}'
    await executed(outbox, insert, account=ACME, key="good", activity=good)
    with pytest.raises(OutboxError):
        await executed(outbox, insert, account=ACME, key="none", activity="{no JSON")
    async with poster_to(sandbox) as posting:
        assert await outbox.drain(posting) == {"rejected": 7, "accepted": 1}
    for entry in [entry async for entry in outbox.entries("rejected")]:
        assert entry.error_type == "InvalidActivity"
        assert entry.message
    assert (await outbox.find(["good"]))["good"].state == "accepted"


@pytest.mark.parametrize(
    "text",
    ["[" * 1500 + "]" * 1500, f'{{"ActivityEvent": {"1" * 5000}}}'],
    ids=["nested deeply", "a long number"],
)
async def test_json_that_python_cannot_parse_is_rejected_too(
    outbox: Outbox, sandbox: Sandbox, text: str
) -> None:
    insert = sa.text("INSERT INTO leadpost_entries (account, activity) VALUES (:account, :text)")
    try:
        await executed(outbox, insert, account=ACME, text=text)
    except OutboxError:
        pytest.skip("this database does not take it either")
    async with poster_to(sandbox) as posting, working(outbox.run(posting)):
        await until(outbox, rejected=1)
