"""Databases that hang, connections to them with plain SQL, and what an outbox of one shows."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeAlias

import asyncpg
import psutil
import sqlalchemy as sa
from support import LeadSquared, account, activity, run

from leadpost import AsyncActivityPoster, OpenBucket
from leadpost.outbox import Outbox

Server: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def path_of(sqlite_url: str) -> Path:
    return Path(sqlite_url.partition(":///")[2])


@contextmanager
def plain_sqlite(url: str) -> Generator[sqlite3.Connection]:
    """Open the file as any other program would."""
    with closing(sqlite3.connect(path_of(url), isolation_level=None, timeout=0)) as connection:
        yield connection


@contextmanager
def locked_file(url: str, begin: str = "BEGIN EXCLUSIVE") -> Generator[None]:
    """Keep the file locked."""
    with plain_sqlite(url) as other:
        other.execute(begin)
        yield
        other.execute("ROLLBACK")


@asynccontextmanager
async def plain_postgresql(url: str, **changes: Any) -> AsyncGenerator[Server]:
    """Connect as any other program would."""
    parsed = sa.make_url(url)
    arguments: dict[str, Any] = {
        "host": parsed.query["host"],
        "user": parsed.username,
        "database": parsed.database,
    }
    connection: Server = await asyncpg.connect(**arguments | changes)
    try:
        yield connection
    finally:
        await connection.close()


def folder_of(postgresql_url: str) -> Path:
    """Return the folder of the server's data."""
    return Path(str(sa.make_url(postgresql_url).query["host"]))


def changed(postgresql_url: str, **changes: Any) -> str:
    return sa.make_url(postgresql_url).set(**changes).render_as_string(hide_password=False)


def name_of(postgresql_url: str) -> str:
    return str(sa.make_url(postgresql_url).database)


async def execute(postgresql_url: str, *statements: str) -> None:
    async with plain_postgresql(postgresql_url) as server:
        for statement in statements:
            await server.execute(statement)


def setting(name: str) -> Callable[[sa.Connection], str]:
    """Return a function that asks for a setting of the server within a transaction."""

    def ask(connection: sa.Connection) -> str:
        return str(connection.exec_driver_sql(f"SHOW {name}").scalar_one())

    return ask


@contextmanager
def frozen_server(postgresql_url: str) -> Generator[None]:
    """Freeze every process of the server."""
    pid_file = folder_of(postgresql_url) / "postmaster.pid"
    postmaster = psutil.Process(int(pid_file.read_text(encoding="utf-8").split()[0]))
    stopped = [postmaster, *postmaster.children(recursive=True)]
    for process in stopped:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(stopped):
            os.kill(process.pid, signal.SIGCONT)


async def numbers(url: str) -> list[int]:
    async with Outbox(url, account()) as outbox:
        return [entry.activity["ActivityEvent"] async for entry in outbox.entries()]


async def put(url: str, number: int = 1) -> None:
    async with Outbox(url, account()) as outbox:
        await outbox.put(activity(number))


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all its causes, including those that a traceback would hide."""
    if error is not None:
        yield error
        yield from chain(error.__cause__)
        yield from chain(error.__context__)


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


def posting() -> AsyncActivityPoster:
    return AsyncActivityPoster(account(), client=LeadSquared().client(), bucket=OpenBucket())


async def outbox_of(url: str, connections: int = 4) -> Outbox:
    """Open an outbox with one entry; it is closed by the caller."""
    outbox = await Outbox(url, account(), connections=connections).__aenter__()
    await outbox.put(activity(1), key="call-1")
    await outbox.verify(posting())  # whose keys post from it is known now
    return outbox


def alone(main: Coroutine[Any, Any, None]) -> None:
    """Run something in its own loop, whose end shows what was left behind."""
    run(main)
    gc.collect()


async def close_quickly(outbox: Outbox) -> None:
    async with lasting_at_most(2.2):
        await outbox.aclose()


ENDLESS = {
    "sqlite": """
        WITH RECURSIVE numbers (number) AS
            (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < 1e15)
        SELECT max(number) FROM numbers
    """,
    "postgresql": "SELECT pg_sleep(300)",
}


def lasting(connection: sa.Connection) -> None:
    connection.exec_driver_sql(ENDLESS[connection.dialect.name])


def answer(connection: sa.Connection) -> int:
    return int(connection.execute(sa.text("SELECT 1")).scalar_one())
