"""The entries of an outbox, and the statements on them; each runs in the caller's transaction."""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa
from attrs import field, frozen
from attrs import fields as attrs_of
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.errors import KeyConflict, LeadpostError
from leadpost.outbox.schema import changes, entries, workers
from leadpost.outbox.store import inserted_once, now

EntryState = Literal[
    "pending", "sending", "accepted", "succeeded", "failed", "rejected", "uncertain"
]
STATES: tuple[EntryState, ...] = get_args(EntryState)
"""Every state, in the order of an entry's life."""
FINAL: tuple[EntryState, ...] = ("succeeded", "failed", "rejected")

_KEYS_TOLD = 20
LONGEST_WAIT = 3600.0
"""Seconds. A moment further ahead than any wait is one of a clock that went back since."""


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


@frozen
class Claim:
    """
    An entry that is this worker's to send.

    Attributes:
        id: The entry.
        owner: The worker.
        calls: How many calls were made, this one included: no two claims of an entry share it.
        failures: How many of the earlier ones count as failures.
        payload: The activity as JSON.
    """

    id: int
    owner: str
    calls: int
    failures: int
    payload: str = field(repr=False)


@frozen
class Check:
    """An accepted entry whose status is to be asked for."""

    id: int
    request_id: str | None


@frozen
class Doubt:
    """
    An entry that may have arrived.

    Attributes:
        id: The entry.
        payload: The activity as JSON.
        sent_at: When its call was made.
        age: Seconds since then.
    """

    id: int
    payload: str = field(repr=False)
    sent_at: datetime
    age: float


_NAMES = tuple(attribute.name for attribute in attrs_of(Entry))
_COLUMNS: list[sa.ColumnElement[Any]] = [entries.c[name] for name in _NAMES]


def entry_of(row: sa.Row[Any]) -> Entry:
    values: dict[str, Any] = dict(zip(_NAMES, row, strict=True))
    values["payload"] = json.loads(values["payload"])
    for name in ("put_at", "changed_at"):
        values[name] = datetime.fromtimestamp(values[name], UTC)
    return Entry(**values)


async def put_one(connection: AsyncConnection, new: New) -> int:
    """
    Insert an entry, or leave the one of its key as it is, and give its id.

    Raises:
        KeyConflict: the one that is there has another activity.
    """
    values = _values(new, await clock(connection))
    insert = inserted_once(connection, entries).values(values).returning(entries.c.id)
    inserted: int | None = (await connection.execute(insert)).scalar()
    if inserted is not None:
        return inserted
    await _check_keys(connection, [new])
    found = sa.select(entries.c.id).where(entries.c.key == new.key)
    return int((await connection.execute(found)).scalar_one())


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
    await connection.execute(insert, [_values(new, moment) for new in news])
    return len(news) - await _check_keys(connection, news, moment)


def _values(new: New, moment: float) -> dict[str, Any]:
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
    columns = entries.c.key, entries.c.payload, entries.c.put_at
    query = sa.select(*columns).where(entries.c.key.in_([key for key, _ in wanted]))
    found = {row.key: row for row in await connection.execute(query)}
    conflicts = [key for key, payload in wanted if not _same(found[key].payload, payload)]
    if conflicts:
        raise KeyConflict(
            f"{len(conflicts)} of the keys are there with another activity; nothing was put",
            keys=conflicts[:_KEYS_TOLD],
        )
    new = sum(row.put_at == moment for row in found.values())
    return len(wanted) - int(new)


def _same(one: str, other: str) -> bool:
    return one == other or json.loads(one) == json.loads(other)


async def clock(connection: AsyncConnection) -> float:
    """Read the time, in seconds since 1970."""
    return float((await connection.execute(sa.select(now(connection)))).scalar_one())


async def claim(connection: AsyncConnection, owner: str) -> Claim | None:
    """Mark the next entry as being sent, and give it; None if there is none to be sent now."""
    moment = now(connection)
    due = entries.c.due_at <= moment
    first = (
        sa.select(entries.c.id)
        .where(entries.c.state == "pending", due | (entries.c.due_at > moment + LONGEST_WAIT))
        .order_by(entries.c.priority.desc(), entries.c.id)
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
        .returning(entries.c.id, entries.c.calls, entries.c.failures, entries.c.payload)
    )
    row = (await connection.execute(mark)).one_or_none()
    if row is None:
        return None
    await _note(connection, [row.id], "sending", f"call {row.calls}")
    return Claim(row.id, owner, row.calls, row.failures, row.payload)


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
    await _note(connection, [claimed.id], state, note)
    return mine


