"""Finds out, from what leads have, whether posts in doubt have arrived."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import define

from leadpost._endpoints import texts_in
from leadpost._models import LeadActivity
from leadpost._poster import AsyncActivityPoster
from leadpost._validation import is_mapping
from leadpost.errors import NotFound, Rejected, Unauthorized, UnexpectedAnswer
from leadpost.outbox._absence import described
from leadpost.outbox.database import AccountDatabase, _settling
from leadpost.outbox.database._entries import EntryState, loaded
from leadpost.outbox.database._settling import Doubt, Span, Verdict

SETTLE = timedelta(hours=12)
"""
After so long a request is surely not in LeadSquared's queue any more: it retries one that failed
for a reason of its own for 9 h 20 min in all.
"""
STILL = "the lead does not have it yet; it may still come"
"""Why an entry stays uncertain that was sent less than `settle` ago."""
CLOCKS_DIFFER = timedelta(minutes=2)
"""LeadSquared's clock may be so much behind ours."""
ZONES_DIFFER = timedelta(days=1)
"""Its times may be so much behind, if they are not in UTC."""

_log = logging.getLogger("leadpost")


@define
class Reconciler:
    """Looks for uncertain entries among the activities of their leads."""

    _store: AccountDatabase
    _poster: AsyncActivityPoster
    _settle_after: timedelta = SETTLE  # how long after sending an activity may still arrive

    async def reconcile(self, on_progress: Callable[[int, int], None]) -> Counter[EntryState]:
        """Look at every uncertain entry once, lead by lead; see `Outbox.reconcile`."""
        tally = Counter[EntryState]()
        doubts = await self._store.read(_settling.doubts)
        windows = {event: await self._window(event, of) for event, of in doubts.spans.items()}
        done, all_of_them = 0, sum(map(len, doubts.ids.values()))
        for lead, ids in doubts.ids.items():
            # The activities of one lead are read once for each type, for all its entries.
            read: dict[int, Sequence[LeadActivity] | str] = {
                event: window.get(lead or "", [])
                for event, window in windows.items()
                if window is not None
            }
            by_window = bool(read)
            for entry_id in ids:
                doubt = await self._store.read(_settling.doubt, entry_id)
                if doubt is not None:
                    verdict = await self._verdict(doubt, lead, read)
                    if verdict.state == "pending" and by_window:
                        read.clear()  # ask the lead itself before anything is sent again
                        by_window = False
                        verdict = await self._verdict(doubt, lead, read)
                    if await self._record(doubt, verdict):
                        tally[verdict.state] += 1
                done += 1
                on_progress(done, all_of_them)
        return tally

    async def _window(self, event: int, span: Span) -> dict[str, list[LeadActivity]] | None:
        """
        Read what all leads have of a type since the first of its uncertain posts.

        It lasts until now, as LeadSquared finds what was edited by the time of the edit. A match
        proves an arrival; where there is none, the lead itself is asked before anything is sent.

        Returns:
            By lead; None where lead after lead takes fewer calls, or the account refuses this.
        """
        if len(span.leads) <= 2:
            return None
        start = datetime.fromtimestamp(span.since, UTC) - ZONES_DIFFER
        end = datetime.now(UTC) + ZONES_DIFFER
        try:
            found = await self._poster.activities_between(
                event, start, end, most_calls=len(span.leads) - 1
            )
        except (Rejected, UnexpectedAnswer) as error:  # rejected keys are seen at the first lead
            _log.info("reconciling lead by lead: %s", described(error))
            return None
        if found is None or any(activity.lead_id is None for activity in found):
            return None
        window: dict[str, list[LeadActivity]] = {}
        for activity in found:
            window.setdefault((activity.lead_id or "").lower(), []).append(activity)
        return window

    async def _record(self, doubt: Doubt, verdict: Verdict) -> bool:
        recorded = await self._store.write(_settling.settle, doubt, "uncertain", verdict)
        if recorded:
            _log.info("entry %d: %s", doubt.id, verdict.state)
        return recorded

    async def _verdict(
        self, doubt: Doubt, lead: str | None, read: dict[int, Sequence[LeadActivity] | str]
    ) -> Verdict:
        activity = loaded(doubt.activity)
        if lead is None or not is_mapping(activity):
            return Verdict("uncertain", "it names no lead, so it cannot be looked for")
        event = activity.get("ActivityEvent")
        if not isinstance(event, int):
            return Verdict("uncertain", "it has no ActivityEvent, so it cannot be looked for")
        if event not in read:
            read[event] = await self._activities(lead, event)
        has = read[event]
        if isinstance(has, str):
            return Verdict("uncertain", has)
        since = doubt.sent_at - ZONES_DIFFER
        twins = await self._twins(doubt, activity, lead, since)
        of_type = [one for one in has if _may_be(one, event, since)]
        ids = [one.activity_id for one in of_type]
        taken = await self._store.read(_settling.matched, ids)
        free = [one for one in of_type if one.activity_id not in taken]
        alike = candidates(activity, doubt.sent_at, free)
        if alike and not _words(activity):
            return Verdict(
                "uncertain", "the lead has similar ones, but no note or date-time to tell"
            )
        if len(alike) > twins:
            return Verdict("accepted", "the lead has it", None if twins else alike[-1])
        if alike:
            why = "the same was posted for another entry, whose activity is not known"
            return Verdict("uncertain", f"{why}: it may be that")
        if doubt.age < self._settle_after.total_seconds():
            return Verdict("uncertain", STILL)
        if free:
            why = "the lead has others of its type and time, of which one may be it: look there"
            return Verdict("uncertain", why)
        return Verdict("pending", "the lead does not have it, and it cannot come any more")

    async def _activities(self, lead: str, event: int) -> Sequence[LeadActivity] | str:
        """Read what a lead has, or say why that cannot be read."""
        try:
            return await self._poster.lead_activities(lead, event)
        except (Unauthorized, NotFound):
            raise
        except (Rejected, UnexpectedAnswer) as error:
            return f"the lead's activities cannot be read: {error}"

    async def _twins(
        self, doubt: Doubt, activity: Mapping[str, Any], lead: str, since: datetime
    ) -> int:
        """Count the other entries whose activities would be taken for this one's."""
        others = await self._store.read(_settling.others_of, doubt, lead, since)
        return sum(_is_twin(loaded(other), activity) for other in others)


