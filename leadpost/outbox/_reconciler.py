"""Finds out, from what leads have, whether uncertain posts have arrived."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from random import random
from typing import Any

from attrs import define, field

from leadpost._answers import LeadActivity
from leadpost._availability import FAILURES_IN_A_ROW
from leadpost._queries import Queries
from leadpost._validation import is_mapping
from leadpost.errors import (
    LeadpostError,
    NotFound,
    Rejected,
    ServerError,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
    described,
)
from leadpost.outbox._entry import EntryState
from leadpost.outbox._matching import (
    ZONES_DIFFER,
    candidates,
    is_rival,
    may_be,
    windows,
    words,
)
from leadpost.outbox.database import Store, _settling
from leadpost.outbox.database._settling import UncertainEntry, Verdict

SETTLE = timedelta(hours=12)
"""
After so long a request is surely not in LeadSquared's queue any more: it retries one that failed
for a reason of its own for 9 h 20 min in all.
"""
NOT_YET = "the lead does not have it yet; it may still arrive"
_LOOK_EVERY = 60.0
"""Seconds between two checks whether reconciling is due."""
_RETRY = 600.0
"""Seconds until reconciling that failed is tried again."""
MOST_CALLS = 50
"""Calls that one window takes at most: 50,000 activities fit into memory."""

_log = logging.getLogger("leadpost")


_Read = dict[tuple[str, int], list[LeadActivity] | Verdict]


@define
class Reconciler:
    """Looks for uncertain entries among the activities of their leads."""

    _store: Store
    _queries: Queries
    _settle_after: timedelta = SETTLE  # how long after sending an activity may still arrive
    _unread: int = field(default=0, init=False)  # leads in a row that could not be read
    # What the last lead has of each type, or the verdict that this cannot be read.
    _read: _Read = field(factory=_Read, init=False)

    async def run(self, every: timedelta) -> None:
        """Reconcile until cancelled: once per interval, by one worker of the account."""
        seconds, is_due = every.total_seconds(), False
        while True:
            await asyncio.sleep(min(seconds, _RETRY if is_due else _LOOK_EVERY))
            try:
                is_due = is_due or await self._store.write(_settling.begin_reconciling, seconds)
                if is_due and (found := await self.reconcile(lambda _, __: None)):
                    counts = ", ".join(f"{count} {state}" for state, count in found.items())
                    _log.info("outbox: reconciled: %s", counts)
                is_due = False
            except LeadpostError as error:
                _log.warning("outbox: reconciling failed: %s", described(error))

    async def reconcile(self, on_progress: Callable[[int, int], None]) -> Counter[EntryState]:
        """Look at every uncertain entry once; see `Outbox.reconcile`."""
        tally = Counter[EntryState]()
        self._read.clear()  # more may have arrived since the last time
        self._unread = 0
        entries = await self._store.read(_settling.uncertain_entries)
        in_windows = await self._read_windows(entries)
        # Each lead is read once; in another order each time, as leads that always fail end this.
        order = {entry.lead: random() for entry in entries}  # noqa: S311
        entries.sort(key=lambda entry: order[entry.lead])
        for done, entry in enumerate(entries, 1):
            verdict = await self._verdict(entry, in_windows.get(entry.id))
            if await self._store.write(_settling.settle, entry, "uncertain", verdict):
                _log.info("outbox: entry %d: %s", entry.id, verdict.state)
                tally[verdict.state] += 1
            on_progress(done, len(entries))
        return tally

    async def _read_windows(
        self, entries: Iterable[UncertainEntry]
    ) -> dict[int, list[LeadActivity]]:
        """
        Read windows of time, of all leads at once, where that may take fewer calls.

        Returns:
            By entry, what its lead has in its window. Entries are missing where lead after lead
            takes fewer calls, or where the account does not answer this.
        """
        found: dict[int, list[LeadActivity]] = {}
        for window in windows(entries, self._settle_after):
            leads = len({entry.lead for entry in window.entries})
            if leads <= 2:
                continue
            try:
                activities = await self._queries.activities_between(
                    window.event, window.start, window.end, most_calls=min(leads - 1, MOST_CALLS)
                )
            except (Rejected, Unavailable, UnexpectedAnswer) as error:
                # Some users may read leads, but not this. If all is refused, a lead's call says so.
                _log.info("reconciling lead by lead: %s", described(error))
                continue
            if activities is None or any(one.lead_id is None for one in activities):
                continue
            of_leads: dict[str, list[LeadActivity]] = {}
            for one in activities:
                of_leads.setdefault(str(one.lead_id).lower(), []).append(one)
            found |= {entry.id: of_leads.get(str(entry.lead), []) for entry in window.entries}
        return found

    async def _verdict(
        self, entry: UncertainEntry, in_window: list[LeadActivity] | None
    ) -> Verdict:
        """Look for an entry in its window, if that was read, and on its lead if still needed."""
        if entry.lead is None or not is_mapping(entry.activity):
            return Verdict("uncertain", "it names no lead's id, so it cannot be looked for")
        if entry.event is None:
            return Verdict("uncertain", "it has no ActivityEvent, so it cannot be looked for")
        if in_window is not None:
            verdict = await self._judge(entry, entry.lead, entry.activity, in_window)
            # A match proves that it arrived, and nothing of the lead's means "not yet". Before
            # anything else is concluded, the lead is asked: edited activities are not in the
            # window of their posting, and LeadSquared's paging of windows is not documented.
            if verdict.state == "succeeded" or verdict.note == NOT_YET:
                return verdict
        has = await self._activities(entry.lead, entry.event)
        if isinstance(has, Verdict):
            return has
        return await self._judge(entry, entry.lead, entry.activity, has)

    async def _judge(
        self,
        entry: UncertainEntry,
        lead: str,
        activity: Mapping[str, Any],
        has: Sequence[LeadActivity],
    ) -> Verdict:
        """Conclude what can be concluded from the activities that the lead has."""
        since = entry.sent_at - ZONES_DIFFER
        of_type = [one for one in has if may_be(one, activity, since)]
        taken = await self._store.read(_settling.matched, [one.activity_id for one in of_type])
        free = [one for one in of_type if one.activity_id not in taken]
        alike = candidates(activity, entry.sent_at, free)
        if alike and not words(activity):
            why = (
                "the lead has similar activities, and this one has no note or date-time to compare"
            )
            return Verdict("uncertain", why)
        if alike:
            others = await self._store.read(_settling.others_of, entry.id, lead, since)
            rivals = sum(is_rival(other, activity, alike) for other in others)
            if len(alike) > rivals:
                activity_id = None if rivals else alike[-1].activity_id
                return Verdict("succeeded", "the lead has it", activity_id)
            why = "the lead has such an activity, which may be that of another entry"
            return Verdict("uncertain", why)
        other = "the lead has another activity of its type and time"
        if entry.age < self._settle_after.total_seconds():
            return Verdict("uncertain", f"{NOT_YET}; {other}" if free else NOT_YET)
        if free:
            return Verdict("uncertain", f"{other}, which may be this one: look at the lead")
        return Verdict("pending", "the lead does not have it, and it can no longer arrive")

    async def _activities(self, lead: str, event: int) -> list[LeadActivity] | Verdict:
        """Return the activities of one type that a lead has, read once for all its entries."""
        if not any(lead == known for known, _ in self._read):
            self._read.clear()
        if (lead, event) not in self._read:
            self._read[lead, event] = await self._ask(lead, event)
        return self._read[lead, event]

    async def _ask(self, lead: str, event: int) -> list[LeadActivity] | Verdict:
        try:
            found = await self._queries.lead_activities(lead, event)
        except (Unauthorized, NotFound):
            raise
        except (Rejected, UnexpectedAnswer, ServerError) as error:
            # LeadSquared may fail for one lead. If it does for all, an outage is the reason.
            self._unread = self._unread + 1 if isinstance(error, ServerError) else 0
            if self._unread == FAILURES_IN_A_ROW:
                raise
            return Verdict("uncertain", f"the lead's activities cannot be read: {error}")
        self._unread = 0
        return found