def state_of(error: LeadpostError) -> EntryState:
    """Give the state of an entry that will not be sent again for now."""
    return (
        "rejected"
        if error.state == "rejected"
        else ("uncertain" if error.state == "uncertain" else "failed")
    )


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
    await _note(connection, ids, "pending", "no call was made")
    return len(ids)


async def abandon(connection: AsyncConnection) -> int:
    """Make uncertain what is being sent by workers that are gone, and tell how many were so."""
    moment = now(connection)
    alive = sa.select(workers.c.id).where(
        # A lease that ends later than any could was made before the clock went back.
        workers.c.lease_until.between(moment, moment + LONGEST_WAIT)
    )
    update = (
        sa.update(entries)
        .where(entries.c.state == "sending", entries.c.owner.not_in(alive))
        .values(
            state="uncertain",
            changed_at=moment,
            error_type="DeliveryUncertain",
            message="the worker that sent it is gone: it may have arrived",
        )
        .returning(entries.c.id)
    )
    ids = list((await connection.execute(update)).scalars())
    await _note(connection, ids, "uncertain", "its worker is gone")
    await connection.execute(
        sa.delete(workers).where(workers.c.lease_until < moment - 24 * LONGEST_WAIT)
    )
    return len(ids)


async def renew(connection: AsyncConnection, worker: str, lease: float) -> None:
    """Tell that a worker is alive, for so many seconds."""
    until = {"lease_until": now(connection) + lease}
    update = sa.update(workers).where(workers.c.id == worker).values(until)
    if (await connection.execute(update)).rowcount == 0:
        await connection.execute(sa.insert(workers).values(id=worker, **until))


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
        .where(entries.c.state == sa.text("'accepted'"), entries.c.due_at <= moment)
        .order_by(entries.c.checks, entries.c.id.desc())
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    wait = sa.case(dict(enumerate(waits)), value=entries.c.checks, else_=waits[-1])
    mark = (
        sa.update(entries)
        .where(entries.c.id == first.scalar_subquery())
        .values(checks=entries.c.checks + 1, due_at=moment + sa.cast(wait, sa.Double))
        .returning(entries.c.id, entries.c.request_id)
    )
    row = (await connection.execute(mark)).one_or_none()
    return None if row is None else Check(row.id, row.request_id)


async def next_check(connection: AsyncConnection) -> float | None:
    """Tell in how many seconds the next status is to be asked for; None if none is open."""
    query = sa.select(sa.func.min(entries.c.due_at) - now(connection)).where(
        entries.c.state == sa.text("'accepted'")
    )
    seconds: float | None = (await connection.execute(query)).scalar_one()
    return None if seconds is None else max(seconds, 0.0)


