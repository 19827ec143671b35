"""What an outbox shows: its entries, their changes, and their condition."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, get_args

from attrs import field, frozen

EntryState = Literal[
    "pending", "sending", "accepted", "succeeded", "failed", "rejected", "uncertain"
]
STATES: tuple[EntryState, ...] = get_args(EntryState)
"""Every state, in the order of an entry's life."""


@frozen
class Entry:
    """
    One activity in an outbox.

    Attributes:
        id: Its number, in the order in which entries were put.
        key: The caller's name for it, None without one.
        priority: Entries with a higher priority are sent sooner.
        state: `pending` (to be sent), `sending` (a call is in flight), `accepted` (in LeadSquared's
            queue, under the RequestID), `succeeded` (on the lead), `failed` (given up; or, with a
            `request_id`, failed by LeadSquared's queue), `rejected` (invalid, or LeadSquared found
            it wrong, and would again), `uncertain` (may have arrived).
        activity: The activity in LeadSquared's JSON shape. If plain SQL inserted it, it may be any
            JSON value.
        put_at: When it was put.
        changed_at: When its state last changed.
        calls: How many calls were made for it.
        request_id: LeadSquared's RequestID.
        activity_id: The id of the activity, once known.
        error_type: The reason for its state: the name of an error class of `leadpost`.
        message: The reason in words, which may be LeadSquared's.
    """

    id: int
    key: str | None
    priority: int
    state: EntryState
    activity: Mapping[str, Any] = field(repr=False)
    put_at: datetime
    changed_at: datetime
    calls: int = 0
    request_id: str | None = None
    activity_id: str | None = None
    error_type: str | None = None
    message: str | None = field(default=None, repr=False)


@frozen
class Change:
    """
    One change of an entry's state.

    Attributes:
        state: The new state.
        at: When it changed.
        note: The reason, None without one.
    """

    state: EntryState
    at: datetime
    note: str | None = field(default=None, repr=False)


@frozen
class Health:
    """
    The condition of an account's entries and workers.

    Attributes:
        counts: The number of entries in each state.
        oldest_pending: Seconds since the oldest pending entry was put, None if none is pending.
        is_working: Whether a worker was alive within the last minute.
        called_at: When a worker's last call for an entry ended, to about 5 s; None without one. If
            entries have been due for long since then and LeadSquared is not away, workers are
            stuck.
        away_since: When the outage of LeadSquared began, None without one, as far as workers know.
    """

    counts: Mapping[EntryState, int]
    oldest_pending: float | None
    is_working: bool
    called_at: datetime | None
    away_since: datetime | None
