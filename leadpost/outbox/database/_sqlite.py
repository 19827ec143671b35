"""Transactions on a SQLite file, each in a thread."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event

from leadpost.errors import OutboxError, OutboxUnavailable
from leadpost.outbox.database._failures import FAILURES, MAY_WRITE, is_locked
from leadpost.outbox.database._sql import Work
from leadpost.outbox.database._urls import DatabaseUrl

T = TypeVar("T")

_LOCK_WAIT = 0.25
"""Seconds to wait for the lock at a time: nothing can interrupt this wait."""
_STEPS = 1000
"""Steps of a statement, of a few microseconds in all, between two checks whether to stop."""


class Sqlite:
    """
    Connections to a SQLite file.

    Args:
        url: The file, which is created if it is missing.
        connections: The most connections.
        durable: Whether every COMMIT waits for the disk.

    Raises:
        OutboxError: the file cannot be created or opened.
    """

    def __init__(self, url: DatabaseUrl, connections: int, *, durable: bool) -> None:
        _create(url)
        self.sync_engine = sa.create_engine(
            sa.URL.create("sqlite", database=url.path),
            connect_args={"check_same_thread": False, "timeout": _LOCK_WAIT},
            hide_parameters=True,
            poolclass=sa.QueuePool,
            pool_size=connections,
            max_overflow=0,
        )
        set_up = partial(_set_up, "FULL" if durable else "NORMAL")
        event.listen(self.sync_engine, "connect", set_up)
        self._threads = ThreadPoolExecutor(connections, "leadpost")
        self._writes = asyncio.Lock()
        self._name = url.name
        self._is_closed = False

    async def run(self, work: Work[T], *, reads: bool, within: float) -> T:
        """
        Run `work` in a transaction, once the lock is free.

        It ends just before `within` seconds are over, if the lock is not free until then.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + 0.9 * within
        # Take the lock for writing at once: two readers that want to write then would deadlock.
        begin = "BEGIN" if reads else "BEGIN IMMEDIATE"
        async with nullcontext() if reads else self._writes:  # SQLite's lock is not fair, this is
            while True:
                try:
                    return await self._in_thread(begin, work)
                except FAILURES as failure:
                    if not is_locked(failure) or loop.time() > ends_at:
                        raise
                await asyncio.sleep(_LOCK_WAIT / 10)  # some locks are refused without waiting

    async def _in_thread(self, begin: str, work: Work[T]) -> T:
        """Run `work` in a thread, which is told to roll back if this is cancelled."""
        stop = Event()
        try:
            call = self._threads.submit(self._transact, begin, work, stop.is_set)
        except RuntimeError:
            stop.set()  # it may be in the queue all the same
            what = "no thread can be started: are there too many, or does the process end?"
            raise OutboxUnavailable(f"{self._name}: {what}") from None
        ended = asyncio.wrap_future(call)
        ended.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError:
            stop.set()
            if not call.cancel():  # it has begun
                await asyncio.wait([ended])
            raise
        return ended.result()

    def _transact(self, begin: str, work: Work[T], is_stopped: Callable[[], bool]) -> T:
        with self.sync_engine.connect() as connection:
            try:
                with connection.begin():
                    driver: Any = connection.connection.driver_connection
                    driver.set_progress_handler(is_stopped, _STEPS)  # if True, it ends a statement
                    connection.exec_driver_sql(begin)
                    done = work(connection)
                    if is_stopped():
                        raise InterruptedError("the transaction was cancelled before its end")
                    return done
            finally:
                if self._is_closed:
                    connection.detach()  # from the pool, which no longer closes it

    async def aclose(self) -> None:
        """Close the connections that are not in use."""
        self._is_closed = True
        try:
            # In a thread, as the last one copies into the file what was written.
            closing = self._threads.submit(self.sync_engine.dispose)
        except RuntimeError:  # none can be started
            self.sync_engine.dispose()
        else:
            await asyncio.wrap_future(closing)
        self.terminate()

    def terminate(self) -> None:
        """Begin nothing more; a thread cannot be cut off, but closes its connection at its end."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)


def _create(url: DatabaseUrl) -> None:
    """Create the file, if it is missing, readable only by its owner."""
    path = str(url.path)
    failure: OSError | None = None
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        # Do not open it for this: closing it would release the locks of this process.
        if Path(path).is_dir() or not os.access(path, os.R_OK):
            failure = PermissionError(errno.EACCES, "the file cannot be opened")
    except OSError as error:
        failure = error
    if failure is not None:  # not within the `except`: that shows the whole path
        is_wrong = isinstance(failure, PermissionError | FileNotFoundError | NotADirectoryError)
        kind = OutboxError if is_wrong else OutboxUnavailable
        raise kind(f"{url.name}: {failure.strerror}: {MAY_WRITE}")


def _set_up(synchronous: str, connection: Any, _: object) -> None:
    connection.isolation_level = None  # or else sqlite3 would begin transactions by itself
    # The file may be locked at the moment, or read-only. Without WAL, readers and writers wait for
    # each other; nothing else changes.
    with suppress(sqlite3.DatabaseError):
        connection.execute("PRAGMA journal_mode = WAL").close()
    try:
        connection.execute(f"PRAGMA synchronous = {synchronous}").close()
    except sqlite3.DatabaseError:  # locked, damaged or no database: unusable without this setting
        connection.close()  # the pool would leave it to the garbage collector
        raise
