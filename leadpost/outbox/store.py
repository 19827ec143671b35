"""
The database below the outbox: one engine, transactions that run to their end, errors made clear.

SQLite for one machine, PostgreSQL for many hosts; the same statements on both.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from leadpost.errors import OutboxError
from leadpost.outbox import schema
from leadpost.outbox.failures import FAILURES, is_locked, told

T = TypeVar("T")
Step = Callable[[Callable[[AsyncConnection], Awaitable[Any]]], Awaitable[Any]]

DEFAULT_URL = "sqlite+aiosqlite:///leadpost.db"
"""A file in the working directory."""
BUSY = 60.0
"""Seconds to wait for the transaction of another process (SQLite), or for an answer."""
_TURN = 0.5
"""Seconds to wait for it at a time: one who is cancelled meanwhile waits no longer."""

GOOD_BYE = 1.0
"""Seconds for telling others that one has ended; without a word, they wait for the lease's end."""
BRIEF = 5.0
"""Seconds in which a brief transaction surely goes on."""

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}
"""What a URL without a driver's name means, as PostgreSQL's own tools and hosts write it."""
_URLS = "wanted sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
_log = logging.getLogger(__name__)

_READS = "leadpost_reads"


class Store:
    """
    The tables of one URL.

    Args:
        url: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/DATABASE`, with or without the
            driver's name as SQLAlchemy writes it (`sqlite+aiosqlite`, `postgresql+asyncpg`).
        brief: Whether all transactions are short and their results short-lived. SQLite does not
            wait for the disk then: they survive the death of the process, not of the machine.
            PostgreSQL ends one that does nothing for 5 s, as that of a frozen process does.

    Raises:
        OutboxError: the URL cannot be used.
    """

    def __init__(self, url: str, *, brief: bool = False) -> None:
        self._engine = _engine(url, brief=brief)
        self._busy = set[asyncio.Task[Any]]()
        self._closing: asyncio.Task[None] | None = None
        self.name = shown(self._engine.url)
        self.is_local = self._engine.dialect.name == "sqlite"

    def __repr__(self) -> str:
        return f"<Store {self.name}>"

    async def open(self) -> None:
        """
        Make the tables, or bring those of an older version up to date.

        Raises:
            OutboxError: the store cannot be used, or was written by a newer version.
        """
        with self._told():
            _make_file(self._engine.url)
        try:
            await self.write(schema.bring_up_to_date)
        except TypeError as error:  # the driver's, of a keyword argument
            await self.aclose()
            raise OutboxError(
                f"{self.name}: the driver does not know an option of the URL: {error}"
            ) from None
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close the connections, those that a database holds as soon as it gives them back."""
        if all(task.done() for task in self._busy):
            await self._engine.dispose()
        else:
            self._closing = asyncio.create_task(self._close_later())

    async def _close_later(self) -> None:
        while self._busy:
            await asyncio.wait(self._busy)
        await self._engine.dispose()

    async def write(
        self,
        work: Callable[[AsyncConnection], Awaitable[T]],
        *,
        has_time: Callable[[], bool] = lambda: True,
    ) -> T:
        """
        Do some work in a transaction of its own.

        It runs to its end even where the caller is cancelled meanwhile: nobody is left with a
        transaction of which he cannot tell whether it was done.

        Args:
            work: What to do.
            has_time: Tells whether to wait on while another process has SQLite's lock.

        Raises:
            OutboxError: it was not done, or no one can tell.
        """

        async def transaction() -> T:
            async with self._engine.begin() as connection:
                return await work(connection)

        return await self._in_turn(transaction, has_time)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Step]:
        """
        Begin a transaction in which the caller's own doings have a part, and commit it at the end.

        Yields:
            What does some work in it. Where something is raised, cancellation included, it is
            rolled back.

        Raises:
            OutboxError: the store failed; nothing was done, or no one can tell.
        """
        begun: list[AsyncConnection] = []  # kept where the caller is cancelled meanwhile

        async def begin() -> None:
            connection = await self._engine.connect().start()
            try:
                await connection.begin()
            except BaseException:
                await connection.close()
                raise
            begun.append(connection)

        async def step(work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
            with self._told():
                return await finished(work(begun[0]))

        try:
            await self._in_turn(begin)
            yield step
            await step(AsyncConnection.commit)
        finally:
            for connection in begun:
                with suppress(*FAILURES):  # a lost connection takes its transaction with it
                    await finished(connection.close())

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """
        Ask something.

        Raises:
            OutboxError: it cannot be asked.
        """

        async def asking() -> T:
            async with self._engine.connect() as connection:
                return await work(await connection.execution_options(**{_READS: True}))

        return await self._in_turn(asking)

    async def _in_turn(
        self,
        work: Callable[[], Coroutine[Any, Any, T]],
        has_time: Callable[[], bool] = lambda: True,
    ) -> T:
        """Do it as soon as no other process has SQLite's lock, for which it asks first of all."""
        began = time.monotonic()
        with self._told():
            while True:
                try:
                    task = asyncio.create_task(work())
                    self._busy.add(task)
                    task.add_done_callback(self._busy.discard)
                    return await finished(task)
                except FAILURES as failure:
                    is_late = time.monotonic() - began > BUSY or not has_time()
                    if is_late or not is_locked(failure):
                        raise
                # Going over to WAL does not wait at all for others that use the file.
                await asyncio.sleep(_TURN / 10)

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except FAILURES as failure:
            # The chain ends here: it would show statements, and where they came from.
            raise told(failure, self.name) from None


