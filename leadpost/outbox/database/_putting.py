"""
Statements that put entries.

They are synchronous, for both kinds of connections, and built by SQLAlchemy, for any driver.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from attrs import field, frozen
from sqlalchemy.dialects import postgresql, sqlite

from leadpost._validation import is_mapping
from leadpost.errors import KeyConflict
from leadpost.outbox.database._entries import KEYS_SHOWN, loaded, of_keys, parts
from leadpost.outbox.database._sql import execute, is_sqlite


@frozen
class New:
    """An entry to put: an activity as JSON, with its key and priority."""

    activity: str = field(repr=False)
    key: str | None
    priority: int


entries = sa.table(
    "leadpost_entries",
    sa.column("id", sa.BigInteger),
    *map(sa.column, ("account", "key", "activity", "priority")),
)


class _Hidden(str):
    """Text that no log of a caller's driver shows: aiosqlite logs all values at DEBUG."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


def _insert(connection: sa.Connection) -> Any:
    """Build an INSERT that leaves an existing entry of the same key unchanged."""
    insert = sqlite.insert(entries) if is_sqlite(connection) else postgresql.insert(entries)
    unless_known = insert.on_conflict_do_nothing(index_elements=["account", "key"])
    return unless_known.returning(entries.c.id)


def _row(account: str, new: New) -> dict[str, Any]:
    return {
        "account": account,
        "key": None if new.key is None else _Hidden(new.key),
        "activity": _Hidden(new.activity),
        "priority": new.priority,
    }


def put_one(connection: sa.Connection, account: str, new: New) -> int:
    """
    Insert an entry, or keep the existing one of its key, and return its id.

    Raises:
        KeyConflict: the entry of this key has another activity.
    """
    row = _row(account, new)
    while True:  # until it is neither inserted nor known because it was pruned in between
        inserted: int | None = connection.execute(_insert(connection), row).scalar()
        if inserted is not None:
            return inserted
        if known := _known(connection, account, [row]):
            return known[str(new.key)]


def put_many(connection: sa.Connection, account: str, news: Sequence[New]) -> int:
    """
    Insert entries, and keep existing ones of the same keys.

    Returns:
        The number of new entries.

    Raises:
        KeyConflict: the entry of a key has another activity.
    """
    rows = [_row(account, new) for new in news]
    if not is_sqlite(connection):
        # Inserted in the order of their keys, so that two callers cannot wait for each other, but
        # with ids in the order of the input.
        numbers = sa.text(
            "SELECT nextval(pg_get_serial_sequence('leadpost_entries', 'id'))"
            " FROM generate_series(1, :count)"
        )
        found = connection.execute(numbers, {"count": len(rows)}).scalars().all()
        for row, number in zip(rows, found, strict=True):
            row["id"] = number
        rows.sort(key=lambda row: row["key"] or "")
    return sum(_put_part(connection, account, part) for part in parts(rows))


def _put_part(connection: sa.Connection, account: str, rows: Sequence[dict[str, Any]]) -> int:
    inserted = len(connection.execute(_insert(connection), rows).all())
    if inserted == len(rows):
        return inserted
    known = _known(connection, account, rows)
    pruned = [row for row in rows if row["key"] is not None and row["key"] not in known]
    return inserted + (_put_part(connection, account, pruned) if pruned else 0)


def _known(
    connection: sa.Connection, account: str, rows: Sequence[dict[str, Any]]
) -> dict[str, int]:
    """Compare rows with the existing entries of their keys, and return the entries' ids."""
    wanted = {row["key"]: row["activity"] for row in rows if row["key"] is not None}
    query = of_keys(connection, "entry.key, entry.id, entry.activity")
    found = execute(connection, query, account=account, keys=_Hidden(json.dumps([*wanted]))).all()
    activities = {row.key: row.activity for row in found}
    conflicts = {
        row["key"]: row["activity"]
        for row in rows
        if row["key"] in activities and not is_same(activities[row["key"]], row["activity"])
    }
    if conflicts:
        key, activity = next(iter(conflicts.items()))
        names = _differing(activities[key], activity)
        those = (
            f"the key belongs to another activity (different: {names})"
            if len(rows) == 1
            else f"{len(conflicts)} of the keys belong to other activities (different in the first"
            f" one: {names})"
        )
        raise KeyConflict(f"{those}; nothing was put", keys=list(conflicts)[:KEYS_SHOWN])
    return {row.key: row.id for row in found}


def is_same(one: str, other: str) -> bool:
    """Whether two texts are the same JSON; 1 and true, which are equal in Python, are not."""
    return one == other or _sorted(loaded(one)) == _sorted(loaded(other))


def _differing(one: str, other: str) -> str:
    """Name the parameters in which two activities differ, without their values."""
    before, after = (
        {name: _sorted(value) for name, value in activity.items()} if is_mapping(activity) else {}
        for activity in (loaded(one), loaded(other))
    )
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(names)


def _sorted(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def put_many_within(connection: sa.Connection, account: str, news: Sequence[New]) -> int:
    """Put entries within the caller's transaction, which is unchanged if this raises."""
    if is_sqlite(connection):
        # sqlite3 begins a transaction only before an INSERT. A savepoint before that would be the
        # transaction itself, and its release would commit it.
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            connection.exec_driver_sql("BEGIN")
    with connection.begin_nested():
        return put_many(connection, account, news)
