"""Finds out, from what leads have, whether posts in doubt have arrived."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from attrs import define, field

from leadpost._answers import LeadActivity
from leadpost._availability import FAILURES_IN_A_ROW
from leadpost._models import Lead
from leadpost._poster import AsyncActivityPoster
from leadpost._validation import is_mapping
from leadpost.errors import (
    AmbiguousLead,
    ConfigurationError,
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
    candidates,
    is_twin,
    lead_in,
    may_be,
    windows,
    words,
)
from leadpost.outbox.database import Store, _settling
from leadpost.outbox.database._entries import loaded
from leadpost.outbox.database._settling import Doubt, Verdict

SETTLE = timedelta(hours=12)
"""
After so long a request is surely not in LeadSquared's queue any more: it retries one that failed
for a reason of its own for 9 h 20 min in all.
"""
STILL = "the lead does not have it yet; it may still come"
"""Why an entry stays uncertain that was sent less than `settle` ago."""
OTHERS = "the lead has others of its type and time, of which one may be it: look there"
"""Why an entry stays uncertain whose lead has activities that no entry is known to have brought."""
OTHERS_STILL = f"{STILL}, or be one of the others of its type and time"
MOST_CALLS = 50
"""Calls that one window takes at most: 50,000 activities fit into memory."""

_log = logging.getLogger("leadpost")

Read = dict[tuple[str, int], Sequence[LeadActivity] | str]
"""What leads have of each type, or why that cannot be read."""


async def _at_once() -> None:
    """Make a query without waiting."""


@define
class Reconciler:
    """Looks for uncertain entries among the activities of their leads."""

    _store: Store
    _poster: AsyncActivityPoster
    _settle_after: timedelta = SETTLE  # how long after sending an activity may still arrive
    _before_query: Callable[[], Awaitable[None]] = _at_once  # waits until a query may be made
    _unread: int = field(default=0, init=False)  # leads in a row that could not be read

    async def reconcile(self, on_progress: Callable[[int, int], None]) -> Counter[EntryState]:
        """Look at every uncertain entry once; see `Outbox.reconcile`."""
        tally = Counter[EntryState]()
        doubts = await self._store.read(_settling.doubts)
        in_windows = await self._in_windows(doubts)
        of_leads: dict[str | None, list[Doubt]] = {}
        for doubt in doubts:
            of_leads.setdefault(doubt.lead, []).append(doubt)
        done = 0
        for those in of_leads.values():
            # The activities of one lead are read once for each type, for all its entries.
            read: Read = {}
            for doubt in those:
                verdict = await self._verdict(doubt, in_windows.get(doubt.id), read)
                if await self._store.write(_settling.settle, doubt, "uncertain", verdict):
                    _log.info("entry %d: %s", doubt.id, verdict.state)
                    tally[verdict.state] += 1
                done += 1
                on_progress(done, len(doubts))
        return tally

    async def _in_windows(self, doubts: Iterable[Doubt]) -> dict[int, list[LeadActivity]]:
        """
        Read windows of time, of all leads at once, where that may take fewer calls.

        Returns:
            By entry, what its lead has in its window. Entries are missing where lead after lead
            takes fewer calls, or where the account does not answer this.
        """
        found: dict[int, list[LeadActivity]] = {}
        for window in windows(doubts, self._settle_after):
            if window.leads <= 2:
                continue
            await self._before_query()
            try:
                activities = await self._poster.activities_between(
                    window.event,
                    window.start,
                    window.end,
                    most_calls=min(window.leads - 1, MOST_CALLS),
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

    async def _verdict(
        self, doubt: Doubt, in_window: Sequence[LeadActivity] | None, read: Read
    ) -> Verdict:
        """Look for an entry in its window, if that was read, and on its lead if still needed."""
        activity, lead, by = doubt.activity, doubt.lead, None
        if lead is None and is_mapping(activity):
            by = lead_in(activity)
            activity = activity.get("Activity")
        if not is_mapping(activity) or (lead is None and by is None):
            return Verdict("uncertain", "it names no lead, so it cannot be looked for")
        event = activity.get("ActivityEvent")
        if not isinstance(event, int):
            return Verdict("uncertain", "it has no ActivityEvent, so it cannot be looked for")
        if lead is not None and in_window is not None:
            verdict = await self._judge(doubt, activity, lead, None, in_window)
            # A match proves that it arrived, and nothing of the lead's means "not yet". Before
            # anything else is concluded, the lead is asked: edited activities are not in the
            # window of their posting, and LeadSquared's paging of windows is not documented.
            if verdict.state == "accepted" or verdict.note == STILL:
                return verdict
        if by is not None:
            found = await self._look_up(by)
            if isinstance(found, Verdict):
                return found
            lead = found
        key = (str(lead), event)
        if key not in read:
            read[key] = await self._activities(*key)
        has = read[key]
        if isinstance(has, str):
            return Verdict("uncertain", has)
        return await self._judge(doubt, activity, key[0], by, has)

    async def _judge(
        self,
        doubt: Doubt,
        activity: Mapping[str, Any],
        lead: str,
        by: Lead | None,
        has: Iterable[LeadActivity],
    ) -> Verdict:
        """Conclude what can be concluded from the activities that the lead has."""
        since = doubt.sent_at - ZONES_DIFFER
        of_type = [one for one in has if may_be(one, activity, since)]
        ids = [one.activity_id for one in of_type]
        taken = await self._store.read(_settling.matched, ids)
        free = [one for one in of_type if one.activity_id not in taken]
        alike = candidates(activity, doubt.sent_at, free)
        if alike and not words(activity):
            return Verdict(
                "uncertain", "the lead has similar ones, but no note or date-time to tell"
            )
        if alike:
            value = by.value if by else None
            others = await self._store.read(_settling.others_of, doubt, lead, since, found_by=value)
            twins = sum(is_twin(loaded(other), activity, by, alike) for other in others)
            if len(alike) > twins:
                activity_id = None if twins else alike[-1].activity_id
                return Verdict("accepted", "the lead has it", activity_id)
            why = "the same was posted for another entry, whose activity is not known"
            return Verdict("uncertain", f"{why}: it may be that")
        if doubt.age < self._settle_after.total_seconds():
            return Verdict("uncertain", OTHERS_STILL if free else STILL)
        if free:
            return Verdict("uncertain", OTHERS)
        return Verdict("pending", "the lead does not have it, and it cannot come any more")

    async def _activities(self, lead: str, event: int) -> Sequence[LeadActivity] | str:
        """Read what a lead has, or say why that cannot be read."""
        await self._before_query()
        try:
            found = await self._poster.lead_activities(lead, event)
        except (Unauthorized, NotFound):
            raise
        except (Rejected, UnexpectedAnswer, ServerError) as error:
            # LeadSquared may fail for one lead. If it does for all, an outage is the reason.
            self._unread += isinstance(error, ServerError)
            if self._unread == FAILURES_IN_A_ROW:
                raise
            return f"the lead's activities cannot be read: {error}"
        self._unread = 0
        return found

    async def _look_up(self, lead: Lead) -> str | Verdict:
        """Return the id of a `Lead`, or the verdict where it cannot be found."""
        try:
            if lead.schema_name == "ProspectID":
                return lead.value.lower()
            await self._before_query()
            found = await self._poster.find_lead(lead.schema_name, lead.value)
        except (ConfigurationError, Unauthorized, NotFound):
            raise
        except (AmbiguousLead, Rejected, UnexpectedAnswer, ValueError) as error:
            return Verdict("uncertain", f"its lead cannot be looked up: {error}")
        if found is None:
            why = f"no lead has its {lead.schema_name}, so it cannot be looked for"
            return Verdict("uncertain", why)
        return found.lower()
