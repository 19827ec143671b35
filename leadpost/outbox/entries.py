"""The entries of an outbox, and its owner's statements; each runs in the caller's transaction."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa
from attrs import field, frozen
from attrs import fields as attrs_of
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.errors import KeyConflict
from leadpost.outbox.schema import changes, entries, version_table
from leadpost.outbox.store import clock, inserted_once, now

EntryState = Literal[
    "pending", "sending", "accepted", "succeeded", "failed", "rejected", "uncertain"
]
STATES: tuple[EntryState, ...] = get_args(EntryState)
"""Every state, in the order of an entry's life."""
FINAL: tuple[EntryState, ...] = ("succeeded", "failed", "rejected")

NOTHING = "{}"
"""In place of the activity of an entry that was pruned."""
KEYS_TOLD = 20
"""Keys that an error names at most."""


@frozen
class Entry:
    """
    One activity in an outbox.

    Attributes:
        id: Its number, in the order of putting.
        key: The caller's name for it, None where there is none.
        priority: The higher, the sooner it is sent.
        state: `pending` (to be sent), `sending` (a call is under way), `accepted` (the vendor has
            it, under the RequestID), `succeeded` (the lead has it), `failed` (surely not with the
            lead), `rejected` (the vendor said no, and would again), `uncertain` (may have arrived).
        payload: The activity in the vendor's JSON shape.
        put_at: When it was put.
        changed_at: When its state changed last.
        calls: How many calls were made for it.
        request_id: The vendor's RequestID.
        activity_id: The id of the activity, once it is known.
        error_type: Why it is in its state: name of an error class of `leadpost`.
        message: The same in words.
        original: What was put under the key: the payload, unless it was corrected since; None where
            nothing was.
    """

    id: int
    key: str | None
    priority: int
    state: EntryState
    payload: Mapping[str, Any] = field(repr=False)
    put_at: datetime
    changed_at: datetime
    calls: int = 0
    request_id: str | None = None
    activity_id: str | None = None
    error_type: str | None = None
    message: str | None = None
    original: Mapping[str, Any] | None = field(default=None, repr=False)


@frozen
class Change:
    """
    One change of an entry's state.

    Attributes:
        state: The state from then on.
        at: When it was.
        note: What there is to say of it.
    """

    state: EntryState
    at: datetime
    note: str | None = None


@frozen
class New:
    """What is put: an activity as JSON, with its key and priority."""

    payload: str = field(repr=False)
    key: str | None
    priority: int


_NAMES = tuple(attribute.name for attribute in attrs_of(Entry))
_COLUMNS: list[sa.ColumnElement[Any]] = [entries.c[name] for name in _NAMES]


def entry_of(row: sa.Row[Any]) -> Entry:
    values: dict[str, Any] = dict(zip(_NAMES, row, strict=True))
    values["payload"] = json.loads(values["payload"])
    original = values["original"]
    values["original"] = values["payload"] if original is None else json.loads(original)
    for name in ("put_at", "changed_at"):
        values[name] = datetime.fromtimestamp(values[name], UTC)
    return Entry(**values)


async def put_one(connection: AsyncConnection, new: New) -> int:
    """
    Insert an entry, or leave the one of its key as it is, and give its id.

    Raises:
        KeyConflict: the one that is there has another activity.
    """
    values = values_of(new, await clock(connection))
    insert = inserted_once(connection, entries).values(values).returning(entries.c.id)
    inserted: int | None = (await connection.execute(insert)).scalar()
    if inserted is not None:
        return inserted
    await _check_keys(connection, [new])
    found = sa.select(entries.c.id).where(entries.c.key == new.key)
    return int((await connection.execute(found)).scalar_one())


async def identity(connection: AsyncConnection) -> str:
    """Give what tells these tables from all others."""
    return str((await connection.execute(sa.select(version_table.c.identity))).scalar_one())


