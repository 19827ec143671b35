"""The statements that make entries pending again: as they were, or corrected."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.errors import KeyConflict
from leadpost.outbox.entries import KEYS_TOLD, EntryState, add_changes
from leadpost.outbox.schema import entries
from leadpost.outbox.store import now


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
        .where(entries.c.id > after, entries.c.state.in_(states))
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
) -> None:
    """
    Give entries another activity each, and make them pending again.

    Args:
        connection: Where.
        corrections: By key, at most 500, the activity as JSON.
        states: The states in which they may be.
        calls: By key, how many calls may have been made for it; None for any number.

    Raises:
        KeyConflict: one is not there, in another state, or was sent since.
    """
    names = "id", "key", "payload", "earlier", "state", "calls"
    query = (
        sa.select(*[entries.c[name] for name in names])
        .where(entries.c.key.in_(list(corrections)))
        .order_by(entries.c.id)
        .with_for_update()
    )
    found = {row.key: row for row in await connection.execute(query)}
    conflicts = [
        key
        for key in corrections
        if (row := found.get(key)) is None
        or row.state not in states
        or (calls is not None and row.calls != calls.get(key))
    ]
    if conflicts:
        raise KeyConflict(
            f"{len(conflicts)} of the keys are of no entry that may be corrected: there is none, or"
            " its state is another, or it was sent since; nothing was corrected",
            keys=conflicts[:KEYS_TOLD],
        )
    update = (
        sa.update(entries)
        .where(entries.c.id == sa.bindparam("of"))
        .values(_again(connection))
        .values(payload=sa.bindparam("corrected"), earlier=sa.bindparam("until_now"))
    )
    values = [
        {"of": row.id, "corrected": corrections[key], "until_now": _earlier(row, corrections[key])}
        for key, row in found.items()
    ]
    await connection.execute(update, values)
    await add_changes(connection, [row.id for row in found.values()], "pending", "corrected")


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


def _earlier(entry: sa.Row[Any], payload: str) -> str | None:
    """Add an entry's payload to those before it, if it is to be another one."""
    held = json.loads(entry.payload)
    if json.loads(payload) == held:
        earlier: str | None = entry.earlier
        return earlier
    return json.dumps([*json.loads(entry.earlier or "[]"), held], ensure_ascii=False)
