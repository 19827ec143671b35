"""SQLAlchemy's engines for SQLite and PostgreSQL: how connections are made."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any, TypeAlias

import aiosqlite
import asyncpg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from leadpost.outbox._waiting import until_done
from leadpost.outbox.database._urls import DatabaseUrl

LONGEST_WAIT = 60.0
"""Seconds for one transaction, including the wait for SQLite's lock or a free connection."""
SQLITE_LOCK_WAIT = 0.25
"""Seconds to wait for SQLite's lock at a time: nothing can interrupt this wait."""
Connection: TypeAlias = "asyncpg.Connection[Any]"  # generic only in its stubs


def create_engine(
    url: DatabaseUrl,
    connections: int,
    opened: set[Connection],
    threads: set[Thread],
    *,
    durable: bool,
) -> AsyncEngine:
    """
    Return an engine without any connection yet.

    Open connections to PostgreSQL are added to `opened`, the threads of connections to SQLite to
    `threads`. If `durable`, SQLite waits for the disk on every COMMIT; for PostgreSQL this is a
    setting of each transaction.
    """
    options: dict[str, Any] = {
        "hide_parameters": True,
        "poolclass": sa.AsyncAdaptedQueuePool,
        "pool_size": connections,
        "max_overflow": 0,
        "pool_timeout": LONGEST_WAIT,
    }
    if url.path is None:
        return _postgresql(url, opened, options)

    async def connect(*args: Any, **settings: Any) -> aiosqlite.Connection:
        connection = aiosqlite.connect(*args, **settings, timeout=SQLITE_LOCK_WAIT)
        # Before version 0.22, the connection was the thread itself.
        thread: Any = getattr(connection, "_thread", connection)
        thread.daemon = True  # as SQLAlchemy sets it: it must not keep the process from ending
        threads.add(thread)
        connecting = asyncio.ensure_future(connection)
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # aiosqlite would lose the connection that its thread is making.
            await until_done([asyncio.create_task(_close(connecting))], SQLITE_LOCK_WAIT)
            raise

    engine = create_async_engine(
        sa.URL.create("sqlite+aiosqlite", database=url.path),
        connect_args={"async_creator_fn": connect},
        **options,
    )
    event.listen(engine.sync_engine, "connect", partial(_set_up, "FULL" if durable else "NORMAL"))
    event.listen(engine.sync_engine, "invalidate", _roll_back)
    return engine


def _postgresql(url: DatabaseUrl, opened: set[Connection], options: dict[str, Any]) -> AsyncEngine:
    connecting: dict[str, Any] = dict(url.connect)
    arguments: dict[str, Any] = {}
    if url.is_pooled:
        # A statement prepared in one session of the server is unknown in the next.
        connecting["statement_cache_size"] = 0
        arguments["prepared_statement_cache_size"] = 0
        arguments["prepared_statement_name_func"] = str  # returns "": statements have no name

    async def connect() -> Connection:
        connection: Connection = await asyncpg.connect(command_timeout=LONGEST_WAIT, **connecting)
        opened.add(connection)
        connection.add_termination_listener(opened.discard)
        return connection

    return create_async_engine(
        "postgresql+asyncpg://",
        connect_args={"async_creator_fn": connect, **arguments},
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        **options,
    )


async def _close(connecting: asyncio.Future[aiosqlite.Connection]) -> None:
    with suppress(sqlite3.Error):  # there is none
        await (await connecting).close()


def _set_up(synchronous: str, connection: Any, _: object) -> None:
    connection.isolation_level = None  # or else sqlite3 would begin transactions by itself
    cursor = connection.cursor()
    # The file may be locked at the moment, or read-only. Without WAL, readers and writers wait for
    # each other; nothing else changes.
    with suppress(sqlite3.DatabaseError):
        cursor.execute("PRAGMA journal_mode = WAL")
    try:
        cursor.execute(f"PRAGMA synchronous = {synchronous}")
    except sqlite3.DatabaseError:  # locked, damaged or no database: unusable without this setting
        connection.close()  # the pool would leave it, and its thread, to the garbage collector
        raise
    cursor.close()


def _roll_back(connection: Any, *_: object) -> None:
    # SQLAlchemy closes a connection if its use was cancelled. SQLite really closes it only after
    # its last cursor, and until then an open transaction would keep the file locked.
    with suppress(sqlite3.Error):
        connection.rollback()
