"""Entries: putting them, and asking for them."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa
from attrs import field, frozen
from attrs import fields as attrs_of
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost._validation import is_mapping
from leadpost.errors import KeyConflict
from leadpost.outbox.database._schema import accounts, changes, counts, entries, now

EntryState = Literal[
    "pending", "sending", "accepted", "succeeded", "failed", "rejected", "uncertain"
]
STATES: tuple[EntryState, ...] = get_args(EntryState)
"""Every state, in the order of an entry's life."""
FINISHED: tuple[EntryState, ...] = ("succeeded", "failed", "rejected")
PART = 500
"""Entries or keys that one statement is about at most."""
KEYS_SHOWN = 20
"""Keys that an error names at most."""


@frozen
class Entry:
    """
    One activity in an outbox.

    Attributes:
        id: Its number, in the order of putting.
        key: The caller's name for it, None without one.
        priority: The higher, the sooner it is sent.
        state: `pending` (to be sent), `sending` (a call is in flight), `accepted` (LeadSquared's
            queue has it, under the RequestID), `succeeded` (the lead has it), `failed` (surely not
            on the lead), `rejected` (LeadSquared refused it, and would again), `uncertain` (may
            have arrived).
        activity: The activity in LeadSquared's JSON shape. One that was inserted by others may be
            any JSON value.
        put_at: When it was put.
        changed_at: When its state changed last.
        calls: How many calls were made for it.
        request_id: LeadSquared's RequestID.
        activity_id: The id of the activity, once it is known.
        error_type: Why it is in its state: the name of an error class of `leadpost`.
        message: The same in words, LeadSquared's among them.
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
        state: The state from then on.
        at: When it was.
        note: What there is to say about it.
    """

    state: EntryState
    at: datetime
    note: str | None = field(default=None, repr=False)


@frozen
class Health:
    """
    How an account's entries, and whoever posts them, are doing.

    Attributes:
        counts: The number of entries in each state.
        oldest_pending: Seconds since the oldest pending entry was put, None if none is pending.
        is_working: Whether a worker has been seen within the last minute.
        away_since: Since when LeadSquared has been away, None if it is not, as far as the workers
            know.
    """

    counts: Mapping[EntryState, int]
    oldest_pending: float | None
    is_working: bool
    away_since: datetime | None


@frozen
class New:
    """What is put: an activity as JSON, with its key and priority."""

    activity: str = field(repr=False)
    key: str | None
    priority: int


_NAMES = tuple(attribute.name for attribute in attrs_of(Entry))
_KEY = entries.c.account, entries.c.key
_COLUMNS: list[sa.ColumnElement[Any]] = [entries.c[name] for name in _NAMES]


def moment(seconds: float) -> datetime:
    """Return a time of the database's as an aware date-time."""
    return datetime.fromtimestamp(seconds, UTC)


def loaded(activity: str) -> Any:
    """Return an activity of the table; as text, if Python cannot read what the database took."""
    try:
        return json.loads(activity)
    except (ValueError, RecursionError):
        return activity


def _entry(row: sa.Row[Any]) -> Entry:
    values: dict[str, Any] = dict(zip(_NAMES, row, strict=True))
    values["activity"] = loaded(values["activity"])
    for name in ("put_at", "changed_at"):
        values[name] = moment(values[name])
    return Entry(**values)


def insert_into(
    dialect: sa.Dialect, table: sa.Table, *key: sa.Column[Any]
) -> postgresql.Insert | sqlite.Insert:
    """Build an INSERT that leaves a row of the same key as it is; by default the primary key."""
    columns = key or tuple(table.primary_key)
    if dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing(columns)
    return postgresql.insert(table).on_conflict_do_nothing(index_elements=columns)


def _row(account: str, new: New) -> dict[str, Any]:
    return {
        "account": account,
        "key": new.key,
        "activity": new.activity,
        "priority": new.priority,
    }


def put_one(connection: sa.Connection, account: str, new: New) -> int:
    """
    Insert an entry, or leave the one of its key as it is, and return its id.

    Synchronous, for connections of either kind.

    Raises:
        KeyConflict: the entry of this key has another activity.
    """
    row = _row(account, new)
    insert = insert_into(connection.dialect, entries, *_KEY).returning(entries.c.id)
    inserted: int | None = connection.execute(insert, row).scalar()
    return _check_known(connection, account, [row])[0] if inserted is None else inserted


