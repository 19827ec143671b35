"""Asks what became of accepted requests, until it is known."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial

from attrs import define, field
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost._poster import AsyncActivityPoster
from leadpost.bucket import LIMIT, PERIOD
from leadpost.errors import NotFound, NotSent, Rejected, Unauthorized, Unavailable
from leadpost.outbox._absence import Absence, described
from leadpost.outbox.database import Database, _settling
from leadpost.outbox.database._entries import EntryState
from leadpost.outbox.database._settling import Check, Verdict

WAITS = (10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0)
"""
Seconds between two questions about one request. LeadSquared retries a failed one after 30 s at
first, in the end after 3 hours, so it is of no use to ask often for long.
"""
_POLL = 1.0
_SHARE = 5
"""While others post, one call in so many is a question."""

_log = logging.getLogger("leadpost")


@define
class Verifier:
    """
    Asks the Status API about an account's accepted entries, in the order in which they are due.

    Args:
        database: Where the entries are.
        account: Whose entries.
        poster: What to ask with.
        tally: Counts the entries that came into each state.
    """

    _database: Database
    _account: str
    _poster: AsyncActivityPoster
    tally: Counter[EntryState] = field(factory=Counter[EntryState])
    _check: Check | None = field(default=None, init=False)  # what to ask next
    _absence: Absence = field(factory=lambda: Absence("the Status API"), init=False)

    async def ask_next(self) -> float | None:
        """
        Ask about the entry that is due first, if one is.

        Returns:
            Seconds to wait: 0 if there may be more to ask now; None if no answer is open.

        Raises:
            Unauthorized, NotFound: the keys are refused, or the Status API is elsewhere.
            OutboxError: the database failed.
        """
        if self._check is None:
            self._check = await self._database.write(self._claim)
        if self._check is None:
            due = await self._database.read(partial(_settling.next_check, account=self._account))
            return None if due is None else min(due, _POLL)
        try:
            verdict = await self._ask(self._check)
        except (Unavailable, NotSent) as error:
            self._absence.begin(error)
            return _POLL
        self._absence.end()
        settle_and_claim = partial(self._settle_and_claim, self._check, verdict)
        settled, self._check = await self._database.write(settle_and_claim)
        if settled:
            self.tally[verdict.state] += 1
        return 0.0

    async def _claim(self, connection: AsyncConnection) -> Check | None:
        return await _settling.claim_check(connection, self._account, WAITS)

    async def _settle_and_claim(
        self, check: Check, verdict: Verdict, connection: AsyncConnection
    ) -> tuple[bool, Check | None]:
        """Record an answer, and claim the next question in the same transaction."""
        settled = verdict.state != "accepted" and await _settling.settle(
            connection, self._account, check, "accepted", verdict
        )
        return settled, await self._claim(connection)

    async def _ask(self, check: Check) -> Verdict:
        """Return what LeadSquared says of an entry."""
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


async def verify(
    database: Database, account: str, poster: AsyncActivityPoster
) -> Counter[EntryState]:
    """Ask until no answer is open; see `Outbox.verify`."""
    verifier = Verifier(database, account, poster)
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        wait = await verifier.ask_next()
        if wait is None:
            return verifier.tally
        is_posting = await database.read(partial(_settling.is_posting, account=account))
        # The bucket keeps the limit; this only leaves most of it to those who post.
        pause = PERIOD / LIMIT * _SHARE if is_posting else 0.0
        await asyncio.sleep(max(wait, began + pause - loop.time()))
