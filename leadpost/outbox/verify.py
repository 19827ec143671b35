"""Asking what became of accepted requests, until it is known."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial

from leadpost._poster import AsyncActivityPoster
from leadpost.bucket import LIMIT, PERIOD
from leadpost.errors import (
    NotFound,
    NotSent,
    OutboxUnavailable,
    Rejected,
    Unauthorized,
    Unavailable,
)
from leadpost.outbox import settling
from leadpost.outbox.away import Away, described
from leadpost.outbox.entries import EntryState
from leadpost.outbox.settling import Check
from leadpost.outbox.store import Store

WAITS = (10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0)
"""
Seconds between two askings about one request. The vendor tries one that failed again after 30 s at
first, in the end after 3 hours, so there is no use in asking often for long.
"""

_log = logging.getLogger(__name__)

_POLL = 1.0
_SHARE = 5
"""One call in so many is for asking, while others are for posting."""


async def verify(
    store: Store, poster: AsyncActivityPoster, *, forever: bool
) -> Counter[EntryState]:
    """Ask until nothing is open; see `Outbox.verify`."""
    tally = Counter[EntryState]()
    vendor, database = Away("the Status API"), Away(f"the outbox {store.name}")
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            check = await store.write(partial(settling.claim_check, waits=WAITS))
            database.is_back()
            if check is not None:
                await _ask(store, poster, check, tally)
                vendor.is_back()
                is_posting = await store.read(settling.is_posting)
                await asyncio.sleep(began + _pause(is_posting=is_posting) - loop.time())
                continue
            due = await store.read(settling.next_check)
        except OutboxUnavailable as error:
            database.is_away(error)
            due = _POLL
        except (Unavailable, NotSent) as error:  # NotSent: no token came free for minutes
            vendor.is_away(error)
            due = _POLL
        if due is None and not forever:
            return tally
        await asyncio.sleep(_POLL if due is None else min(due, _POLL))


def _pause(*, is_posting: bool) -> float:
    """Return the seconds from one query to the next."""
    return PERIOD / LIMIT * (_SHARE if is_posting else 1)


async def _ask(
    store: Store, poster: AsyncActivityPoster, check: Check, tally: Counter[EntryState]
) -> None:
    state: EntryState = "accepted"
    activity_id: str | None = None
    if check.request_id is None:  # reconciling found the activity itself
        state, note = "succeeded", "the lead has it"
    else:
        try:
            status = await poster.status(check.request_id)
        except (Unauthorized, NotFound):
            raise
        except Rejected as error:
            what = described(error)
            _log.warning("entry %d: its status cannot be read: %s", check.id, what)
            return
        else:
            note = status.status_reason or status.status
            if status.final:
                state = "succeeded" if status.state == "succeeded" else "failed"
                activity_id = status.activity_id
    settle = partial(
        settling.settle,
        of=check,
        before="accepted",
        state=state,
        note=note,
        activity_id=activity_id,
    )
    if state != "accepted" and await store.write(settle):
        tally[state] += 1