async def put_many(connection: AsyncConnection, news: Sequence[New]) -> int:
    """
    Insert entries, at most 500 at a time, and leave those of known keys as they are.

    Returns:
        How many there were not before.

    Raises:
        KeyConflict: one that is there has another activity.
    """
    moment = await clock(connection)
    insert = inserted_once(connection, entries)
    await connection.execute(insert, [values_of(new, moment) for new in news])
    return len(news) - await _check_keys(connection, news, moment)


def values_of(new: New, moment: float) -> dict[str, Any]:
    """Give the columns of an entry that is put."""
    return {
        "key": new.key,
        "priority": new.priority,
        "payload": new.payload,
        "state": "pending",
        "put_at": moment,
        "changed_at": moment,
        "due_at": moment,
        "calls": 0,
        "failures": 0,
        "checks": 0,
    }


async def _check_keys(
    connection: AsyncConnection, news: Sequence[New], moment: float | None = None
) -> int:
    """Compare what was put with what is there, and count what was there before `moment`."""
    wanted = [(new.key, new.payload) for new in news if new.key is not None]
    if not wanted:
        return 0
    columns = [entries.c[name] for name in ("key", "payload", "original", "put_at")]
    query = sa.select(*columns).where(entries.c.key.in_([key for key, _ in wanted]))
    found = {row.key: row for row in await connection.execute(query)}
    conflicts = [key for key, payload in wanted if not _held(found[key], payload)]
    if conflicts:
        differing = _differing(found[conflicts[0]].payload, dict(wanted)[conflicts[0]])
        those = (
            f"the key is there with another activity ({differing})"
            if len(wanted) == 1
            else f"{len(conflicts)} of the keys are there with another activity (of the first one,"
            f" {differing})"
        )
        raise KeyConflict(f"{those}; nothing was put", keys=conflicts[:KEYS_TOLD])
    new = sum(row.put_at == moment for row in found.values())
    return len(wanted) - int(new)


def _differing(one: str, other: str) -> str:
    """Name the parameters in which two activities differ, without their values."""
    before, after = (
        {name: json.dumps(value, sort_keys=True) for name, value in json.loads(text).items()}
        for text in (one, other)
    )
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return f"{', '.join(names)} {'differs' if len(names) == 1 else 'differ'}"


def _held(entry: sa.Row[Any], payload: str) -> bool:
    """Tell whether an entry is of this activity, or was put with it and corrected since."""
    if entry.payload == NOTHING:
        return True  # nobody knows any more: to put nothing is the safe side
    return any(same(payload, held) for held in (entry.payload, entry.original) if held is not None)


def same(one: str, other: str) -> bool:
    """Tell whether two texts are the same JSON; 1 and true, which are equal in Python, are not."""
    return one == other or _sorted(one) == _sorted(other)


def _sorted(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True)


async def find(connection: AsyncConnection, keys: Sequence[str]) -> dict[str, Entry]:
    """Give the entries of these keys, at most 500, by key."""
    query = sa.select(*_COLUMNS).where(entries.c.key.in_(keys))
    found = [entry_of(row) for row in await connection.execute(query)]
    return {entry.key: entry for entry in found if entry.key is not None}


async def select(
    connection: AsyncConnection,
    *,
    states: Sequence[EntryState] = STATES,
    after: int = 0,
    key_prefix: str | None = None,
    limit: int,
) -> list[Entry]:
    """Give the first entries in these states whose id is above `after`."""
    query = (
        sa.select(*_COLUMNS)
        .where(entries.c.id > after, entries.c.state.in_(states))
        .order_by(entries.c.id)
        .limit(limit)
    )
    if key_prefix is not None:
        query = query.where(_begins_with(key_prefix))
    return [entry_of(row) for row in await connection.execute(query)]


def _begins_with(key_prefix: str) -> sa.ColumnElement[bool]:
    # SQLite's LIKE takes capital letters for small ones.
    return sa.func.substr(entries.c.key, 1, len(key_prefix)) == key_prefix


