"""What a worker does for its account's entries every few seconds, beside posting them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from datetime import timedelta

from attrs import define, field

from leadpost._poster import AsyncActivityPoster
from leadpost.outbox._clock import boot_time
from leadpost.outbox._entry import EntryState
from leadpost.outbox._reachability import Reachability
from leadpost.outbox.database import Store, _calls, _edits, _entries
from leadpost.outbox.database._sql import Transaction

_EVERY = 5.0
_REPORT_EVERY = 60.0
_PRUNE_EVERY = 60.0

_log = logging.getLogger("leadpost")


@define
class Upkeep:
    """
    Shows that a worker is alive, expires calls without a record, reports, and prunes.

    Args:
        store: The account's entries.
        poster: The account's poster.
        host: Whether LeadSquared's host can be reached.
        is_drain: Whether the caller gets the counts in the end, so that the log need not warn.

    Attributes:
        reached: The number of entries that reached each state since the worker began.
        called_at: When its last call for an entry ended, in `boot_time`; None before the first.
    """

    _store: Store
    _poster: AsyncActivityPoster
    _host: Reachability
    _is_drain: bool = field(kw_only=True, alias="is_drain")
    reached: Counter[EntryState] = field(factory=Counter[EntryState], init=False)
    called_at: float | None = field(default=None, init=False)
    _began_at: float = field(factory=boot_time, init=False)
    _reported: Counter[EntryState] = field(factory=Counter[EntryState], init=False)

    async def run(self) -> None:
        """Do it until cancelled."""
        reported_at = boot_time()
        while True:
            await asyncio.sleep(_EVERY)
            await self.once()
            if boot_time() - reported_at >= _REPORT_EVERY:
                reported_at = boot_time()
                self.report()

    async def once(self) -> None:
        """Show that the worker is alive, and expire calls without a record."""
        if expired := await self._store.write(self._statements):
            self.reached["uncertain"] += expired  # their workers ended before recording the calls

    def _statements(self, transaction: Transaction) -> int:
        # A single entry makes no outage, though its host may be wrong.
        away_for = self._poster.away_for or self._host.unreachable_for or None
        called_ago = None if self.called_at is None else boot_time() - self.called_at
        known_ago = boot_time() - (self.called_at or self._began_at)
        _calls.be_seen(transaction, away_for, called_ago, known_ago)
        return _calls.expire(transaction)

    def report(self) -> None:
        """Log how many entries reached each state since the last report."""
        now = self.reached - self._reported
        self._reported = self.reached.copy()
        if not now:
            return
        is_bad = any(now[state] for state in ("failed", "rejected", "uncertain"))
        counts = ", ".join(f"{count} {state}" for state, count in now.items())
        is_news = is_bad and not self._is_drain
        _log.log(logging.WARNING if is_news else logging.INFO, "outbox: %s", counts)

    async def report_others(self) -> None:
        """Log what is not posted. Without a name, an account with a new key is another account."""
        others = await self._store.read(_entries.count_of_others)
        if others:
            counts = ", ".join(f"{count} of {account}" for account, count in others.items())
            level = logging.INFO if self._poster.account.name else logging.WARNING
            what = "outbox: unfinished entries of other accounts are not posted: %s"
            _log.log(level, what, counts)

    async def prune(self, keep: timedelta) -> None:
        """Delete entries that finished `keep` ago, until cancelled."""
        seconds = keep.total_seconds()
        while True:
            pruned = await self._store.write(_edits.prune, seconds)
            await asyncio.sleep(1.0 if pruned else min(seconds, _PRUNE_EVERY))
