"""A worker's statements: claiming an entry, recording what became of the call, looking after it."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa
from attrs import field, frozen
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.errors import DeliveryUncertain, LeadpostError
from leadpost.outbox.database._entries import EntryState, add_changes, begins_with, insert_into
from leadpost.outbox.database._schema import accounts, counts, entries, now

OVERDUE = 30.0
"""Seconds after the end of a call's time at which its entry is `uncertain`, without a record."""


@frozen
class Claim:
    """
    An entry for which a call is made.

    Attributes:
        id: The entry.
        call_id: The call, by a number made at random.
        activity: The activity as JSON.
        calls: How many calls were made for it, this one included.
        failures: How many of the earlier ones count as failures.
        in_doubt: Whether an earlier one may have arrived.
    """

    id: int
    call_id: str
    activity: str = field(repr=False)
    calls: int
    failures: int
    in_doubt: bool


async def next_due(
    connection: AsyncConnection, account: str, key_prefix: str | None = None
) -> float | None:
    """Return the seconds until the next pending entry is due, None if none is pending."""
    # Written out, as only then a planner knows that the partial index will do.
    pending = sa.and_(entries.c.account == account, entries.c.state == sa.text("'pending'"))
    if key_prefix is not None:
        pending = sa.and_(pending, begins_with(key_prefix))
    some = sa.select(sa.exists().where(pending, entries.c.due_at <= now()))
    if (await connection.execute(some)).scalar_one():
        return 0.0
    # Few are pending and not due: as many as failed within the longest pause.
    first = sa.select(sa.func.min(entries.c.due_at) - now()).where(pending)
    seconds: float | None = (await connection.execute(first)).scalar_one()
    return None if seconds is None else max(seconds, 0.0)


