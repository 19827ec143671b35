"""The statements for what was looked into: entries are pending again, corrected, or there."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.errors import DeliveryUncertain, KeyConflict
from leadpost.outbox.entries import (
    KEYS_TOLD,
    NOTHING,
    EntryState,
    New,
    add_changes,
    same,
    values_of,
)
from leadpost.outbox.schema import entries
from leadpost.outbox.store import clock, now


async def put_back(
    connection: AsyncConnection,
    *,
    states: Sequence[EntryState],
    ids: Sequence[int] | None = None,
    after: int = 0,
    limit: int,
) -> list[int]:
    """
    Make the first entries in these states whose id is above `after` pending again.

    Args:
        connection: Where.
        states: The states.
        ids: Only these, at most 500.
        after: An id.
        limit: How many at most.

    Returns:
        The ids of those that were.
    """
    query = (
        sa.select(entries.c.id)
        .where(entries.c.id > after, entries.c.state.in_(states), entries.c.payload != NOTHING)
        .order_by(entries.c.id)
        .limit(limit)
        .with_for_update()
    )
    if ids is not None:
        query = query.where(entries.c.id.in_(ids))
    found = list((await connection.execute(query)).scalars())
    update = sa.update(entries).where(entries.c.id.in_(found))
    await connection.execute(update.values(_again(connection)))
    await add_changes(connection, found, "pending", "put back")
    return found


async def correct(
    connection: AsyncConnection,
    corrections: Mapping[str, str],
    *,
    states: Collection[EntryState],
    calls: Mapping[str, int] | None,
    originals: Mapping[str, str],
) -> None:
    """
    Give entries another activity each, and make them pending again.

    Args:
        connection: Where.
        corrections: By key, at most 500, the activity as JSON.
        states: The states in which they may be.
        calls: By key, how many calls may have been made for it; None for any number. One for which
            none were made is put if it is not there.
        originals: By key, what is from now on taken for what was put.

    Raises:
        KeyConflict: one is not there, in another state, or was sent since.
    """
    names = "id", "key", "payload", "original", "owner", "error_type", "message", "state", "calls"
    query = (
        sa.select(*[entries.c[name] for name in names])
        .where(entries.c.key.in_(list(corrections)))
        .order_by(entries.c.key)
        .with_for_update()
    )
    found = {row.key: row for row in await connection.execute(query)}
    missing = [key for key in corrections if key not in found]
    conflicts = [key for key in missing if calls is None or calls.get(key) != 0]
    conflicts += [
        key
        for key, row in found.items()
        if row.state not in states
        or row.payload == NOTHING
        or (calls is not None and row.calls != calls.get(key))
    ]
    if conflicts:
        raise KeyConflict(
            f"{len(conflicts)} of the keys are of no entry that may be corrected: there is none, or"
            " its state is another, or it was sent since; nothing was corrected",
            keys=conflicts[:KEYS_TOLD],
        )
    moment = await clock(connection)
    if missing:
        new = [values_of(New(corrections[key], key, 0), moment) for key in missing]
        for one in new:
            original = originals.get(one["key"], "null")
            one["original"] = original  # even if it is the same: what was corrected is to stay
        await connection.execute(sa.insert(entries), new)
    update = sa.update(entries).where(entries.c.id == sa.bindparam("of")).values(_again(connection))
    own = "payload", "original", "owner", "error_type", "message"
    update = update.values({name: sa.bindparam(f"new_{name}") for name in own})
    for note, is_same in (("put back", True), ("corrected", False)):
        chosen = [
            row for row in found.values() if same(row.payload, corrections[row.key]) == is_same
        ]
        if chosen:
            values = [
                _corrected(row, corrections[row.key], originals.get(row.key)) for row in chosen
            ]
            await connection.execute(update, values)
            await add_changes(connection, [row.id for row in chosen], "pending", note)


async def arrived(connection: AsyncConnection, ids: Sequence[int]) -> int:
    """Make those of at most 500 entries `succeeded` that are uncertain, and tell how many were."""
    update = (
        sa.update(entries)
        .where(entries.c.id.in_(ids), entries.c.state == "uncertain")
        .values(state="succeeded", changed_at=now(connection), error_type=None, message=None)
        .returning(entries.c.id)
    )
    found = list((await connection.execute(update)).scalars())
    await add_changes(connection, found, "succeeded", "seen on the lead")
    return len(found)


def _again(connection: AsyncConnection) -> dict[str, Any]:
    moment = now(connection)
    return {
        "state": "pending",
        "changed_at": moment,
        "due_at": moment,
        "request_id": None,
        "failures": 0,
        "checks": 0,
    }


def _corrected(entry: sa.Row[Any], payload: str, original: str | None) -> dict[str, Any]:
    """Give what becomes of the columns that depend on the entry."""
    is_same = same(entry.payload, payload)
    still_holds = is_same or entry.error_type == DeliveryUncertain.__name__
    original = str(original or entry.original or entry.payload)
    return {
        "of": entry.id,
        "new_payload": payload,
        "new_original": None if same(original, payload) else original,
        # An answer to an earlier call, if one comes still, is none to another activity.
        "new_owner": entry.owner if is_same else None,
        "new_error_type": entry.error_type if still_holds else None,
        "new_message": entry.message if still_holds else None,
    }
