"""A store that waits until its database is back."""

from __future__ import annotations

import asyncio
from typing import ParamSpec, TypeVar

from leadpost.errors import OutboxUnavailable
from leadpost.outbox._absence import Absence
from leadpost.outbox.database import Database, Store
from leadpost.outbox.database._database import StoreWork

_RETRY = 0.5
"""Seconds between two attempts while the database is unreachable."""

T = TypeVar("T")
P = ParamSpec("P")


class PatientStore(Store):
    """
    A store that waits until its database is back, and logs outages.

    Args:
        database: The database.
        account: The account that the entries belong to.
        longest: Seconds after which an outage is raised.
    """

    def __init__(self, database: Database, account: str, longest: float) -> None:
        super().__init__(database, account=account)
        self._longest = longest
        self._absence = Absence(f"the outbox {database.name}")

    async def read(self, work: StoreWork[P, T], *args: P.args, **details: P.kwargs) -> T:
        """Run `work`, which only reads: a standby, or a full disk, can be read in an outage."""
        while True:
            try:
                return await super().read(work, *args, **details)
            except OutboxUnavailable as error:
                await self.wait(error)

    async def write(self, work: StoreWork[P, T], *args: P.args, **details: P.kwargs) -> T:
        """Run `work`, again if its COMMIT was lost."""
        while True:
            try:
                return await self.write_once(work, *args, **details)
            except OutboxUnavailable as error:
                await self.wait(error)

    async def write_once(self, work: StoreWork[P, T], *args: P.args, **details: P.kwargs) -> T:
        """Run `work` once; `wait` before another attempt."""
        done = await super().write(work, *args, **details)
        self._absence.end()
        return done

    async def wait(self, error: OutboxUnavailable) -> None:
        """Wait before the next attempt; raise `error` if the outage has lasted too long."""
        self._absence.begin(error)
        if self._absence.lasts > self._longest:
            raise error
        await asyncio.sleep(_RETRY)