async def count(
    connection: AsyncConnection,
    key_prefix: str | None = None,
    keys: Sequence[str] | None = None,
) -> dict[EntryState, int]:
    """Count the entries by state: all, those with a prefix, or those of at most 500 keys."""
    query = sa.select(entries.c.state, sa.func.count()).group_by(entries.c.state)
    if key_prefix is not None:
        query = query.where(_begins_with(key_prefix))
    if keys is not None:
        query = query.where(entries.c.key.in_(keys))
    found = {row[0]: int(row[1]) for row in await connection.execute(query)}
    return {state: found.get(state, 0) for state in STATES}


async def oldest_pending(connection: AsyncConnection) -> float | None:
    """Tell the seconds since the oldest pending entry was put; None if there is none."""
    query = sa.select(sa.func.min(entries.c.id)).where(entries.c.state == "pending")
    age = sa.select(now(connection) - entries.c.put_at)
    found = await connection.execute(age.where(entries.c.id == query.scalar_subquery()))
    seconds: float | None = found.scalar()
    return None if seconds is None else max(seconds, 0.0)


async def calls_since(connection: AsyncConnection, seconds: float) -> int:
    """Count the calls made in the last seconds, of the last 2,000 changes."""
    last = sa.select(changes.c.state, changes.c.at).order_by(changes.c.id.desc()).limit(2000)
    recent = last.subquery()
    query = sa.select(sa.func.count()).where(
        recent.c.state == "sending", recent.c.at > now(connection) - seconds
    )
    return int((await connection.execute(query)).scalar_one())


async def history(connection: AsyncConnection, entry_id: int) -> list[Change]:
    """Give every change of an entry's state, the putting first."""
    put = sa.select(entries.c.put_at).where(entries.c.id == entry_id)
    put_at: float | None = (await connection.execute(put)).scalar()
    if put_at is None:
        return []
    query = (
        sa.select(changes.c.state, changes.c.at, changes.c.note)
        .where(changes.c.entry_id == entry_id)
        .order_by(changes.c.id)
    )
    found = [
        Change(row.state, datetime.fromtimestamp(row.at, UTC), row.note)
        for row in await connection.execute(query)
    ]
    return [Change("pending", datetime.fromtimestamp(put_at, UTC)), *found]


async def prune(connection: AsyncConnection, older_than: float, limit: int) -> int:
    """
    Delete entries that have been in a final state for so many seconds.

    One that was corrected stays, without its activity: who put it may not know of that yet, and
    would put it once more.
    """
    old = (
        sa.select(entries.c.id, entries.c.original.is_not(None).label("was_corrected"))
        .where(
            entries.c.state.in_(FINAL),
            entries.c.changed_at < now(connection) - older_than,
            entries.c.payload != NOTHING,
        )
        .limit(limit)
        .with_for_update(skip_locked=True)  # or else one that is put back meanwhile went too
    )
    found = (await connection.execute(old)).all()
    ids = [row.id for row in found]
    kept = [row.id for row in found if row.was_corrected]
    await connection.execute(sa.delete(changes).where(changes.c.entry_id.in_(ids)))
    await connection.execute(
        sa.delete(entries).where(entries.c.id.in_(ids), entries.c.id.not_in(kept))
    )
    blank = {"payload": NOTHING, "original": NOTHING, "message": None}
    await connection.execute(sa.update(entries).where(entries.c.id.in_(kept)).values(blank))
    return len(ids)


async def add_changes(
    connection: AsyncConnection, ids: Sequence[int], state: EntryState, text: str
) -> None:
    """Tell in the list of changes that these entries came into a state, and why."""
    if ids:
        at = await clock(connection)
        rows = [{"entry_id": id_, "state": state, "at": at, "note": text} for id_ in ids]
        await connection.execute(sa.insert(changes), rows)