def put_many(connection: sa.Connection, account: str, news: Sequence[New]) -> int:
    """
    Insert entries, and leave those of known keys as they are.

    Returns:
        How many are new.

    Raises:
        KeyConflict: the entry of a key has another activity.
    """
    rows = [_row(account, new) for new in news]
    if connection.dialect.name == "postgresql":
        # Inserted in the order of their keys, so that two callers cannot wait for each other, but
        # numbered in the order in which they came.
        numbers = sa.func.nextval(sa.func.pg_get_serial_sequence(entries.name, "id"))
        query = sa.select(numbers).select_from(sa.func.generate_series(1, len(rows)))
        for row, number in zip(rows, connection.execute(query).scalars().all(), strict=True):
            row["id"] = number
        rows.sort(key=lambda row: row["key"] or "")
    insert = insert_into(connection.dialect, entries, *_KEY).returning(entries.c.id)
    put = 0
    for first in range(0, len(rows), PART):
        part = rows[first : first + PART]
        inserted = len(connection.execute(insert, part).all())
        if inserted < len(part):
            _check_known(connection, account, part)
        put += inserted
    return put


def _check_known(
    connection: sa.Connection, account: str, rows: Sequence[dict[str, Any]]
) -> list[int]:
    """Compare what is put with the entries of its keys, and return their ids."""
    wanted = {row["key"]: row["activity"] for row in rows if row["key"] is not None}
    query = _of_keys(
        connection.dialect,
        account,
        list(wanted),
        [entries.c[name] for name in ("key", "id", "activity")],
    )
    found = connection.execute(query).all()
    activities = {row.key: row.activity for row in found}
    conflicts = {
        row["key"]: row["activity"]
        for row in rows
        if row["key"] is not None and not is_same(activities[row["key"]], row["activity"])
    }
    if conflicts:
        key, activity = next(iter(conflicts.items()))
        names = _differing(activities[key], activity)
        those = (
            f"the key is taken by another activity (different: {names})"
            if len(rows) == 1
            else f"{len(conflicts)} of the keys are taken by other activities (of the first one,"
            f" different: {names})"
        )
        raise KeyConflict(f"{those}; nothing was put", keys=list(conflicts)[:KEYS_SHOWN])
    return [row.id for row in found]


def _of_keys(
    dialect: sa.Dialect,
    account: str,
    keys: Sequence[str],
    columns: Sequence[sa.ColumnElement[Any]],
) -> sa.Select[Any]:
    """Build a query for the entries of at most 500 keys."""
    if dialect.name == "sqlite":
        return sa.select(*columns).where(entries.c.account == account, entries.c.key.in_(keys))
    # Key by key. PostgreSQL has no statistics of what was put just now, and would rather read all
    # entries of the account than look for 500 keys.
    array = sa.literal(list(keys), postgresql.ARRAY(sa.Text))
    wanted = sa.func.unnest(array).table_valued("wanted_key").render_derived()
    entry = (
        sa.select(*columns)
        .where(entries.c.account == account, entries.c.key == wanted.c.wanted_key)
        .limit(1)
        .lateral()
    )
    return sa.select(entry).select_from(wanted.join(entry, sa.true()))


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


async def find(connection: AsyncConnection, account: str, keys: Sequence[str]) -> dict[str, Entry]:
    """Return the entries of these keys, at most 500, by key."""
    query = _of_keys(connection.dialect, account, keys, _COLUMNS)
    found = [_entry(row) for row in await connection.execute(query)]
    return {entry.key: entry for entry in found if entry.key is not None}


async def page(
    connection: AsyncConnection,
    account: str,
    *,
    states: Sequence[EntryState],
    after: int,
    key_prefix: str | None,
    limit: int,
) -> list[Entry]:
    """Return the first entries in these states whose id is above `after`."""
    is_sqlite = connection.dialect.name == "sqlite"
    parts: list[sa.Select[Any]] = []
    for state in states:  # one by one: an index has each state's entries in the order of their ids
        part = _in_order(state, after, is_sqlite=is_sqlite).where(entries.c.account == account)
        if key_prefix is not None:
            part = part.where(begins_with(key_prefix))
        first = part.limit(limit).subquery()
        parts.append(sa.select(first.c.id))
    ids = sa.union_all(*parts).subquery()
    first_ids = sa.select(ids.c.id).order_by(ids.c.id).limit(limit)
    if is_sqlite:
        query = sa.select(*_COLUMNS).where(entries.c.id.in_(first_ids)).order_by(entries.c.id)
    else:
        # Id by id: PostgreSQL might merge them with all entries, from the very first one on.
        wanted = first_ids.subquery()
        entry = sa.select(*_COLUMNS).where(entries.c.id == wanted.c.id).limit(1).lateral()
        query = sa.select(entry).select_from(wanted.join(entry, sa.true())).order_by(wanted.c.id)
    return [_entry(row) for row in await connection.execute(query)]


