# ruff: noqa: S608  these are statements, and nothing of a caller's is in them
"""The statements of verifying and reconciling: what became of entries after their calls."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from attrs import field, frozen
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.outbox.database._entries import PART, EntryState, add_changes, moment
from leadpost.outbox.database._sql import execute, storable


@frozen
class Check:
    """
    An accepted entry whose status is to be asked for.

    Attributes:
        id: The entry.
        call_id: Its latest call.
        request_id: What to ask for; None if reconciling found the activity itself.
    """

    id: int
    call_id: str | None
    request_id: str | None


@frozen
class Doubt:
    """
    An entry that may have arrived.

    Attributes:
        id: The entry.
        call_id: Its latest call.
        activity: The activity as JSON.
        sent_at: When its call was made.
        age: Seconds since then.
    """

    id: int
    call_id: str | None
    activity: str = field(repr=False)
    sent_at: datetime
    age: float


@frozen
class Verdict:
    """
    What LeadSquared has said of an entry since its call.

    Attributes:
        state: The state that it is in after all.
        note: Why.
        activity_id: The id of its activity, if that is known.
    """

    state: EntryState
    note: str = field(default="", repr=False)
    activity_id: str | None = None


async def claim_check(
    connection: AsyncConnection, account: str, waits: Sequence[float]
) -> Check | None:
    """
    Return the accepted entry that is due first to be asked about, and set when it is due next.

    `waits` are the seconds between two questions; the last one counts for all further ones.
    """
    cases = " ".join(f"WHEN {number} THEN {wait}" for number, wait in enumerate(waits))
    claimed = await execute(
        connection,
        f"""
        UPDATE leadpost_entries
        SET checks = checks + 1, due_at = {{now}} + CASE checks {cases} ELSE {waits[-1]} END
        WHERE id = (
            SELECT id FROM leadpost_entries
            WHERE account = :account AND state = 'accepted' AND due_at <= {{now}}
            ORDER BY due_at LIMIT 1 {{or_skipped}}
        )
        RETURNING id, call_id, request_id
        """,
        account=account,
    )
    row = claimed.one_or_none()
    return None if row is None else Check(*row)


async def next_check(connection: AsyncConnection, account: str) -> float | None:
    """Return the seconds until the next question is due, None if no answer is open."""
    query = """
        SELECT min(due_at) - {now} FROM leadpost_entries
        WHERE account = :account AND state = 'accepted'
    """
    seconds: float | None = (await execute(connection, query, account=account)).scalar_one()
    return None if seconds is None else max(seconds, 0.0)


async def is_posting(connection: AsyncConnection, account: str) -> bool:
    """Whether any entry is pending or in flight."""
    query = """
        SELECT EXISTS (
            SELECT 1 FROM leadpost_entries
            WHERE account = :account AND state IN ('pending', 'sending')
        )
    """
    return bool((await execute(connection, query, account=account)).scalar_one())


async def doubts(connection: AsyncConnection, account: str) -> dict[str | None, list[int]]:
    """Return the ids of all uncertain entries, by the lead that they are about."""
    query = """
        SELECT lead, id FROM leadpost_entries
        WHERE account = :account AND state = 'uncertain' ORDER BY id
    """
    found: dict[str | None, list[int]] = {}
    for lead, id_ in await execute(connection, query, account=account):
        found.setdefault(lead, []).append(id_)
    return found


async def doubt(connection: AsyncConnection, account: str, entry_id: int) -> Doubt | None:
    """Return an uncertain entry, None if it is no longer."""
    # Plain SQL may have made one uncertain without a call.
    query = """
        SELECT id, call_id, activity, coalesce(sent_at, put_at), {now} - coalesce(sent_at, put_at)
        FROM leadpost_entries WHERE account = :account AND id = :id AND state = 'uncertain'
    """
    row = (await execute(connection, query, account=account, id=entry_id)).one_or_none()
    return None if row is None else Doubt(row[0], row[1], row[2], moment(row[3]), row[4])


async def others_of(
    connection: AsyncConnection, account: str, of: Doubt, lead: str, since: datetime
) -> list[str]:
    """Return the activities of other entries that were posted on a lead and are not matched yet."""
    query = """
        SELECT activity FROM leadpost_entries
        WHERE account = :account AND lead = :lead AND id <> :id
            AND state IN ('sending', 'accepted', 'succeeded')
            AND activity_id IS NULL AND sent_at >= :since
    """
    values = {"account": account, "lead": lead.lower(), "id": of.id, "since": since.timestamp()}
    return list((await execute(connection, query, **values)).scalars())


async def matched(
    connection: AsyncConnection, account: str, activity_ids: Sequence[str]
) -> set[str]:
    """Return those of these activities that belong to entries."""
    query = """
        SELECT activity_id FROM leadpost_entries
        WHERE account = :account AND activity_id IN :ids
    """
    found = set[str]()
    for first in range(0, len(activity_ids), PART):
        ids = list(activity_ids[first : first + PART])
        found.update((await execute(connection, query, account=account, ids=ids)).scalars())
    return found


async def settle(
    connection: AsyncConnection,
    account: str,
    of: Check | Doubt,
    before: EntryState,
    verdict: Verdict,
) -> bool:
    """
    Change the state of an entry for what LeadSquared has said of it since.

    Returns:
        Whether it was still in the state that it had before, and no call was made for it since.
    """
    note, activity_id = storable(verdict.note), verdict.activity_id
    if activity_id is not None and await matched(connection, account, [activity_id]):
        activity_id = None  # reconciling took it for another entry's
    is_bad = verdict.state in {"failed", "uncertain"}
    settled = await execute(
        connection,
        """
        UPDATE leadpost_entries
        SET state = :state, changed_at = {now}, due_at = 0, message = :message,
            error_type = CASE WHEN CAST(:message AS TEXT) IS NOT NULL THEN error_type END,
            activity_id = coalesce(:activity_id, activity_id)
        WHERE account = :account AND id = :id AND state = :before
            AND coalesce(call_id, '') = :call_id
        """,
        account=account,
        id=of.id,
        call_id=of.call_id or "",
        before=before,
        state=verdict.state,
        message=note if is_bad else None,
        activity_id=None if activity_id is None else storable(activity_id),
    )
    if not settled.rowcount:
        return False
    if verdict.state != before:
        await add_changes(connection, [of.id], verdict.state, note)
    return True