async def finished(work: Awaitable[T]) -> T:
    """Wait for some work; where that is cancelled, however often, let the work end first."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with suppress(asyncio.CancelledError):  # anyio says it at each turn of the loop
                await asyncio.wait([task])
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.warning("what was cancelled had failed: %s", type(failure).__name__)
        raise


def shown(url: sa.URL) -> str:
    """Give a URL without the password, which may stand among its options too."""
    query = {name: "***" if "pass" in name else value for name, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


async def ended(*tasks: asyncio.Future[Any], within: float = GOOD_BYE) -> bool:
    """
    Wait for tasks that are to end by now, but not for long: the database may hang.

    Args:
        tasks: Which.
        within: Seconds to wait at most.

    Returns:
        Whether all have ended, in whatever way. The others go on, and tell nobody how they end.
    """
    for task in tasks:
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # asyncio's word
    _, left = await asyncio.wait(tasks, timeout=within)
    return not left


def now(connection: AsyncConnection) -> sa.ColumnElement[float]:
    """Give the time, in seconds since 1970: the server's, or this machine's where there is none."""
    if connection.dialect.name == "sqlite":
        return sa.literal(time.time(), sa.Double)
    return sa.cast(sa.func.extract("epoch", sa.func.clock_timestamp()), sa.Double)


async def clock(connection: AsyncConnection) -> float:
    """Read the time, in seconds since 1970."""
    return float((await connection.execute(sa.select(now(connection)))).scalar_one())


def inserted_once(
    connection: AsyncConnection, table: sa.Table
) -> postgresql.Insert | sqlite.Insert:
    """Give an INSERT that leaves a row of the same key as it is."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


def parsed_url(url: str) -> sa.URL:
    """
    Read a URL, and name its driver.

    >>> str(parsed_url("postgres://host/database"))
    'postgresql+asyncpg://host/database'

    Raises:
        OutboxError: it is of no store.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise OutboxError(f"the URL of the outbox: found text that is none, {_URLS}") from None
    driver = _DRIVERS.get(parsed.drivername, parsed.drivername)
    if driver not in _DRIVERS.values():
        raise OutboxError(f"the URL of the outbox: found {parsed.drivername}, {_URLS}")
    return parsed.set(drivername=driver)


def _engine(url: str, *, brief: bool) -> AsyncEngine:
    parsed = parsed_url(url)
    options: dict[str, Any] = {"hide_parameters": True}
    if parsed.drivername == "postgresql+asyncpg":
        idle = f"{(BRIEF if brief else BUSY) * 1000:.0f}"
        connect = {
            "timeout": 10.0,
            "command_timeout": BUSY,
            "server_settings": {"idle_in_transaction_session_timeout": idle},
        }
        return create_async_engine(parsed, **options, pool_timeout=BUSY, connect_args=connect)
    if parsed.database in {None, "", ":memory:"}:
        raise OutboxError("the URL of the outbox: found no file, " + _URLS)
    # One connection: SQLite has one writer at a time, and its lock is not fair.
    engine = create_async_engine(
        parsed,
        **options,
        poolclass=sa.AsyncAdaptedQueuePool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=BUSY,
        connect_args={"timeout": _TURN, "isolation_level": None},
    )

    def connected(connection: Any, _: object) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode = WAL", f"synchronous = {'NORMAL' if brief else 'FULL'}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begun(connection: sa.Connection) -> None:
        # The write lock is taken at once: two readers that both want to write would be stuck.
        reads = connection.get_execution_options().get(_READS)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    event.listen(engine.sync_engine, "connect", connected)
    event.listen(engine.sync_engine, "begin", begun)
    return engine


def _make_file(url: sa.URL) -> None:
    """Make the file of SQLite so that only its owner can read it, if there is none."""
    if url.database is not None and url.drivername.startswith("sqlite"):
        with suppress(FileExistsError):
            os.close(os.open(Path(url.database), os.O_CREAT | os.O_EXCL, 0o600))
