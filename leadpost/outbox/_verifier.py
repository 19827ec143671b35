"""Asks the Status API about accepted entries until each is final."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from attrs import define, field

from leadpost._queries import Queries
from leadpost.bucket import LIMIT, PERIOD
from leadpost.errors import (
    LeadpostError,
    NotFound,
    NotSent,
    Rejected,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    described,
)
from leadpost.outbox._entry import EntryState
from leadpost.outbox._reachability import Reachability
from leadpost.outbox.database import Store, _settling
from leadpost.outbox.database._settling import AcceptedEntry, Verdict

_POLL = 1.0
_PAUSE = 600.0
"""Seconds after which a worker tries the Status API again that rejected the keys or the path."""
_SHARE = 5
"""While entries are posted, one call in this many is a query."""

_log = logging.getLogger("leadpost")


@define
class Verifier:
    """Asks the Status API about accepted entries, in the order in which they are due."""

    _store: Store
    _queries: Queries
    _reached: Counter[EntryState] = field(factory=Counter[EntryState])  # by the verified entries
    _batch: str | None = field(default=None, alias="batch")  # ask only about its entries
    _status_api: Reachability = field(factory=lambda: Reachability("the Status API"), init=False)

    async def run(self) -> None:
        """Ask until cancelled, whatever the Status API answers; for a worker."""
        while True:
            try:
                wait = await self._ask_next()
            except UnexpectedAnswer as error:  # such as a page of HTML in an outage
                wait = self._postpone(error)
            except (Unauthorized, NotFound) as error:
                what = "outbox: verifying pauses for 10 minutes, posting continues: %s"
                _log.error(what, described(error))
                wait = _PAUSE
            await asyncio.sleep(_POLL if wait is None else wait)

    async def verify(self) -> Counter[EntryState]:
        """Ask until no entry is accepted; see `Outbox.verify`."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            wait = await self._ask_next()
            if wait is None:
                return self._reached
            is_posting = await self._store.read(_settling.is_posting)
            # The bucket keeps the limit; this only leaves most of it for posts.
            pause = PERIOD / LIMIT * _SHARE if is_posting else 0.0
            await asyncio.sleep(max(wait, began + pause - loop.time()))

    async def _ask_next(self) -> float | None:
        """
        Ask about the entry that is due first, if one is due.

        Returns:
            Seconds to wait: 0 if another entry may be due now; None if no entry is accepted.
        """
        due = await self._store.read(_settling.next_query, self._batch)
        if due is None or due > 0:
            return due and min(due, _POLL)
        entry = await self._store.write(_settling.claim_accepted, self._batch)
        if entry is None:  # others ask about all that are due
            return _POLL
        try:
            verdict = await self._ask(entry)
        except (Unavailable, NotSent) as error:
            return self._postpone(error)
        self._status_api.answered()
        if verdict is not None and await self._store.write(
            _settling.settle, entry, "accepted", verdict
        ):
            self._reached[verdict.state] += 1
        return 0.0

    def _postpone(self, error: LeadpostError) -> float:
        """Return the seconds to wait after a status could not be read."""
        self._status_api.failed(error)
        return _POLL

    async def _ask(self, entry: AcceptedEntry) -> Verdict | None:
        """Return LeadSquared's answer about an entry, None if it is not final."""
        try:
            status = await self._queries.status(entry.request_id)
        except (Unauthorized, NotFound):
            raise
        except Rejected as error:
            _log.warning(
                "outbox: entry %d: its status cannot be read: %s", entry.id, described(error)
            )
            return None
        if not status.is_final:
            return None
        state: EntryState = "succeeded" if status.state == "succeeded" else "failed"
        return Verdict(state, status.status_reason or status.status, status.activity_id)
