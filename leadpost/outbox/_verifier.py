"""Asks the Status API about accepted entries until each is final."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from attrs import define, field
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost._poster import AsyncActivityPoster
from leadpost.bucket import LIMIT, PERIOD
from leadpost.errors import (
    LeadpostError,
    NotFound,
    NotSent,
    Rejected,
    Unauthorized,
    Unavailable,
)
from leadpost.outbox._absence import Absence, described
from leadpost.outbox.database import AccountDatabase, _settling
from leadpost.outbox.database._entries import EntryState
from leadpost.outbox.database._settling import Check, Verdict

WAITS = (10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0)
"""
Seconds between two queries for one request. LeadSquared retries a failed request after 30 s at
first and after 3 hours at last, so frequent queries soon become useless.
"""
_POLL = 1.0
_SHARE = 5
"""While entries are posted, one call in this many is a query."""

_log = logging.getLogger("leadpost")


@define
class Verifier:
    """Asks the Status API about accepted entries, in the order in which they are due."""

    _store: AccountDatabase
    _poster: AsyncActivityPoster
    tally: Counter[EntryState] = field(factory=Counter[EntryState])  # of the verified entries
    _check: Check | None = field(default=None, init=False)  # the next query
    _absence: Absence = field(factory=lambda: Absence("the Status API"), init=False)

    async def ask_next(self) -> float | None:
        """
        Ask about the entry that is due first, if one is due.

        Returns:
            Seconds to wait: 0 if another entry may be due now; None if no entry is accepted.

        Raises:
            Unauthorized, NotFound: the keys are rejected, or the path of the Status API is wrong.
            UnexpectedAnswer: the answer cannot be read; `postpone` continues after it.
            OutboxError: the database failed.
        """
        if self._check is None:
            self._check = await self._store.write(_claim)
        if self._check is None:
            due = await self._store.read(_settling.next_check)
            return None if due is None else min(due, _POLL)
        try:
            verdict = await self._ask(self._check)
        except (Unavailable, NotSent) as error:
            return self.postpone(error)
        self._absence.end()
        is_settled, self._check = await self._store.write(
            settle_and_claim, of=self._check, verdict=verdict
        )
        if is_settled:
            self.tally[verdict.state] += 1
        return 0.0

    def postpone(self, error: LeadpostError) -> float:
        """Return the seconds to wait after a status could not be read."""
        self._check = None  # continue with another entry: perhaps only this one fails
        self._absence.begin(error)
        return _POLL

    async def _ask(self, check: Check) -> Verdict:
        """Return LeadSquared's answer about an entry."""
        if check.request_id is None:  # reconciling found the activity itself
            return Verdict("succeeded", "the lead has it")
        try:
            status = await self._poster.status(check.request_id)
        except (Unauthorized, NotFound):
            raise
        except Rejected as error:
            _log.warning("entry %d: its status cannot be read: %s", check.id, described(error))
            return Verdict("accepted")
        note = status.status_reason or status.status
        if not status.final:
            return Verdict("accepted", note)
        state: EntryState = "succeeded" if status.state == "succeeded" else "failed"
        return Verdict(state, note, status.activity_id)


async def _claim(connection: AsyncConnection, account: str) -> Check | None:
    return await _settling.claim_check(connection, account, WAITS)


async def settle_and_claim(
    connection: AsyncConnection, account: str, of: Check, verdict: Verdict
) -> tuple[bool, Check | None]:
    """Record an answer, and claim the next query in the same transaction."""
    is_settled = verdict.state != "accepted" and await _settling.settle(
        connection, account, of, "accepted", verdict
    )
    return is_settled, await _claim(connection, account)


async def verify(store: AccountDatabase, poster: AsyncActivityPoster) -> Counter[EntryState]:
    """Ask until no entry is accepted; see `Outbox.verify`."""
    verifier = Verifier(store, poster)
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        wait = await verifier.ask_next()
        if wait is None:
            return verifier.tally
        is_posting = await store.read(_settling.is_posting)
        # The bucket keeps the limit; this only leaves most of it for posts.
        pause = PERIOD / LIMIT * _SHARE if is_posting else 0.0
        await asyncio.sleep(max(wait, began + pause - loop.time()))
