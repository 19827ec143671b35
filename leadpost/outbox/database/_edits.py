"""What people change by hand: retry, replace, arrived, adopt, prune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.errors import DeliveryUncertain, KeyConflict
from leadpost.outbox.database._entries import (
    KEYS_SHOWN,
    PART,
    EntryState,
    add_changes,
    is_same,
)
from leadpost.outbox.database._schema import accounts, changes, entries, now

REPLACEABLE: tuple[EntryState, ...] = ("pending", "failed", "rejected")
"""States in which an entry surely did not get through."""

_AGAIN = {
    "state": "pending",
    "changed_at": now(),
    "due_at": 0,
    "request_id": None,
    "failures": 0,
    "checks": 0,
}


async def retry(
    connection: AsyncConnection,
    account: str,
    *,
    states: Sequence[EntryState],
    ids: Sequence[int] | None,
    after: int,
) -> list[int]:
    """
    Make the first entries in these states whose id is above `after` pending again.

    Args:
        connection: Where.
        account: Whose.
        states: The states.
        ids: Only these entries, at most 500; None for any.
        after: An id.

    Returns:
        The ids of those that are pending now.
    """
    query = (
        sa.select(entries.c.id)
        .where(entries.c.account == account, entries.c.id > after, entries.c.state.in_(states))
        .order_by(entries.c.id)
        .limit(PART)
        .with_for_update()
    )
    if ids is not None:
        query = query.where(entries.c.id.in_(ids))
    found = list((await connection.execute(query)).scalars())
    await connection.execute(sa.update(entries).where(entries.c.id.in_(found)).values(_AGAIN))
    await add_changes(connection, found, "pending", "retried by hand")
    return found


async def replace(connection: AsyncConnection, account: str, activities: Mapping[str, str]) -> None:
    """
    Give entries another activity each, and make them pending again.

    Args:
        connection: Where.
        account: Whose.
        activities: By key, the activity as JSON; in the order of the keys, so that two callers
            cannot wait for each other.

    Raises:
        KeyConflict: one is not there, or may have got through; then none was replaced.
    """
    keys = sorted(activities)
    for first in range(0, len(keys), PART):
        part = keys[first : first + PART]
        query = (
            sa.select(
                entries.c.key,
                entries.c.id,
                entries.c.state,
                entries.c.error_type,
                entries.c.activity,
            )
            .where(entries.c.account == account, entries.c.key.in_(part))
            .order_by(entries.c.key)
            .with_for_update()
        )
        found = {row.key: row for row in await connection.execute(query)}
        conflicts = [
            key
            for key in part
            if key not in found
            or found[key].state not in REPLACEABLE
            # A pending entry may be in doubt, if posts in doubt are repeated.
            or found[key].error_type == DeliveryUncertain.__name__
        ]
        if conflicts:
            raise KeyConflict(
                f"{len(conflicts)} keys cannot be replaced: unknown, or already sent; nothing was"
                " replaced",
                keys=conflicts[:KEYS_SHOWN],
            )
        update = (
            sa.update(entries)
            .where(entries.c.id == sa.bindparam("of"))
            .values(
                **_AGAIN,
                activity=sa.bindparam("new_activity"),
                # An answer to an earlier call, if one still comes, is not about this activity.
                call_id=sa.case(
                    (entries.c.activity == sa.bindparam("new_activity"), entries.c.call_id),
                    else_=None,
                ),
                error_type=None,
                message=None,
            )
        )
        values = [{"of": found[key].id, "new_activity": activities[key]} for key in part]
        await connection.execute(update, values)
        for note, same in (("retried by hand", True), ("replaced", False)):
            ids = [
                row.id
                for key, row in found.items()
                if is_same(row.activity, activities[key]) is same
            ]
            await add_changes(connection, ids, "pending", note)


async def arrived(connection: AsyncConnection, account: str, ids: Sequence[int]) -> int:
    """Make those of at most 500 entries `succeeded` that are uncertain; return their number."""
    update = (
        sa.update(entries)
        .where(entries.c.account == account, entries.c.id.in_(ids), entries.c.state == "uncertain")
        .values(state="succeeded", changed_at=now(), error_type=None, message=None)
        .returning(entries.c.id)
    )
    found = list((await connection.execute(update)).scalars())
    await add_changes(connection, found, "succeeded", "seen on the lead")
    return len(found)


async def fingerprint_of(connection: AsyncConnection, account: str) -> str | None:
    """Return the fingerprint of the keys with which an account's entries are posted."""
    query = sa.select(accounts.c.fingerprint).where(accounts.c.account == account)
    found: str | None = (await connection.execute(query)).scalar()
    return found


async def adopt(
    connection: AsyncConnection, account: str, fingerprint: str | None, previous: str
) -> int:
    """
    Hand the entries of another account, or of this one's former keys, over to this account.

    Args:
        connection: Where.
        account: Whose they are from now on.
        fingerprint: Of its present keys, None if they are not known.
        previous: The other account, or the fingerprint of the former keys.

    Returns:
        The number of entries that changed hands.

    Raises:
        KeyConflict: both have entries of the same keys.
    """
    if fingerprint is not None:
        await connection.execute(
            sa.update(accounts)
            .where(accounts.c.account == account, accounts.c.fingerprint == previous)
            .values(fingerprint=fingerprint)
        )
    if previous == account:
        return 0
    ours = entries.alias()
    both = (
        sa.select(entries.c.key)
        .join(ours, sa.and_(ours.c.account == account, ours.c.key == entries.c.key))
        .where(entries.c.account == previous)
        .limit(KEYS_SHOWN)
    )
    if keys := list((await connection.execute(both)).scalars()):
        raise KeyConflict(
            "both accounts have entries of the same keys; none was adopted", keys=keys
        )
    update = sa.update(entries).where(entries.c.account == previous).values(account=account)
    return (await connection.execute(update)).rowcount


async def prune(connection: AsyncConnection, account: str, older_than: float) -> int:
    """Delete at most 500 entries that were finished so many seconds ago; return their number."""
    old = (
        sa.select(entries.c.id)
        .where(
            entries.c.account == account,
            # Written out, as only then a planner knows that the partial index will do.
            sa.text("state IN ('succeeded', 'failed', 'rejected')"),
            entries.c.changed_at < now() - older_than,
        )
        .order_by(entries.c.changed_at)
        .limit(PART)
        .with_for_update(skip_locked=True)  # or else one that is retried meanwhile went too
    )
    ids = list((await connection.execute(old)).scalars())
    await connection.execute(sa.delete(changes).where(changes.c.entry_id.in_(ids)))
    await connection.execute(sa.delete(entries).where(entries.c.id.in_(ids)))
    return len(ids)