async def claim(
    connection: AsyncConnection,
    account: str,
    call_id: str,
    call_time: float,
    *,
    but: Collection[int] = (),
    key_prefix: str | None = None,
) -> Claim | None:
    """
    Mark the next due entry as `sending`, and return it; None if none is due.

    Args:
        connection: Where.
        account: Whose entries.
        call_id: The call's number, made at random.
        call_time: Seconds in which the call must have ended.
        but: Not these entries.
        key_prefix: Only entries whose key begins with it.
    """
    first = (
        sa.select(entries.c.id)
        .where(
            entries.c.account == account,
            entries.c.state == sa.text("'pending'"),
            entries.c.due_at <= now(),
        )
        .order_by(entries.c.priority.desc(), entries.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if key_prefix is not None:
        first = first.where(begins_with(key_prefix))
    if but:
        first = first.where(entries.c.id.not_in(but))
    in_doubt = sa.func.coalesce(entries.c.error_type, "") == DeliveryUncertain.__name__
    mark = (
        sa.update(entries)
        .where(entries.c.id == first.scalar_subquery())
        .values(
            state="sending",
            call_id=call_id,
            calls=entries.c.calls + 1,
            changed_at=now(),
            sent_at=now(),
            ends_by=now() + call_time,
        )
        .returning(
            entries.c.id,
            entries.c.activity,
            entries.c.calls,
            entries.c.failures,
            in_doubt.label("in_doubt"),
        )
    )
    row = (await connection.execute(mark)).one_or_none()
    if row is None:
        return None
    await add_changes(connection, [row.id], "sending", f"call {row.calls}")
    return Claim(row.id, call_id, row.activity, row.calls, row.failures, bool(row.in_doubt))


async def record(
    connection: AsyncConnection,
    of: Claim,
    state: EntryState,
    *,
    request_id: str | None = None,
    error: LeadpostError | None = None,
    due_in: float = 0.0,
    failed: bool = False,
) -> bool:
    """
    Record what became of a call.

    Args:
        connection: Where.
        of: The call.
        state: The entry's state from now on.
        request_id: LeadSquared's RequestID.
        error: Why there is none.
        due_in: Seconds until the entry is due to be sent again, or its status to be asked for.
        failed: Whether the call counts as a failure.

    Returns:
        Whether it was recorded: not if another call was made for the entry meanwhile, or if what
        became of this one is known already.
    """
    update = (
        sa.update(entries)
        .where(
            entries.c.id == of.id,
            entries.c.call_id == of.call_id,
            entries.c.state.in_(("sending", "uncertain", "pending")),
        )
        .values(
            state=state,
            changed_at=now(),
            due_at=now() + due_in,
            failures=entries.c.failures + int(failed),
            request_id=request_id,
            error_type=None if error is None else type(error).__name__,
            message=None if error is None else str(error),
        )
    )
    if (await connection.execute(update)).rowcount == 0:
        # Recorded before, and only its COMMIT was not heard of?
        same = sa.exists().where(
            entries.c.id == of.id, entries.c.call_id == of.call_id, entries.c.state == state
        )
        return bool((await connection.execute(sa.select(same))).scalar_one())
    await add_changes(
        connection, [of.id], state, f"RequestID {request_id}" if request_id else str(error)
    )
    return True


async def release(connection: AsyncConnection, account: str, call_ids: Collection[str]) -> int:
    """
    Make entries pending again that were claimed for calls which were never made.

    The connection was lost while the claim was committed, and the worker made no call for it.
    """
    update = (
        sa.update(entries)
        .where(
            entries.c.account == account,
            entries.c.state == sa.text("'sending'"),
            entries.c.call_id.in_(call_ids),
        )
        .values(state="pending", changed_at=now(), due_at=0)
        .returning(entries.c.id)
    )
    ids = list((await connection.execute(update)).scalars())
    await add_changes(connection, ids, "pending", "no call was made")
    return len(ids)


async def expire(connection: AsyncConnection, account: str) -> int:
    """Make entries `uncertain` whose call must have ended long ago, and return their number."""
    update = (
        sa.update(entries)
        .where(
            entries.c.account == account,
            entries.c.state == sa.text("'sending'"),
            entries.c.ends_by < now() - OVERDUE,
        )
        .values(
            state="uncertain",
            changed_at=now(),
            error_type=DeliveryUncertain.__name__,
            message="its call has not been recorded: it may have arrived",
        )
        .returning(entries.c.id)
    )
    ids = list((await connection.execute(update)).scalars())
    await add_changes(connection, ids, "uncertain", "its call has not been recorded")
    return len(ids)


async def register(connection: AsyncConnection, account: str, fingerprint: str) -> None:
    """Note with which keys the entries of an account are posted."""
    await connection.execute(
        insert_into(connection.dialect, accounts),
        {"account": account, "fingerprint": fingerprint},
    )


async def be_seen(connection: AsyncConnection, account: str, away_for: float | None) -> None:
    """Note that a worker of the account is alive, and for how long LeadSquared has been away."""
    away_since = None if away_for is None else now() - away_for
    await connection.execute(
        sa.update(accounts)
        .where(accounts.c.account == account)
        .values(worker_seen_at=now(), away_since=away_since)
    )


async def sum_up(connection: AsyncConnection, account: str) -> None:
    """Add up the changes of the numbers of entries; only PostgreSQL's triggers leave them apart."""
    if connection.dialect.name == "sqlite":
        return
    parts = (
        sa.select(counts.c.state, counts.c.part)
        .where(counts.c.account == account, counts.c.part != 0)
        .with_for_update(skip_locked=True)
    )
    gone = (
        sa.delete(counts)
        .where(counts.c.account == account, sa.tuple_(counts.c.state, counts.c.part).in_(parts))
        .returning(counts.c.state, counts.c.entries)
        .cte("gone")
    )
    sums = sa.select(
        sa.literal(account), gone.c.state, sa.literal(0), sa.func.sum(gone.c.entries)
    ).group_by(gone.c.state)
    insert = postgresql.insert(counts).from_select(list(counts.c.keys()), sums)
    total = counts.c.entries + insert.excluded.entries
    await connection.execute(
        insert.on_conflict_do_update(index_elements=counts.primary_key, set_={"entries": total})
    )