def candidates(
    payload: Mapping[str, Any], sent_at: datetime, has: Iterable[LeadActivity]
) -> list[str]:
    """
    Return the ids of the activities that are the posted one, as far as can be told.

    They are of the same type, were created since it was sent, and hold its note and date-time. If
    LeadSquared does not say type or time, they may be.
    """
    return [
        activity.activity_id
        for activity in has
        if _may_be(activity, payload["ActivityEvent"], sent_at - CLOCKS_DIFFER)
        and _words(payload) <= set(map(_plain, activity.texts))
    ]


def _may_be(activity: LeadActivity, event: int, since: datetime) -> bool:
    moment = activity.modified_on or activity.created_on  # CreatedOn is the activity's own time
    is_late = moment is None or moment >= since
    return is_late and activity.event in {None, event}


def _is_twin(other: object, activity: Mapping[str, Any]) -> bool:
    """Whether the activity of another entry would be taken for this one's."""
    return (
        is_mapping(other)
        and all(
            str(other.get(name)).lower() == str(activity.get(name)).lower()
            for name in ("RelatedProspectId", "ActivityEvent")
        )
        and _words(activity) <= set(map(_plain, texts_in(other)))
    )


def _words(payload: Mapping[str, Any]) -> set[str]:
    """Return what an activity is recognized by."""
    texts = (_plain(payload.get(name) or "") for name in ("ActivityNote", "ActivityDateTime"))
    return {text for text in texts if text}


def _plain(text: str) -> str:
    """Ignore line ends and blanks, which others may write in their own way."""
    return " ".join(text.split())
