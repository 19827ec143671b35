"""Transactions on a PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from leadpost.outbox.database._failures import is_race
from leadpost.outbox.database._sql import LONGEST_WAIT, Work
from leadpost.outbox.database._urls import DatabaseUrl

T = TypeVar("T")

_IDLE = "5000"
"""Milliseconds after which the server ends an idle transaction of ours."""


class _Connection(asyncpg.Connection):
    """
    A connection that begins each transaction with `settings`, in the same round trip.

    asyncpg sends BEGIN through `execute`, which can send several statements at once.
    """

    settings = ""

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:  # noqa: ASYNC109  # as it is inherited
        if not query.startswith("BEGIN"):
            return await super().execute(query, *args, timeout=timeout)
        try:
            return await super().execute(query + self.settings, *args, timeout=timeout)
        except BaseException:
            self.terminate()  # it may have begun, though asyncpg and SQLAlchemy assume otherwise
            raise


class Postgresql:
    """
    Connections to a PostgreSQL.

    Args:
        url: The server, the database, and options.
        connections: The most connections.
        durable: Whether every COMMIT waits for the disk, whatever the database's default.
    """

    def __init__(self, url: DatabaseUrl, connections: int, *, durable: bool) -> None:
        self._connecting = dict(url.connect)
        self._open = set[_Connection]()
        self._settings = _settings(durable=durable)
        arguments: dict[str, Any] = {}
        if url.is_pooled:
            # A statement prepared in one session of the server is unknown in the next.
            self._connecting["statement_cache_size"] = 0
            arguments["prepared_statement_cache_size"] = 0
            arguments["prepared_statement_name_func"] = str  # returns "": statements have no name
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            connect_args={"async_creator_fn": self._connect, **arguments},
            isolation_level="READ COMMITTED",
            hide_parameters=True,
            poolclass=sa.AsyncAdaptedQueuePool,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=LONGEST_WAIT,
        )
        self.sync_engine = self._engine.sync_engine

    async def _connect(self) -> _Connection:
        connection = await asyncpg.connect(
            connection_class=_Connection, command_timeout=LONGEST_WAIT, **self._connecting
        )
        connection.settings = self._settings
        self._open.add(connection)
        connection.add_termination_listener(self._open.discard)
        return connection

    async def run(self, work: Work[T], *, reads: bool, within: float) -> T:  # noqa: ARG002  # it has no use for them
        """
        Run `work` in a transaction.

        If the connection is lost before the COMMIT, nothing was done, and there is a second
        attempt. This is common after a connection was idle; the pool then discards all that are
        as old. (Its `pool_pre_ping` takes as long as the transaction.) There is a second attempt
        too if another transaction has just done the same.
        """
        task = asyncio.current_task()
        for is_last in (False, True):
            async with self._engine.connect() as connection:
                try:
                    done = await connection.run_sync(work)
                except DBAPIError as error:
                    if is_last or not (error.connection_invalidated or is_race(error)):
                        raise
                else:
                    # Before Python 3.12 `asyncio.wait_for`, as in a pool, may lose a cancellation.
                    if task is not None and task.cancelling():
                        raise asyncio.CancelledError
                    await connection.commit()
                    return done
        raise AssertionError("the last attempt returns or raises")  # pragma: no cover

    async def aclose(self) -> None:
        """Close the connections that are not in use."""
        await self._engine.dispose()

    def terminate(self) -> None:
        """Cut the connections that are in use or do not answer."""
        for connection in list(self._open):
            connection.terminate()


def _settings(*, durable: bool) -> str:
    """
    Return the statement that follows BEGIN.

    Its settings end with the transaction, as PgBouncer shares sessions. If the database's default
    is stricter, it stays. The planner must use the indexes, which exist for these statements:
    without statistics, after a million entries were put at once, it would sort them all for each
    claim.
    """
    settings = {
        "idle_in_transaction_session_timeout": _IDLE,
        **dict.fromkeys(("enable_seqscan", "enable_bitmapscan", "enable_sort"), "off"),
    }
    local = [f"set_config('{name}', '{value}', true)" for name, value in settings.items()]
    if durable:
        local.append(
            "CASE WHEN current_setting('synchronous_commit') = 'off'"
            " THEN set_config('synchronous_commit', 'on', true) END"
        )
    return f"SELECT {', '.join(local)}"
