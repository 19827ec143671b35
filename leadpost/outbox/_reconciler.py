"""Finds out, from what leads have, whether uncertain posts have arrived."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from attrs import define, field

from leadpost._answers import LeadActivity
from leadpost._availability import FAILURES_IN_A_ROW
from leadpost._models import Lead
from leadpost._poster import AsyncActivityPoster
from leadpost.errors import (
    AmbiguousLead,
    ConfigurationError,
    LeadpostError,
    NotFound,
    Rejected,
    ServerError,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from leadpost.outbox._absence import described
from leadpost.outbox._entry import EntryState
from leadpost.outbox._matching import (
    ZONES_DIFFER,
    activity_in,
    candidates,
    is_rival,
    may_be,
    windows,
    words,
)
from leadpost.outbox._verifier import at_once
from leadpost.outbox.database import Store, _settling
from leadpost.outbox.database._entries import loaded
from leadpost.outbox.database._settling import Doubt, Verdict

SETTLE = timedelta(hours=12)
"""
After so long a request is surely not in LeadSquared's queue any more: it retries one that failed
for a reason of its own for 9 h 20 min in all.
"""
NOT_YET = "the lead does not have it yet; it may still come"
_LOOK_EVERY = 60.0
"""Seconds between two checks whether reconciling is due."""
MOST_CALLS = 50
"""Calls that one window takes at most: 50,000 activities fit into memory."""

_log = logging.getLogger("leadpost")


P = ParamSpec("P")
T = TypeVar("T")

_Read = dict[tuple[str, int], list[LeadActivity] | str]


class _UnreadableError(Exception):
    """Nothing can be concluded about an entry, as its lead cannot be read; the text says why."""


@define
class Reconciler:
    """Looks for uncertain entries among the activities of their leads."""

    _store: Store
    _poster: AsyncActivityPoster
    _settle_after: timedelta = SETTLE  # how long after sending an activity may still arrive
    _before_query: Callable[[], Awaitable[None]] = at_once  # waits until a query may be made
    _unread: int = field(default=0, init=False)  # leads in a row that could not be read
    # What the last lead has of each type, or why that cannot be read.
    _read: _Read = field(factory=_Read, init=False)

    async def run(self, every: timedelta) -> None:
        """Reconcile until cancelled: once per interval, by one worker of the account."""
        seconds = every.total_seconds()
        while True:
            await asyncio.sleep(min(seconds, _LOOK_EVERY))
            try:
                is_due = await self._store.write(_settling.begin_reconciling, seconds)
                if is_due and (found := await self.reconcile(lambda _, __: None)):
                    counts = ", ".join(f"{count} {state}" for state, count in found.items())
                    _log.info("outbox: reconciled: %s", counts)
            except LeadpostError as error:
                _log.warning("outbox: reconciling failed: %s", described(error))

    async def reconcile(self, on_progress: Callable[[int, int], None]) -> Counter[EntryState]:
        """Look at every uncertain entry once; see `Outbox.reconcile`."""
        tally = Counter[EntryState]()
        self._read.clear()  # more may have arrived since the last time
        self._unread = 0
        doubts = await self._store.read(_settling.doubts)
        in_windows = await self._read_windows(doubts)
        doubts.sort(key=lambda doubt: doubt.lead or "")  # to read each lead once
        for done, doubt in enumerate(doubts, 1):
            try:
                verdict = await self._verdict(doubt, in_windows.get(doubt.id))
            except _UnreadableError as error:
                verdict = Verdict("uncertain", str(error))
            if await self._store.write(_settling.settle, doubt, "uncertain", verdict):
                _log.info("entry %d: %s", doubt.id, verdict.state)
                tally[verdict.state] += 1
            on_progress(done, len(doubts))
        return tally

    async def _read_windows(self, doubts: Iterable[Doubt]) -> dict[int, list[LeadActivity]]:
        """
        Read windows of time, of all leads at once, where that may take fewer calls.

        Returns:
            By entry, what its lead has in its window. Entries are missing where lead after lead
            takes fewer calls, or where the account does not answer this.
        """
        found: dict[int, list[LeadActivity]] = {}
        for window in windows(doubts, self._settle_after):
            leads = len({doubt.lead for doubt in window.doubts})
            if leads <= 2:
                continue
            await self._before_query()
            try:
                activities = await self._poster.activities_between(
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
            found |= {doubt.id: of_leads.get(str(doubt.lead), []) for doubt in window.doubts}
        return found

    async def _verdict(self, doubt: Doubt, in_window: list[LeadActivity] | None) -> Verdict:
        """Look for an entry in its window, if that was read, and on its lead if still needed."""
        activity, by = activity_in(doubt.activity)
        if activity is None or (doubt.lead is None and by is None):
            raise _UnreadableError("it names no lead, so it cannot be looked for")
        event = activity.get("ActivityEvent")
        if not isinstance(event, int):
            raise _UnreadableError("it has no ActivityEvent, so it cannot be looked for")
        if doubt.lead is not None and in_window is not None:
            verdict = await self._judge(doubt, activity, doubt.lead, None, in_window)
            # A match proves that it arrived, and nothing of the lead's means "not yet". Before
            # anything else is concluded, the lead is asked: edited activities are not in the
            # window of their posting, and LeadSquared's paging of windows is not documented.
            if verdict.state == "accepted" or verdict.note == NOT_YET:
                return verdict
        lead = doubt.lead if by is None else await self._find(by)
        has = [] if lead is None else await self._activities(lead, event)
        return await self._judge(doubt, activity, lead or "", by, has)

    async def _judge(
        self,
        doubt: Doubt,
        activity: Mapping[str, Any],
        lead: str,
        by: Lead | None,
        has: Sequence[LeadActivity],
    ) -> Verdict:
        """Conclude what can be concluded from the activities that the lead has."""
        since = doubt.sent_at - ZONES_DIFFER
        of_type = [one for one in has if may_be(one, activity, since)]
        taken = await self._store.read(_settling.matched, [one.activity_id for one in of_type])
        free = [one for one in of_type if one.activity_id not in taken]
        alike = candidates(activity, doubt.sent_at, free)
        if alike and not words(activity):
            return Verdict(
                "uncertain", "the lead has similar ones, but no note or date-time to tell"
            )
        if alike:
            value = by.value if by else None
            others = await self._store.read(_settling.others_of, doubt, lead, since, found_by=value)
            rivals = sum(is_rival(loaded(other), activity, by, alike) for other in others)
            if len(alike) > rivals:
                activity_id = None if rivals else alike[-1].activity_id
                return Verdict("accepted", "the lead has it", activity_id)
            why = "the same was posted for another entry, whose activity is not known"
            return Verdict("uncertain", f"{why}: it may be that")
        if doubt.age < self._settle_after.total_seconds():
            or_other = ", or be one of the others of its type and time" if free else ""
            return Verdict("uncertain", NOT_YET + or_other)
        if free:
            why = "the lead has others of its type and time, of which one may be it: look there"
            return Verdict("uncertain", why)
        return Verdict("pending", "the lead does not have it, and it cannot come any more")

    async def _activities(self, lead: str, event: int) -> list[LeadActivity]:
        """Return the activities of one type that a lead has, read once for all its entries."""
        if not any(lead == known for known, _ in self._read):
            self._read.clear()
        if (lead, event) not in self._read:
            why = "the lead's activities cannot be read"
            try:
                self._read[lead, event] = await self._ask(
                    why, self._poster.lead_activities, lead, event
                )
            except _UnreadableError as error:
                self._read[lead, event] = str(error)
        has = self._read[lead, event]
        if isinstance(has, str):
            raise _UnreadableError(has)
        return has

    async def _find(self, lead: Lead) -> str | None:
        """
        Look up the id of a `Lead`; None if there is no such lead, and so nothing posted on it.

        A post that arrived has created its lead. That no lead has an e-mail address is certain; a
        phone number may be written in another way.
        """
        if lead.schema_name == "ProspectID":
            return lead.value.lower()
        why = "its lead cannot be looked up"
        found = await self._ask(why, self._poster.find_lead, lead.schema_name, lead.value)
        if found is None and lead.schema_name != "EmailAddress":
            why = f"no lead has its {lead.schema_name}, so it cannot be looked for"
            raise _UnreadableError(why)
        return found and found.lower()

    async def _ask(
        self, why: str, query: Callable[P, Awaitable[T]], *args: P.args, **details: P.kwargs
    ) -> T:
        """
        Make a query about one lead.

        Raises:
            _UnreadableError: LeadSquared fails for this lead. If it does for all, an outage is the
                reason, and the error of the third is raised itself.
        """
        await self._before_query()
        try:
            found = await query(*args, **details)
        except (ConfigurationError, Unauthorized, NotFound):
            raise
        except (AmbiguousLead, Rejected, UnexpectedAnswer, ServerError, ValueError) as error:
            self._unread += isinstance(error, ServerError)
            if self._unread == FAILURES_IN_A_ROW:
                raise
            raise _UnreadableError(f"{why}: {error}") from error
        self._unread = 0
        return found
