"""One database, SQLite or PostgreSQL: its connections, transactions, time-outs and errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Concatenate, ParamSpec, TypeVar

from leadpost.errors import DiskFull, OutboxUnavailable
from leadpost.outbox._reachability import Reachability
from leadpost.outbox._waiting import until_done
from leadpost.outbox.database import _schema
from leadpost.outbox.database._failures import FAILURES, outbox_error
from leadpost.outbox.database._postgresql import Postgresql
from leadpost.outbox.database._sql import LONGEST_WAIT, Transaction, Work
from leadpost.outbox.database._sqlite import Sqlite
from leadpost.outbox.database._urls import parse_url

T = TypeVar("T")
P = ParamSpec("P")
StoreWork = Callable[Concatenate[Transaction, P], T]
"""`Work` for a `Store`: called with a transaction, and its own arguments."""

_ROLLBACK_WAIT = 0.75
"""Seconds to wait for the rollback of a cancelled transaction; then it is left behind."""
_RETRY = 0.5
"""Seconds between two attempts while a database is unreachable."""


class Database:
    """
    The tables at one URL.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/DATABASE`, with the options of
            libpq, and `pgbouncer=true` for a PgBouncer in transaction mode.
        connections: The most connections.
        durable: Whether a transaction is on disk when it returns, whatever the database's default.
            If not, a transaction of SQLite survives a crash of the process, but not of the machine.

    Raises:
        OutboxError: the URL cannot be used.
    """

    def __init__(self, url: str, *, connections: int = 4, durable: bool = True) -> None:
        if connections < 1:
            raise ValueError(f"connections: found {connections}, wanted 1 or more")
        self._url = parse_url(url)
        self._connections = connections
        self._durable = durable
        self._engine: Sqlite | Postgresql | None = None
        self._running = set[asyncio.Task[Any]]()
        self.name = self._url.name
        self.is_sqlite = self._url.path is not None

    def __repr__(self) -> str:
        return f"<Database {self.name}>"

    async def open(self) -> None:
        """
        Connect, and create the tables if they are missing; nothing is written if they exist.

        Raises:
            OutboxError: the database cannot be used, or has tables of another version.
            RuntimeError: it is already open.
        """
        if self._engine is not None:
            raise RuntimeError(f"{self!r} is already open")
        # Here, not in __init__: connections belong to one event loop, and to one process.
        kind = Sqlite if self.is_sqlite else Postgresql
        self._engine = kind(self._url, self._connections, durable=self._durable)
        try:
            if not await self.read(_schema.check_version):
                await self.write(_schema.create)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close the connections; after 0.75 s, cut those that are in use or do not answer."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        closing = asyncio.create_task(self._close(engine))
        try:
            # Even if cancelled meanwhile: SQLAlchemy would log that as an error, with a traceback.
            await until_done([closing], 2 * _ROLLBACK_WAIT)
        finally:
            if closing.cancel() or closing.cancelled() or self._running:
                engine.terminate()

    async def _close(self, engine: Sqlite | Postgresql) -> None:
        # A connection that is returned afterwards would stay open.
        await until_done(self._running, _ROLLBACK_WAIT)
        for task in self._running:
            task.cancel()
        await until_done(self._running, _ROLLBACK_WAIT / 3)
        await engine.aclose()

    async def write(self, work: Work[T], within: float | None = LONGEST_WAIT) -> T:
        """
        Run `work` in its own transaction, which is committed when this returns.

        Args:
            work: The statements.
            within: Seconds in which it must end; None for no limit but PostgreSQL's statements'.

        Raises:
            OutboxError: it was rolled back; but if the connection was lost, or this was cancelled,
                during the COMMIT, it may have been committed.
        """
        return await self._run(work, within)

    async def read(self, work: Work[T]) -> T:
        """
        Run `work`, which only reads, in a transaction.

        Raises:
            OutboxError: the database failed.
        """
        return await self._run(work, LONGEST_WAIT, reads=True)

    async def _run(self, work: Work[T], within: float | None, *, reads: bool = False) -> T:
        """Run `work` in a task, which is left behind if the database does not let it end."""
        if self._engine is None:
            raise RuntimeError(f"{self!r} is not open: use it within `async with`")
        longest = min(within or LONGEST_WAIT, LONGEST_WAIT)
        task = asyncio.create_task(self._engine.run(work, reads=reads, within=longest))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        ended = False
        try:
            ended = bool((await asyncio.wait([task], timeout=within))[0])
        finally:
            if not ended:
                await self._cancel(task)
        if not task.done() or task.cancelled():
            if ended:
                raise OutboxUnavailable(f"{self.name}: it was closed meanwhile")
            raise OutboxUnavailable(f"{self.name}: no answer within {within:g} s")
        failure = task.exception()
        if isinstance(failure, FAILURES):
            # Not `from failure`, nor within an `except`: that shows statements and their values.
            raise outbox_error(failure, self._url)
        return task.result()

    async def _cancel(self, task: asyncio.Task[Any]) -> None:
        """Roll a transaction back; if that takes too long, leave it to end by itself."""
        task.cancel()
        # Or else asyncio would log its exception.
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        await until_done([task], _ROLLBACK_WAIT)


class Store:
    """
    One account's entries, or one bucket's tokens, in a database.

    Args:
        database: The database.
        patience: Seconds to wait for an unreachable database, and to log that, before an error is
            raised. A transaction that is tried again may have been committed before.
        always: Values of every statement: the account, or the bucket.
    """

    def __init__(self, database: Database, patience: float = 0.0, **always: str) -> None:
        self.database = database
        self._patience = patience
        self._always = always
        self._reachability = Reachability(f"the outbox {database.name}")

    async def read(self, work: StoreWork[P, T], *args: P.args, **details: P.kwargs) -> T:
        """Run `work` in a transaction of its own, see `Database.read`."""
        bound = self._bound(work, *args, **details)
        # Success is no sign that the database can be written again.
        return await self._patiently(lambda: self.database.read(bound))

    async def write(self, work: StoreWork[P, T], *args: P.args, **details: P.kwargs) -> T:
        """Run `work` in a transaction of its own, see `Database.write`."""
        bound = self._bound(work, *args, **details)
        return await self._write(lambda: self.database.write(bound))

    async def write_many(self, work: StoreWork[P, T], *args: P.args, **details: P.kwargs) -> T:
        """Run `work` like `write`, but without a total time limit, for any number of entries."""
        bound = self._bound(work, *args, **details)
        return await self._write(lambda: self.database.write(bound, within=None))

    async def _write(self, run: Callable[[], Awaitable[T]]) -> T:
        done = await self._patiently(run)
        self._reachability.answered()
        return done

    def _bound(self, work: StoreWork[P, T], *args: P.args, **details: P.kwargs) -> Work[T]:
        return lambda connection: work(Transaction(connection, self._always), *args, **details)

    async def _patiently(self, run: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await run()
            except OutboxUnavailable as error:
                # Only what runs until it is stopped waits for somebody to make room.
                if isinstance(error, DiskFull) and self._patience < inf:
                    raise
                if self._patience:
                    self._reachability.failed(error)
                if self._reachability.unreachable_for >= self._patience:
                    raise
            await asyncio.sleep(_RETRY)
