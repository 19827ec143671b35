"""Finding out, from what leads have, whether posts in doubt have arrived."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from leadpost._endpoints import texts_in
from leadpost._models import LeadActivity
from leadpost._poster import AsyncActivityPoster
from leadpost.errors import NotFound, Rejected, Unauthorized, UnexpectedAnswer
from leadpost.outbox import settling
from leadpost.outbox.entries import EntryState
from leadpost.outbox.settling import Doubt
from leadpost.outbox.store import Store

SETTLE = timedelta(hours=12)
"""
After so long a request is surely not in the vendor's queue any more: it tries one that failed for a
reason of its own again for 9 h 20 min in all.
"""
STILL = "the lead does not have it yet; it may still come"
"""Why an entry stays uncertain that was sent less than `settle` ago."""
CLOCKS_DIFFER = timedelta(minutes=2)
"""By so much the vendor's clock may be behind ours."""
ZONES_DIFFER = timedelta(days=1)
"""By so much its times may be behind, if they are not in UTC."""

_log = logging.getLogger(__name__)


async def reconcile(
    store: Store, poster: AsyncActivityPoster, *, settle: timedelta
) -> Counter[EntryState]:
    """Look at every uncertain entry once; see `Outbox.reconcile`."""
    tally = Counter[EntryState]()
    last = 0
    while (doubt := await store.read(partial(settling.doubts, after=last))) is not None:
        last = doubt.id
        state, note, activity_id = await _judged(store, poster, doubt, settle)
        change = partial(
            settling.settle,
            of=doubt,
            before="uncertain",
            state=state,
            note=note,
            activity_id=activity_id,
        )
        if await store.write(change):
            tally[state] += 1
            _log.info("entry %d: %s", doubt.id, state)
    return tally


async def _judged(
    store: Store, poster: AsyncActivityPoster, doubt: Doubt, settle: timedelta
) -> tuple[EntryState, str, str | None]:
    """Give the state that an entry is in after all, why, and the id of its activity."""
    payload: dict[str, Any] = json.loads(doubt.payload)
    lead, event = payload.get("RelatedProspectId"), payload["ActivityEvent"]
    if lead is None:
        return "uncertain", "it names no lead, so it cannot be looked for", None
    try:
        has = await poster.lead_activities(lead, event)
    except (Unauthorized, NotFound):
        raise
    except (Rejected, UnexpectedAnswer) as error:
        return "uncertain", f"the lead's activities cannot be read: {error}", None
    since = doubt.sent_at - ZONES_DIFFER
    others = partial(settling.others_of, doubt=doubt, lead=lead, since=since)
    twins = sum(_is_twin(json.loads(other), payload) for other in await store.read(others))
    of_type = [activity for activity in has if _may_be(activity, event, since)]
    ids = [activity.activity_id for activity in of_type]
    taken = await store.read(partial(settling.matched, activity_ids=ids))
    free = [activity for activity in of_type if activity.activity_id not in taken]
    alike = candidates(payload, doubt.sent_at, free)
    if alike and not _words(payload):
        return "uncertain", "the lead has some like it, but neither note nor date-time tell", None
    if len(alike) > twins:
        return "accepted", "the lead has it", None if twins else alike[-1]
    if alike:
        text = "the same was posted for another entry, whose activity is not known: it may be that"
        return "uncertain", text, None
    if doubt.age < settle.total_seconds():
        return "uncertain", STILL, None
    if free:
        text = "the lead has others of its type and time, of which one may be it: look there"
        return "uncertain", text, None
    return "pending", "the lead does not have it, and it can come no more", None


def candidates(
    payload: dict[str, Any], sent_at: datetime, has: Iterable[LeadActivity]
) -> list[str]:
    """
    Give the ids of the activities that are the posted one, as far as can be told.

    They are of the same type, were made since it was sent, and hold its note and date-time. Where
    the vendor does not tell type or time, they may be.
    """
    return [
        activity.activity_id
        for activity in has
        if _may_be(activity, payload["ActivityEvent"], sent_at - CLOCKS_DIFFER)
        and _words(payload) <= set(map(_plain, activity.texts))
    ]


def _may_be(activity: LeadActivity, event: int, since: datetime) -> bool:
    is_late = activity.created_on is None or activity.created_on >= since
    return is_late and activity.event in {None, event}


def _is_twin(other: dict[str, Any], payload: dict[str, Any]) -> bool:
    """Tell whether the activity of another entry would be taken for this one's."""
    is_same = all(
        str(other.get(name)).lower() == str(payload.get(name)).lower()
        for name in ("RelatedProspectId", "ActivityEvent")
    )
    return is_same and _words(payload) <= set(map(_plain, texts_in(other)))


def _words(payload: dict[str, Any]) -> set[str]:
    """Give what an activity is known again by."""
    texts = (_plain(payload.get(name) or "") for name in ("ActivityNote", "ActivityDateTime"))
    return {text for text in texts if text}


def _plain(text: str) -> str:
    """Make nothing of line ends and blanks, which others may write in their own way."""
    return " ".join(text.split())
