"""What is promised of every database of an outbox."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from database_support import (
    lasting_at_most,
    locked_file,
    outbox_of,
    path_of,
    plain_postgresql,
    plain_sqlite,
)
from support import account, activity, within

from leadpost import OutboxError
from leadpost.outbox import Outbox
from leadpost.outbox.database import Database, ddl


def synchronous(connection: sa.Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())


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
        lasting_at_most(2.5),
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
        async with lasting_at_most(2.5), Outbox(sqlite_url, account()) as outbox:
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
    await database.aclose()  # once more, which does nothing
    with pytest.raises(OutboxError, match="tables of version 7, this leadpost needs version 1"):
        await Outbox(store_url, account()).__aenter__()


async def test_an_outbox_that_is_open_cannot_be_entered_again(store_url: str) -> None:
    async with Outbox(store_url, account()) as outbox:
        with pytest.raises(RuntimeError, match="is already open"):
            await outbox.__aenter__()
        assert await outbox.put(activity(1)) == 1


def test_connections_must_be_at_least_one() -> None:
    with pytest.raises(ValueError, match="connections: found 0, wanted 1 or more"):
        Database("sqlite:///leadpost.db", connections=0)


def test_a_missing_extra_is_named() -> None:
    script = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "try:\n    import leadpost.outbox\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "pip install 'leadpost[outbox]'" in done.stdout