def _in_order(state: EntryState, after: int, *, is_sqlite: bool) -> sa.Select[Any]:
    """Build a query for the ids above `after` of the entries in one state."""
    if is_sqlite:
        return (
            sa.select(entries.c.id)
            .where(entries.c.state == state, entries.c.id > after)
            .order_by(entries.c.id)
        )
    # In the order of state and id, which only the index of both has. In that of the ids, PostgreSQL
    # might read the primary key, and with it all the entries of other states that come before.
    place = sa.tuple_(entries.c.state, entries.c.id)
    return (
        sa.select(entries.c.id)
        .where(place > sa.tuple_(state, after), entries.c.state <= state)
        .order_by(entries.c.state, entries.c.id)
    )


def begins_with(key_prefix: str) -> sa.ColumnElement[bool]:
    """Build the condition that an entry's key begins with a prefix."""
    # SQLite's LIKE takes capital letters for small ones.
    return sa.func.substr(entries.c.key, 1, len(key_prefix)) == key_prefix


async def count(
    connection: AsyncConnection,
    account: str,
    key_prefix: str | None = None,
    keys: Sequence[str] | None = None,
) -> dict[EntryState, int]:
    """Count the entries by state: all, those with a prefix, or those of at most 500 keys."""
    query = sa.select(counts.c.state, sa.func.sum(counts.c.entries)).where(
        counts.c.account == account
    )
    if keys is not None:
        of_keys = _of_keys(connection.dialect, account, keys, [entries.c.state]).subquery()
        query = sa.select(of_keys.c.state, sa.func.count())
    elif key_prefix is not None:
        query = sa.select(entries.c.state, sa.func.count()).where(
            entries.c.account == account, begins_with(key_prefix)
        )
    query = query.group_by(sa.text("1"))
    found = {row[0]: int(row[1]) for row in await connection.execute(query)}
    return {state: found.get(state, 0) for state in STATES}


async def count_of_others(connection: AsyncConnection, account: str) -> dict[str, int]:
    """Count the entries of other accounts that are not finished."""
    number = sa.func.sum(counts.c.entries)
    query = (
        sa.select(counts.c.account, number)
        .where(counts.c.account != account, counts.c.state.not_in(FINISHED))
        .group_by(counts.c.account)
        .having(number > 0)
    )
    return {row[0]: int(row[1]) for row in await connection.execute(query)}


async def oldest_pending(connection: AsyncConnection, account: str) -> float | None:
    """Return the seconds since the oldest pending entry was put, None if there is none."""
    query = (
        sa.select(now() - entries.c.put_at)
        .where(entries.c.account == account, entries.c.state == "pending")
        .order_by(entries.c.id)
        .limit(1)
    )
    seconds: float | None = (await connection.execute(query)).scalar()
    return None if seconds is None else max(seconds, 0.0)


async def health(connection: AsyncConnection, account: str, seen_within: float) -> Health:
    """Return how the account's entries and workers are doing."""
    query = sa.select(accounts.c.worker_seen_at > now() - seen_within, accounts.c.away_since).where(
        accounts.c.account == account
    )
    row = (await connection.execute(query)).one_or_none()
    return Health(
        counts=await count(connection, account),
        oldest_pending=await oldest_pending(connection, account),
        is_working=bool(row and row[0]),
        away_since=moment(row[1]) if row and row[0] and row[1] is not None else None,
    )


async def history(connection: AsyncConnection, account: str, entry_id: int) -> list[Change]:
    """Return every change of an entry's state, the putting first."""
    put = sa.select(entries.c.put_at).where(entries.c.account == account, entries.c.id == entry_id)
    put_at: float | None = (await connection.execute(put)).scalar()
    if put_at is None:
        return []
    query = (
        sa.select(changes.c.state, changes.c.at, changes.c.note)
        .where(changes.c.entry_id == entry_id)
        .order_by(changes.c.id)
    )
    found = [Change(row[0], moment(row[1]), row[2]) for row in await connection.execute(query)]
    return [Change("pending", moment(put_at)), *found]


async def add_changes(
    connection: AsyncConnection, ids: Sequence[int], state: EntryState, note: str
) -> None:
    """Add to the history that these entries came into a state, and why."""
    if ids:
        rows = [{"entry_id": id_, "state": state, "note": note} for id_ in ids]
        await connection.execute(sa.insert(changes), rows)
