"""The statements of verifying and reconciling: what became of entries after their calls."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from attrs import field, frozen
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.outbox.claims import LONGEST_WAIT
from leadpost.outbox.entries import EntryState, add_changes
from leadpost.outbox.schema import entries
from leadpost.outbox.store import now


@frozen
class Check:
    """An accepted entry whose status is to be asked for, after so many calls."""

    id: int
    calls: int
    request_id: str | None
    payload: str = field(repr=False)


@frozen
class Doubt:
    """
    An entry that may have arrived.

    Attributes:
        id: The entry.
        calls: How many calls were made for it.
        payload: The activity as JSON.
        sent_at: When its call was made.
        age: Seconds since then.
    """

    id: int
    calls: int
    payload: str = field(repr=False)
    sent_at: datetime
    age: float


async def next_check(connection: AsyncConnection) -> float | None:
    """Tell in how many seconds the next status is to be asked for; None if none is open."""
    wait = entries.c.due_at - now(connection)
    query = sa.select(sa.func.min(sa.case((_is_due(wait), 0.0), else_=wait))).where(
        entries.c.state == sa.text("'accepted'")
    )
    seconds: float | None = (await connection.execute(query)).scalar_one()
    return None if seconds is None else max(seconds, 0.0)


async def count_unasked(connection: AsyncConnection) -> int:
    """Count the accepted entries whose status was not asked for yet."""
    query = sa.select(sa.func.count()).where(
        entries.c.state == sa.text("'accepted'"), entries.c.checks == 0
    )
    return int((await connection.execute(query)).scalar_one())


async def is_posting(connection: AsyncConnection) -> bool:
    """Tell whether any entry is being posted, or is to be."""
    some = sa.exists().where(entries.c.state.in_(("pending", "sending")))
    return bool((await connection.execute(sa.select(some))).scalar_one())


def _is_due(wait: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    return (wait <= 0) | (wait > LONGEST_WAIT)


async def claim_check(connection: AsyncConnection, waits: Sequence[float]) -> Check | None:
    """
    Give an accepted entry whose status is to be asked for now, and set the time of the next asking.

    Those that were asked about the fewest times come first, and of them the newest: the vendor
    works on old ones for hours.

    Args:
        connection: Where from.
        waits: Seconds to wait after each asking; the last one for all that follow.
    """
    moment = now(connection)
    first = (
        sa.select(entries.c.id)
        .where(entries.c.state == sa.text("'accepted'"), _is_due(entries.c.due_at - moment))
        .order_by(entries.c.checks, entries.c.id.desc())
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    wait = sa.case(dict(enumerate(waits)), value=entries.c.checks, else_=waits[-1])
    mark = (
        sa.update(entries)
        .where(entries.c.id == first.scalar_subquery())
        .values(checks=entries.c.checks + 1, due_at=moment + sa.cast(wait, sa.Double))
        .returning(entries.c.id, entries.c.calls, entries.c.request_id, entries.c.payload)
    )
    row = (await connection.execute(mark)).one_or_none()
    return None if row is None else Check(row.id, row.calls, row.request_id, row.payload)


async def doubts(connection: AsyncConnection, after: int) -> Doubt | None:
    """Give the first uncertain entry whose id is above `after`."""
    columns = entries.c.id, entries.c.calls, entries.c.payload, entries.c.sent_at
    query = (
        sa.select(*columns, now(connection).label("now"))
        .where(entries.c.id > after, entries.c.state == "uncertain")
        .order_by(entries.c.id)
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    sent_at = datetime.fromtimestamp(row.sent_at, UTC)
    return Doubt(row.id, row.calls, row.payload, sent_at, row.now - row.sent_at)


async def others_of(
    connection: AsyncConnection, doubt: Doubt, lead: str, since: datetime
) -> list[str]:
    """Give what was posted on a lead for other entries, as JSON, where its id is not known."""
    text = sa.func.lower(entries.c.payload, type_=entries.c.payload.type)
    query = sa.select(entries.c.payload).where(
        entries.c.id != doubt.id,
        entries.c.state.in_(("sending", "accepted", "succeeded")),
        entries.c.activity_id.is_(None),
        entries.c.sent_at >= since.timestamp(),
        text.contains(lead.lower(), autoescape=True),
    )
    return list((await connection.execute(query)).scalars())


async def matched(connection: AsyncConnection, activity_ids: Sequence[str]) -> set[str]:
    """Tell which of these activities belong to entries."""
    query = sa.select(entries.c.activity_id).where(entries.c.activity_id.in_(activity_ids))
    return set((await connection.execute(query)).scalars())


async def settle(
    connection: AsyncConnection,
    of: Check | Doubt,
    before: EntryState,
    state: EntryState,
    *,
    note: str,
    activity_id: str | None = None,
) -> bool:
    """
    Change the state of an entry for what the vendor has told of it since.

    Returns:
        Whether it was still in the state that it had before, and no call was made for it since.
    """
    moment = now(connection)
    is_bad = state in {"failed", "uncertain"}
    values: dict[str, Any] = {
        "state": state,
        "changed_at": moment,
        "due_at": moment,
        "message": note if is_bad else None,
    }
    if not is_bad:
        values["error_type"] = None
    if activity_id is not None and not await matched(connection, [activity_id]):
        values["activity_id"] = activity_id  # else reconciling took it to be another entry's
    update = (
        sa.update(entries)
        .where(entries.c.id == of.id, entries.c.calls == of.calls, entries.c.state == before)
        .values(values)
    )
    if (await connection.execute(update)).rowcount == 0:
        return False
    if state != before:
        await add_changes(connection, [of.id], state, note)
    return True
