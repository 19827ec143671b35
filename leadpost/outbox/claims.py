"""The statements of a worker: claiming entries, setting down what became of them, its lease."""

from collections.abc import Collection

import sqlalchemy as sa
from attrs import field, frozen
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.errors import DeliveryUncertain, LeadpostError
from leadpost.outbox.entries import EntryState, add_changes
from leadpost.outbox.schema import entries, workers
from leadpost.outbox.store import now

LONGEST_WAIT = 3600.0
"""Seconds. A moment further ahead than any wait is one of a clock that went back since."""


@frozen
class Claim:
    """
    An entry that is this worker's to send.

    Attributes:
        id: The entry.
        owner: The worker.
        calls: How many calls were made, this one included: no two claims of an entry share it.
        failures: How many of the earlier ones count as failures.
        in_doubt: Whether an earlier one may have arrived.
        payload: The activity as JSON.
    """

    id: int
    owner: str
    calls: int
    failures: int
    in_doubt: bool
    payload: str = field(repr=False)


async def next_due(connection: AsyncConnection) -> float | None:
    """Tell in how many seconds the next pending entry is to be sent; None if there is none."""
    wait = entries.c.due_at - now(connection)
    is_early = wait > LONGEST_WAIT
    query = sa.select(sa.func.min(sa.case((is_early, 0.0), else_=wait))).where(
        entries.c.state == "pending"
    )
    seconds: float | None = (await connection.execute(query)).scalar_one()
    return None if seconds is None else max(seconds, 0.0)


async def claim(
    connection: AsyncConnection, owner: str, *, least_tried: bool = False
) -> Claim | None:
    """
    Mark the next entry as being sent, and return it; None if there is none to be sent now.

    Args:
        connection: Where from.
        owner: The worker.
        least_tried: Whether the entry with the fewest calls goes first, whatever its priority.
    """
    by_calls = (entries.c.calls,) if least_tried else ()
    moment = now(connection)
    due = entries.c.due_at <= moment
    first = (
        sa.select(entries.c.id)
        .where(entries.c.state == "pending", due | (entries.c.due_at > moment + LONGEST_WAIT))
        .order_by(*by_calls, entries.c.priority.desc(), entries.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    mark = (
        sa.update(entries)
        .where(entries.c.id == first.scalar_subquery())
        .values(
            state="sending",
            owner=owner,
            calls=entries.c.calls + 1,
            changed_at=moment,
            sent_at=moment,
        )
        .returning(
            entries.c.id,
            entries.c.calls,
            entries.c.failures,
            entries.c.payload,
            (sa.func.coalesce(entries.c.error_type, "") == DeliveryUncertain.__name__).label(
                "in_doubt"
            ),
        )
    )
    row = (await connection.execute(mark)).one_or_none()
    if row is None:
        return None
    await add_changes(connection, [row.id], "sending", f"call {row.calls}")
    return Claim(row.id, owner, row.calls, row.failures, bool(row.in_doubt), row.payload)


async def record(
    connection: AsyncConnection,
    claimed: Claim,
    state: EntryState,
    *,
    request_id: str | None = None,
    error: LeadpostError | None = None,
    due_in: float = 0.0,
    failed: bool = False,
) -> bool:
    """
    Set down what became of a call.

    Args:
        connection: Where to.
        claimed: The call's entry.
        state: Its state from now on.
        request_id: The vendor's RequestID.
        error: Why there is none.
        due_in: Seconds until it is to be sent again, or asked about.
        failed: Whether the call counts as a failure.

    Returns:
        Whether the entry was still the caller's; if not, another call was made for it meanwhile,
        and only the list of changes tells of this one.
    """
    moment = now(connection)
    update = (
        sa.update(entries)
        .where(
            entries.c.id == claimed.id,
            entries.c.owner == claimed.owner,
            entries.c.calls == claimed.calls,
        )
        .values(
            state=state,
            changed_at=moment,
            due_at=moment + due_in,
            failures=entries.c.failures + int(failed),
            request_id=request_id,
            error_type=type(error).__name__ if error is not None else None,
            message=str(error) if error is not None else None,
        )
    )
    mine = (await connection.execute(update)).rowcount == 1
    note = f"RequestID {request_id}" if request_id else str(error)
    await add_changes(connection, [claimed.id], state, note)
    return mine


def state_of(error: LeadpostError) -> EntryState:
    """Give the state of an entry that will not be sent again for now."""
    match error.state:
        case "rejected" | "uncertain" as state:
            return state
        case _:
            return "failed"


async def unclaim(connection: AsyncConnection, owner: str, known: Collection[int]) -> int:
    """
    Make pending again what a worker has claimed without knowing it, and tell how many were so.

    The connection was lost while the claim was committed: the worker made no call for it.
    """
    moment = now(connection)
    update = (
        sa.update(entries)
        .where(entries.c.state == "sending", entries.c.owner == owner, entries.c.id.not_in(known))
        .values(state="pending", changed_at=moment, due_at=moment)
        .returning(entries.c.id)
    )
    ids = list((await connection.execute(update)).scalars())
    await add_changes(connection, ids, "pending", "no call was made")
    return len(ids)


async def renew(connection: AsyncConnection, worker: str, lease: float) -> None:
    """Tell that a worker is alive, for so many seconds."""
    until = {"lease_until": now(connection) + lease}
    update = sa.update(workers).where(workers.c.id == worker).values(until)
    if (await connection.execute(update)).rowcount == 0:
        await connection.execute(sa.insert(workers).values(id=worker, **until))


async def leave(connection: AsyncConnection, worker: str) -> None:
    """Tell that a worker has ended."""
    await connection.execute(sa.delete(workers).where(workers.c.id == worker))


async def count_workers(connection: AsyncConnection) -> int:
    """Count the workers that are alive."""
    query = sa.select(sa.func.count()).where(_is_alive(now(connection)))
    return int((await connection.execute(query)).scalar_one())


def _is_alive(moment: sa.ColumnElement[float]) -> sa.ColumnElement[bool]:
    # A lease that ends later than any could was made before the clock went back.
    return workers.c.lease_until.between(moment, moment + LONGEST_WAIT)


async def abandon(connection: AsyncConnection) -> int:
    """Make uncertain what is being sent by workers that are gone, and tell how many were so."""
    moment = now(connection)
    alive = sa.select(workers.c.id).where(_is_alive(moment))
    update = (
        sa.update(entries)
        .where(entries.c.state == "sending", entries.c.owner.not_in(alive))
        .values(
            state="uncertain",
            changed_at=moment,
            error_type=DeliveryUncertain.__name__,
            message="the worker that sent it is gone: it may have arrived",
        )
        .returning(entries.c.id)
    )
    ids = list((await connection.execute(update)).scalars())
    await add_changes(connection, ids, "uncertain", "its worker is gone")
    await connection.execute(
        sa.delete(workers).where(workers.c.lease_until < moment - 24 * LONGEST_WAIT)
    )
    return len(ids)
