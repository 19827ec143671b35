# ruff: noqa: S608  these are statements, and nothing of a caller's is in them
"""Entries: statements that put and read them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, get_args

import sqlalchemy as sa
from attrs import field, frozen
from attrs import fields as attrs_of
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost._validation import is_mapping
from leadpost.errors import KeyConflict
from leadpost.outbox.database._sql import (
    Hidden,
    execute,
    execute_many,
    is_sqlite,
    prepared,
    storable,
)

EntryState = Literal[
    "pending", "sending", "accepted", "succeeded", "failed", "rejected", "uncertain"
]
STATES: tuple[EntryState, ...] = get_args(EntryState)
"""Every state, in the order of an entry's life."""
PART = 500
"""The most entries or keys of one statement."""
KEYS_SHOWN = 20
"""The most keys that an error names."""


@frozen
class Entry:
    """
    One activity in an outbox.

    Attributes:
        id: Its number, in the order in which entries were put.
        key: The caller's name for it, None without one.
        priority: Entries with a higher priority are sent sooner.
        state: `pending` (to be sent), `sending` (a call is in flight), `accepted` (in LeadSquared's
            queue, under the RequestID), `succeeded` (on the lead), `failed` (not on the lead),
            `rejected` (LeadSquared found it wrong, and would again), `uncertain` (may have
            arrived).
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
        away_since: When the outage of LeadSquared began, None without one, as far as workers know.
    """

    counts: Mapping[EntryState, int]
    oldest_pending: float | None
    is_working: bool
    away_since: datetime | None


@frozen
class New:
    """An entry to put: an activity as JSON, with its key and priority."""

    activity: str = field(repr=False)
    key: str | None
    priority: int


T = TypeVar("T")
AnyConnection = AsyncConnection | sa.Connection

_NAMES = tuple(attribute.name for attribute in attrs_of(Entry))
_COLUMNS = ", ".join(f"entry.{name}" for name in _NAMES)


def parts(items: Sequence[T]) -> list[list[T]]:
    """Divide items into parts of 500 for one statement each."""
    return [list(items[first : first + PART]) for first in range(0, len(items), PART)]


def moment(seconds: float) -> datetime:
    """Return a time of the database's as an aware date-time."""
    return datetime.fromtimestamp(seconds, UTC)


def loaded(activity: str) -> Any:
    """Return an activity of the table; as text, if Python cannot parse it."""
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


# Putting: synchronous, for both kinds of connections; built by SQLAlchemy, for any driver.


class _PrivateText(sa.TypeDecorator[str]):
    """Text that no log shows, see `Hidden`."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        del dialect
        return None if value is None else Hidden(value)


entries = sa.table(
    "leadpost_entries",
    sa.column("id", sa.BigInteger),
    sa.column("account"),
    sa.column("key", _PrivateText),
    sa.column("activity", _PrivateText),
    sa.column("priority"),
)


def _insert(connection: sa.Connection) -> Any:
    """Build an INSERT that leaves an existing entry of the same key unchanged."""
    insert = sqlite.insert(entries) if is_sqlite(connection) else postgresql.insert(entries)
    unless_known = insert.on_conflict_do_nothing(index_elements=["account", "key"])
    return unless_known.returning(entries.c.id)


def _row(account: str, new: New) -> dict[str, Any]:
    return {
        "account": account,
        "key": new.key,
        "activity": new.activity,
        "priority": new.priority,
    }


def put_one(connection: sa.Connection, account: str, new: New) -> int:
    """
    Insert an entry, or keep the existing one of its key, and return its id.

    Raises:
        KeyConflict: the entry of this key has another activity.
    """
    row = _row(account, new)
    inserted: int | None = connection.execute(_insert(connection), row).scalar()
    return _check_known(connection, account, [row])[0] if inserted is None else inserted


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
    put = 0
    for part in parts(rows):
        inserted = len(connection.execute(_insert(connection), part).all())
        if inserted < len(part):
            _check_known(connection, account, part)
        put += inserted
    return put


def _check_known(
    connection: sa.Connection, account: str, rows: Sequence[dict[str, Any]]
) -> list[int]:
    """Compare rows with the existing entries of their keys, and return the entries' ids."""
    wanted = {row["key"]: row["activity"] for row in rows if row["key"] is not None}
    query = _of_keys(connection, "entry.key, entry.id, entry.activity")
    values = {"account": account, "keys": json.dumps([*wanted])}
    found = connection.execute(*prepared(connection, query, values)).all()
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
            f"the key belongs to another activity (different: {names})"
            if len(rows) == 1
            else f"{len(conflicts)} of the keys belong to other activities (different in the first"
            f" one: {names})"
        )
        raise KeyConflict(f"{those}; nothing was put", keys=list(conflicts)[:KEYS_SHOWN])
    return [row.id for row in found]


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


# Reading.


def _each(connection: AnyConnection, wanted: str, condition: str, columns: str) -> str:
    """
    Build a query that looks up entries one by one, by an index.

    PostgreSQL has no statistics yet of new entries, and would rather read all entries of the
    account than look up 500.
    """
    if is_sqlite(connection):  # its CROSS JOIN keeps the order
        of_wanted = f"({wanted}) AS wanted CROSS JOIN leadpost_entries AS entry"
        return f"SELECT {columns} FROM {of_wanted} WHERE {condition}"
    one = f"SELECT * FROM leadpost_entries WHERE {condition} LIMIT 1"
    return f"SELECT {columns} FROM ({wanted}) AS wanted CROSS JOIN LATERAL ({one}) AS entry"


