# ruff: noqa: S608  these are statements, and nothing of a caller's is in them
"""The statements of verifying and reconciling."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from attrs import field, frozen

from leadpost._models import Activity
from leadpost._validation import is_mapping
from leadpost.errors import InvalidActivity
from leadpost.outbox._entry import EntryState
from leadpost.outbox.database._entries import add_changes, loaded, moment, of_batch, parts
from leadpost.outbox.database._sql import Transaction, storable

WAITS = (10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0)
"""
Seconds between two queries for one request; the last one applies to all further ones. LeadSquared
retries a failed request after 30 s at first and after 3 hours at last, so frequent queries soon
become useless.
"""
_TOO_FAR = WAITS[-1] + 60.0
"""Seconds from now: an entry that is due later shows that the database's clock was set back."""


@frozen
class AcceptedEntry:
    """An accepted entry that is due to be verified."""

    id: int
    call_id: str | None  # of its latest call
    request_id: str


@frozen
class UncertainEntry:
    """An uncertain entry."""

    id: int
    call_id: str | None  # of its latest call
    lead: str | None  # the lead's id in lower case, None if the entry names none
    # Its parameters, without what else it knows of its lead; any JSON value, if plain SQL put it.
    activity: Any = field(repr=False)
    sent_at: datetime  # when its call was made
    age: float  # seconds since then

    @property
    def event(self) -> int | None:
        """The activity type's code, None without one."""
        event = self.activity.get("ActivityEvent") if is_mapping(self.activity) else None
        return event if isinstance(event, int) else None


@frozen
class Verdict:
    """What LeadSquared says about an entry: its state, the reason, the id of its activity."""

    state: EntryState
    note: str = field(default="", repr=False)
    activity_id: str | None = None


def claim_accepted(transaction: Transaction, batch: str | None = None) -> AcceptedEntry | None:
    """
    Return the accepted entry that is due first, and set when it is due next.

    With a `batch`, only its entries count.
    """
    due = f"""
        SELECT id FROM leadpost_entries
        WHERE account = :account AND state = 'accepted' {of_batch(batch)} AND due_at
    """
    first = "ORDER BY due_at LIMIT 1 {or_skipped}"
    cases = " ".join(f"WHEN {number} THEN {wait}" for number, wait in enumerate(WAITS))
    claimed = transaction.execute(
        f"""
        UPDATE leadpost_entries
        SET queries = queries + 1, due_at = {{now}} + CASE queries {cases} ELSE {WAITS[-1]} END
        WHERE id = coalesce(({due} <= {{now}} {first}), ({due} > {{now}} + :too_far {first}))
        RETURNING id, call_id, coalesce(request_id, '')
        """,
        batch=batch,
        too_far=_TOO_FAR,
    )
    row = claimed.one_or_none()
    return None if row is None else AcceptedEntry(*row)


def next_query(transaction: Transaction, batch: str | None = None) -> float | None:
    """Return the seconds until the next query is due, None if no entry is accepted."""
    of_accepted = f"""
        FROM leadpost_entries WHERE account = :account AND state = 'accepted' {of_batch(batch)}
    """
    query = f"""
        SELECT (SELECT min(due_at) {of_accepted}) - {{now}},
            (SELECT max(due_at) {of_accepted}) - {{now}}
    """
    first, last = transaction.execute(query, batch=batch).one()
    if first is None:
        return None
    return 0.0 if last > _TOO_FAR else max(first, 0.0)


def is_posting(transaction: Transaction) -> bool:
    """Whether any entry is pending or in flight."""
    query = """
        SELECT EXISTS (
            SELECT 1 FROM leadpost_entries
            WHERE account = :account AND state IN ('pending', 'sending')
        )
    """
    return bool(transaction.execute(query).scalar_one())


def begin_reconciling(transaction: Transaction, every: float) -> bool:
    """Whether to reconcile now: no worker of the account has begun that within `every` seconds."""
    update = """
        UPDATE leadpost_accounts SET reconciled_at = {now}
        WHERE account = :account
            AND coalesce(reconciled_at, 0) NOT BETWEEN {now} - :every AND {now}
    """
    return bool(transaction.execute(update, every=every).rowcount)


def uncertain_entries(transaction: Transaction) -> list[UncertainEntry]:
    """Return every uncertain entry."""
    # Plain SQL may have made one uncertain without a call.
    query = """
        SELECT id, call_id, lead, activity, sent_at, {now} - sent_at FROM (
            SELECT id, call_id, lead, activity, coalesce(sent_at, put_at) AS sent_at
            FROM leadpost_entries WHERE account = :account AND state = 'uncertain'
        ) AS uncertain ORDER BY id
    """
    found = list[UncertainEntry]()
    for id_, call_id, lead, activity, sent_at, age in transaction.execute(query):
        lead_id, parameters = _parts(loaded(activity))
        lead_id = lead or lead_id
        found.append(UncertainEntry(id_, call_id, lead_id, parameters, moment(sent_at), age))
    return found


def _parts(activity: Any) -> tuple[str | None, Any]:
    """Return the lead's id, if it is known, and the parameters; plain SQL may put any JSON."""
    try:
        known = Activity.from_payload(activity)
    except InvalidActivity:
        return None, activity
    lead_id = known.related_prospect_id
    return lead_id and lead_id.lower(), known.parameters()


def others_of(transaction: Transaction, entry_id: int, lead: str, since: datetime) -> list[Any]:
    """
    Return what other entries may have posted on a lead and is not matched yet: their parameters.

    This includes entries of other accounts, which may be other users of the same LeadSquared. An
    entry that does not name its lead's id may have posted on any lead.
    """
    query = """
        SELECT activity FROM leadpost_entries
        WHERE id <> :id AND activity_id IS NULL AND sent_at >= :since
            AND (lead = :lead AND state IN ('sending', 'accepted', 'succeeded')
                OR lead IS NULL AND state IN ('sending', 'accepted', 'succeeded', 'uncertain'))
    """
    values = {"id": entry_id, "lead": lead, "since": since.timestamp()}
    found = transaction.execute(query, **values).scalars()
    return [_parts(loaded(activity))[1] for activity in found]


def matched(transaction: Transaction, activity_ids: Sequence[str]) -> set[str]:
    """Return those of `activity_ids` that belong to entries, whichever account they have."""
    query = "SELECT activity_id FROM leadpost_entries WHERE activity_id IN :ids"
    found = set[str]()
    for ids in parts(activity_ids):
        found.update(transaction.execute(query, ids=ids).scalars())
    return found


def settle(
    transaction: Transaction,
    of: AcceptedEntry | UncertainEntry,
    before: EntryState,
    verdict: Verdict,
) -> bool:
    """
    Change the state of an entry to what LeadSquared says.

    Returns:
        Whether it was changed: not if it has left the state `before`, or a later call was made.
    """
    note, activity_id = storable(verdict.note), verdict.activity_id
    if activity_id is not None and matched(transaction, [activity_id]):
        if isinstance(of, UncertainEntry):
            return False  # it proves that another entry arrived, not this one
        activity_id = None  # reconciling matched it with another entry
    is_bad = verdict.state in {"failed", "uncertain"}
    settled = transaction.execute(
        """
        UPDATE leadpost_entries
        SET state = :state, changed_at = {now}, due_at = 0, message = :message,
            error_type = CASE WHEN CAST(:message AS TEXT) IS NOT NULL THEN error_type END,
            activity_id = coalesce(:activity_id, activity_id)
        WHERE account = :account AND id = :id AND state = :before
            AND coalesce(call_id, '') = :call_id
        """,
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
        add_changes(transaction, [of.id], verdict.state, note)
    return True