async def settle(
    connection: AsyncConnection,
    entry_id: int,
    before: EntryState,
    state: EntryState,
    *,
    note: str,
    activity_id: str | None = None,
) -> bool:
    """
    Change the state of an entry for what the vendor has told of it since.

    Returns:
        Whether it was still in the state that it had before.
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
    if activity_id is not None:
        values["activity_id"] = activity_id
    update = (
        sa.update(entries).where(entries.c.id == entry_id, entries.c.state == before).values(values)
    )
    if (await connection.execute(update)).rowcount == 0:
        return False
    if state != before:
        await _note(connection, [entry_id], state, note)
    return True


async def doubts(connection: AsyncConnection, after: int) -> Doubt | None:
    """Give the first uncertain entry whose id is above `after`."""
    query = (
        sa.select(entries.c.id, entries.c.payload, entries.c.sent_at, now(connection).label("now"))
        .where(entries.c.id > after, entries.c.state == "uncertain")
        .order_by(entries.c.id)
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    sent_at = datetime.fromtimestamp(row.sent_at, UTC)
    return Doubt(row.id, row.payload, sent_at, row.now - row.sent_at)


async def has_open_twin(connection: AsyncConnection, doubt: Doubt) -> bool:
    """Tell whether the same activity was posted for another entry, and is with the vendor still."""
    query = sa.select(entries.c.id).where(
        entries.c.id != doubt.id,
        entries.c.state.in_(("sending", "accepted")),
        entries.c.activity_id.is_(None),
        entries.c.payload == doubt.payload,
    )
    return (await connection.execute(query.limit(1))).first() is not None


async def matched(connection: AsyncConnection, activity_ids: Sequence[str]) -> set[str]:
    """Tell which of these activities belong to entries."""
    query = sa.select(entries.c.activity_id).where(entries.c.activity_id.in_(activity_ids))
    return set((await connection.execute(query)).scalars())


async def leave(connection: AsyncConnection, worker: str) -> None:
    """Tell that a worker has ended."""
    await connection.execute(sa.delete(workers).where(workers.c.id == worker))


async def count(
    connection: AsyncConnection, key_prefix: str | None = None
) -> dict[EntryState, int]:
    """Count the entries by state."""
    query = sa.select(entries.c.state, sa.func.count()).group_by(entries.c.state)
    if key_prefix is not None:
        query = query.where(_begins_with(key_prefix))
    found = {row[0]: int(row[1]) for row in await connection.execute(query)}
    return {state: found.get(state, 0) for state in STATES}


async def oldest_pending(connection: AsyncConnection) -> float | None:
    """Tell the seconds since the oldest pending entry was put; None if there is none."""
    query = sa.select(sa.func.min(entries.c.id)).where(entries.c.state == "pending")
    age = sa.select(now(connection) - entries.c.put_at)
    found = await connection.execute(age.where(entries.c.id == query.scalar_subquery()))
    seconds: float | None = found.scalar()
    return None if seconds is None else max(seconds, 0.0)


async def count_pending(connection: AsyncConnection, enough: int) -> int:
    """Count the pending entries, but no further than to `enough`."""
    some = sa.select(entries.c.id).where(entries.c.state == "pending").limit(enough)
    query = sa.select(sa.func.count()).select_from(some.subquery())
    return int((await connection.execute(query)).scalar_one())


async def next_due(connection: AsyncConnection) -> float | None:
    """Tell in how many seconds the next pending entry is to be sent; None if there is none."""
    wait = entries.c.due_at - now(connection)
    is_early = wait > LONGEST_WAIT
    query = sa.select(sa.func.min(sa.case((is_early, 0.0), else_=wait))).where(
        entries.c.state == "pending"
    )
    seconds: float | None = (await connection.execute(query)).scalar_one()
    return None if seconds is None else max(seconds, 0.0)


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


async def find(connection: AsyncConnection, keys: Sequence[str]) -> dict[str, Entry]:
    """Give the entries of these keys, at most 500, by key."""
    query = sa.select(*_COLUMNS).where(entries.c.key.in_(keys))
    found = [entry_of(row) for row in await connection.execute(query)]
    return {entry.key: entry for entry in found if entry.key is not None}


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


async def put_back(
    connection: AsyncConnection, states: Sequence[EntryState], ids: Sequence[int] | None
) -> int:
    """Make entries in these states pending again: all, or those of these ids."""
    moment = now(connection)
    chosen = [entries.c.state.in_(states)]
    if ids is not None:
        chosen.append(entries.c.id.in_(ids))
    update = (
        sa.update(entries)
        .where(*chosen)
        .values(state="pending", changed_at=moment, due_at=moment, failures=0)
        .returning(entries.c.id)
    )
    found = list((await connection.execute(update)).scalars())
    await _note(connection, found, "pending", "put back")
    return len(found)


async def prune(connection: AsyncConnection, older_than: float, limit: int) -> int:
    """Delete entries that have been in a final state for so many seconds."""
    old = (
        sa.select(entries.c.id)
        .where(entries.c.state.in_(FINAL), entries.c.changed_at < now(connection) - older_than)
        .limit(limit)
    )
    ids = list((await connection.execute(old)).scalars())
    await connection.execute(sa.delete(changes).where(changes.c.entry_id.in_(ids)))
    await connection.execute(sa.delete(entries).where(entries.c.id.in_(ids)))
    return len(ids)


async def _note(
    connection: AsyncConnection, ids: Sequence[int], state: EntryState, note: str
) -> None:
    if ids:
        at = await clock(connection)
        rows = [{"entry_id": id_, "state": state, "at": at, "note": note} for id_ in ids]
        await connection.execute(sa.insert(changes), rows)