def _of_keys(connection: AnyConnection, columns: str) -> str:
    """Build the query for the entries of `:keys`, a list in JSON."""
    each = "json_each(:keys)"
    if not is_sqlite(connection):
        each = "json_array_elements_text(CAST(:keys AS JSON))"
    wanted = f"SELECT value AS wanted_key FROM {each}"
    return _each(connection, wanted, "account = :account AND key = wanted_key", columns)


async def find(connection: AsyncConnection, account: str, keys: Sequence[str]) -> dict[str, Entry]:
    """Return the entries of these keys, at most 500, by key."""
    query = _of_keys(connection, _COLUMNS)
    found = await execute(connection, query, account=account, keys=json.dumps(keys))
    return {entry.key: entry for entry in map(_entry, found) if entry.key is not None}


async def page(
    connection: AsyncConnection,
    account: str,
    *,
    states: Sequence[EntryState],
    after: int,
    key_prefix: str,
    limit: int,
) -> list[Entry]:
    """Return the first entries in these states whose id is above `after`."""
    # State by state: an index contains each state's entries in the order of their ids.
    condition, order = "state = :state_{0} AND id > :after", "id"
    if not is_sqlite(connection):
        # Ordered by state and id, as only that index is. Ordered by id, PostgreSQL might read the
        # primary key, and with it all entries of other states in between.
        condition = "(state, id) > (:state_{0}, :after) AND state <= :state_{0}"
        order = "state, id"
    parts = [
        f"""
        SELECT id FROM (
            SELECT id FROM leadpost_entries
            WHERE account = :account AND {condition.format(number)}
                AND coalesce(substr(key, 1, length(:prefix)), '') = :prefix
            ORDER BY {order} LIMIT :limit
        ) AS of_state_{number}
        """
        for number in range(len(states))
    ]
    wanted = f"SELECT id AS wanted_id FROM ({' UNION ALL '.join(parts)}) AS found"
    wanted += " ORDER BY id LIMIT :limit"
    query = _each(connection, wanted, "id = wanted_id", _COLUMNS) + " ORDER BY wanted_id"
    values: dict[str, Any] = {f"state_{number}": state for number, state in enumerate(states)}
    values |= {"account": account, "after": after, "prefix": key_prefix, "limit": limit}
    return [_entry(row) for row in await execute(connection, query, **values)]


async def count(
    connection: AsyncConnection, account: str, key_prefix: str = ""
) -> dict[EntryState, int]:
    """Count the entries by state: all, or those whose key has a prefix."""
    if key_prefix:
        query = """
            SELECT state, count(*) FROM leadpost_entries
            WHERE account = :account AND substr(key, 1, length(:prefix)) = :prefix GROUP BY state
        """
        rows = await execute(connection, query, account=account, prefix=key_prefix)
    else:
        query = """
            SELECT state, sum(entries) FROM leadpost_counts WHERE account = :account GROUP BY state
        """
        rows = await execute(connection, query, account=account)
    found = {row[0]: int(row[1]) for row in rows}
    return {state: found.get(state, 0) for state in STATES}


async def count_of_others(connection: AsyncConnection, account: str) -> dict[str, int]:
    """Count the entries of other accounts that are not finished."""
    query = """
        SELECT account, sum(entries) FROM leadpost_counts
        WHERE account <> :account AND state NOT IN ('succeeded', 'failed', 'rejected')
        GROUP BY account HAVING sum(entries) > 0
    """
    return {row[0]: int(row[1]) for row in await execute(connection, query, account=account)}


async def health(connection: AsyncConnection, account: str, seen_within: float) -> Health:
    """Return the condition of the account's entries and workers."""
    oldest = """
        SELECT {now} - put_at FROM leadpost_entries
        WHERE account = :account AND state = 'pending' ORDER BY id LIMIT 1
    """
    seconds: float | None = (await execute(connection, oldest, account=account)).scalar()
    worker = """
        SELECT away_since FROM leadpost_accounts
        WHERE account = :account AND worker_seen_at > {now} - :seen_within
    """
    values = {"account": account, "seen_within": seen_within}
    seen = (await execute(connection, worker, **values)).one_or_none()
    return Health(
        counts=await count(connection, account),
        oldest_pending=None if seconds is None else max(seconds, 0.0),
        is_working=seen is not None,
        away_since=moment(seen[0]) if seen is not None and seen[0] is not None else None,
    )


async def history(connection: AsyncConnection, account: str, entry_id: int) -> list[Change]:
    """Return every change of an entry's state, oldest first."""
    query = """
        SELECT 'pending' AS state, put_at AS at, NULL AS note, 0 AS id FROM leadpost_entries
        WHERE account = :account AND id = :id
        UNION ALL
        SELECT change.state, change.at, change.note, change.id FROM leadpost_entries AS entry
        JOIN leadpost_changes AS change ON change.entry_id = entry.id
        WHERE entry.account = :account AND entry.id = :id
        ORDER BY 4
    """
    found = await execute(connection, query, account=account, id=entry_id)
    return [Change(row.state, moment(row.at), row.note) for row in found]


async def add_changes(
    connection: AsyncConnection, ids: Iterable[int], state: EntryState, note: str
) -> int:
    """Add the new state of entries, and the reason, to their histories; return their number."""
    rows = [{"id": id_, "state": state, "note": storable(note)} for id_ in ids]
    insert = "INSERT INTO leadpost_changes (entry_id, state, note) VALUES (:id, :state, :note)"
    await execute_many(connection, insert, rows)
    return len(rows)
