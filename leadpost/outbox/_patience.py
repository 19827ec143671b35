"""A store that waits for an unreachable database."""

from __future__ import annotations

import asyncio
from typing import ParamSpec, TypeVar

from leadpost.errors import OutboxUnavailable
from leadpost.outbox._reachability import Reachability
from leadpost.outbox.database import Database, Store
from leadpost.outbox.database._database import StoreWork

_RETRY = 0.5
"""Seconds between two attempts while the database is unreachable."""

T = TypeVar("T")
P = ParamSpec("P")


class PatientStore(Store):
    """
    A store that waits until its database can be reached again, and logs that.

    Args:
        database: The database.
        account: The account that the entries belong to.
        longest: Seconds after which it raises the error instead.
    """

    def __init__(self, database: Database, account: str, longest: float) -> None:
        super().__init__(database, account=account)
        self._longest = longest
        self._reachability = Reachability(f"the outbox {database.name}")

    async def read(self, work: StoreWork[P, T], *args: P.args, **details: P.kwargs) -> T:
        """Run `work`, which only reads. Success is no sign that writing works again."""
        while True:
            try:
                return await super().read(work, *args, **details)
            except OutboxUnavailable as error:
                await self._wait(error)

    async def write(self, work: StoreWork[P, T], *args: P.args, **details: P.kwargs) -> T:
        """Run `work`, which may have been committed before if it is retried."""
        while True:
            try:
                done = await super().write(work, *args, **details)
            except OutboxUnavailable as error:
                await self._wait(error)
            else:
                self._reachability.answered()
                return done

    async def _wait(self, error: OutboxUnavailable) -> None:
        self._reachability.failed(error)
        if self._reachability.unreachable_for > self._longest:
            raise error
        await asyncio.sleep(_RETRY)
