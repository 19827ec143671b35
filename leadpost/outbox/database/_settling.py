"""The statements of verifying and reconciling: what became of entries after their calls."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from attrs import field, frozen
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.outbox.database._entries import PART, EntryState, add_changes, moment
from leadpost.outbox.database._schema import entries, now


@frozen
class Check:
    """
    An accepted entry whose status is to be asked for.

    Attributes:
        id: The entry.
        call_id: Its latest call.
        request_id: What to ask for; None if reconciling found the activity itself.
    """

    id: int
    call_id: str | None
    request_id: str | None


@frozen
class Doubt:
    """
    An entry that may have arrived.

    Attributes:
        id: The entry.
        call_id: Its latest call.
        activity: The activity as JSON.
        sent_at: When its call was made.
        age: Seconds since then.
    """

    id: int
    call_id: str | None
    activity: str = field(repr=False)
    sent_at: datetime
    age: float


async def claim_check(
    connection: AsyncConnection, account: str, waits: Sequence[float]
) -> Check | None:
    """
    Return the accepted entry that is due first to be asked about, and set when it is due next.

    Args:
        connection: Where.
        account: Whose entries.
        waits: Seconds from one question to the next; the last one counts for all further ones.
    """
    first = (
        sa.select(entries.c.id)
        .where(
            entries.c.account == account,
            entries.c.state == sa.text("'accepted'"),
            entries.c.due_at <= now(),
        )
        .order_by(entries.c.due_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    wait = sa.case(dict(enumerate(waits)), value=entries.c.checks, else_=waits[-1])
    ask = (
        sa.update(entries)
        .where(entries.c.id == first.scalar_subquery())
        .values(checks=entries.c.checks + 1, due_at=now() + wait)
        .returning(entries.c.id, entries.c.call_id, entries.c.request_id)
    )
    row = (await connection.execute(ask)).one_or_none()
    return None if row is None else Check(*row)


async def next_check(connection: AsyncConnection, account: str) -> float | None:
    """Return the seconds until the next question is due, None if no answer is open."""
    query = sa.select(sa.func.min(entries.c.due_at) - now()).where(
        entries.c.account == account, entries.c.state == sa.text("'accepted'")
    )
    seconds: float | None = (await connection.execute(query)).scalar_one()
    return None if seconds is None else max(seconds, 0.0)


async def is_posting(connection: AsyncConnection, account: str) -> bool:
    """Whether any entry is pending or in flight."""
    states = [
        sa.exists().where(entries.c.account == account, entries.c.state == sa.text(state))
        for state in ("'pending'", "'sending'")
    ]
    return bool((await connection.execute(sa.select(sa.or_(*states)))).scalar_one())


async def doubts(connection: AsyncConnection, account: str) -> dict[str | None, list[int]]:
    """Return the ids of all uncertain entries, by the lead that they are about."""
    query = (
        sa.select(entries.c.lead, entries.c.id)
        .where(entries.c.account == account, entries.c.state == "uncertain")
        .order_by(entries.c.id)
    )
    found: dict[str | None, list[int]] = {}
    for lead, id_ in await connection.execute(query):
        found.setdefault(lead, []).append(id_)
    return found


async def doubt(connection: AsyncConnection, account: str, entry_id: int) -> Doubt | None:
    """Return an uncertain entry, None if it is no longer."""
    # Plain SQL may have made one uncertain without a call.
    sent_at = sa.func.coalesce(entries.c.sent_at, entries.c.put_at)
    query = sa.select(
        entries.c.id, entries.c.call_id, entries.c.activity, sent_at, now() - sent_at
    ).where(entries.c.account == account, entries.c.id == entry_id, entries.c.state == "uncertain")
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Doubt(row[0], row[1], row[2], moment(row[3]), row[4])


async def others_of(
    connection: AsyncConnection, account: str, of: Doubt, lead: str, since: datetime
) -> list[str]:
    """Return the activities of other entries that were posted on a lead and are not matched yet."""
    query = sa.select(entries.c.activity).where(
        entries.c.account == account,
        entries.c.lead == lead.lower(),
        entries.c.id != of.id,
        entries.c.state.in_(("sending", "accepted", "succeeded")),
        entries.c.activity_id.is_(None),
        entries.c.sent_at >= since.timestamp(),
    )
    return list((await connection.execute(query)).scalars())


async def matched(
    connection: AsyncConnection, account: str, activity_ids: Sequence[str]
) -> set[str]:
    """Return those of these activities that belong to entries."""
    found = set[str]()
    for first in range(0, len(activity_ids), PART):
        query = sa.select(entries.c.activity_id).where(
            entries.c.account == account,
            entries.c.activity_id.in_(activity_ids[first : first + PART]),
        )
        found.update((await connection.execute(query)).scalars())
    return found


async def settle(
    connection: AsyncConnection,
    account: str,
    of: Check | Doubt,
    before: EntryState,
    state: EntryState,
    *,
    note: str,
    activity_id: str | None = None,
) -> bool:
    """
    Change the state of an entry for what LeadSquared has said of it since.

    Returns:
        Whether it was still in the state that it had before, and no call was made for it since.
    """
    is_bad = state in {"failed", "uncertain"}
    values: dict[str, object] = {
        "state": state,
        "changed_at": now(),
        "due_at": 0,
        "message": note if is_bad else None,
    }
    if not is_bad:
        values["error_type"] = None
    if activity_id is not None and not await matched(connection, account, [activity_id]):
        values["activity_id"] = activity_id  # else reconciling took it for another entry's
    update = (
        sa.update(entries)
        .where(
            entries.c.id == of.id,
            entries.c.call_id.is_not_distinct_from(of.call_id),
            entries.c.state == before,
        )
        .values(values)
    )
    if (await connection.execute(update)).rowcount == 0:
        return False
    if state != before:
        await add_changes(connection, [of.id], state, note)
    return True
