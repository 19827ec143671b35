# ruff: noqa: S608  these are statements, and nothing of a caller's is in them
"""A worker's statements: claim an entry, record the result of its call, expire it without one."""

from __future__ import annotations

from attrs import field, frozen

from leadpost.errors import DeliveryUncertain, LeadpostError
from leadpost.outbox._entry import EntryState
from leadpost.outbox.database._entries import add_changes, of_batch
from leadpost.outbox.database._sql import Transaction, storable

OVERDUE = 30.0
"""Seconds after a call must have ended until its entry is `uncertain`, if it has no record."""
_CLOCK_WAS_SET_BACK = "changed_at > {now} + 60"
"""Whether the database's clock was set back since: then nothing waits until it has caught up."""
_IS_DUE = f"due_at <= {{now}} OR {_CLOCK_WAS_SET_BACK}"


@frozen
class Claim:
    """An entry claimed for a call."""

    id: int
    call_id: str  # random, of this call
    activity: str = field(repr=False)  # JSON
    failures: int  # earlier calls that count as failures
    is_uncertain: bool  # whether an earlier call may have arrived


@frozen
class Result:
    """The result of a call: the entry's new state, and why."""

    state: EntryState
    request_id: str | None = None
    error: LeadpostError | None = None
    due_in: float = 0.0  # seconds until it is retried, or its status is asked for
    failed: bool = False  # whether the call counts as a failure


def next_due(transaction: Transaction, batch: str | None = None) -> float | None:
    """
    Return the seconds until the next pending entry is due, None if none is pending.

    With a `batch`, only its entries count.
    """
    pending = f"""
        FROM leadpost_entries
        WHERE account = :account AND state = 'pending' {of_batch(batch)}
    """
    query = f"SELECT EXISTS (SELECT 1 {pending} AND ({_IS_DUE}))"
    if transaction.execute(query, batch=batch).scalar_one():
        return 0.0
    # Only few are pending and not due: those that failed within the longest pause.
    query = f"SELECT min(due_at) - {{now}} {pending}"
    seconds: float | None = transaction.execute(query, batch=batch).scalar_one()
    return None if seconds is None else max(seconds, 0.0)


def claim(
    transaction: Transaction,
    call_id: str,
    call_time: float,
    *,
    is_trial: bool = False,
    batch: str | None = None,
) -> Claim | None:
    """
    Mark the next due entry as `sending`, and return it; None if none is due.

    `call_id` is a new random id. The call must end within `call_time` seconds. A trial has an entry
    that has not failed yet, or the one whose last failure is the longest ago. With a `batch`, it is
    the next one of this, whatever the priorities.
    """
    due = f"""
        SELECT id FROM leadpost_entries
        WHERE account = :account AND state = 'pending' AND ({_IS_DUE}) {of_batch(batch)}
    """
    order = "priority DESC, id" if batch is None else "batch_name, id"
    first = f"({due} ORDER BY {order} LIMIT 1 {{or_skipped}})"
    if is_trial:
        untried = f"({due} AND due_at = 0 ORDER BY {order} LIMIT 1 {{or_skipped}})"
        first = f"coalesce({untried}, ({due} ORDER BY due_at, id LIMIT 1 {{or_skipped}}))"
    claimed = transaction.execute(
        f"""
        UPDATE leadpost_entries
        SET state = 'sending', call_id = :call_id, calls = calls + 1,
            changed_at = {{now}}, sent_at = {{now}}, ends_by = {{now}} + :call_time
        WHERE id = {first}
        RETURNING id, activity, calls, failures, error_type
        """,
        call_id=call_id,
        call_time=call_time,
        batch=batch,
    )
    row = claimed.one_or_none()
    if row is None:
        return None
    add_changes(transaction, [row.id], "sending", f"call {row.calls}")
    is_uncertain = row.error_type == DeliveryUncertain.__name__
    return Claim(row.id, call_id, row.activity, row.failures, is_uncertain)


def is_claimed(transaction: Transaction, claim: Claim) -> bool:
    """
    Whether a claim was committed, after the answer to the COMMIT was lost.

    Where that COMMIT may still be on its way, as to a standby, this waits for its end.
    """
    query = """
        SELECT state, call_id FROM leadpost_entries
        WHERE account = :account AND id = :id {locked}
    """
    entry = transaction.execute(query, id=claim.id).one_or_none()
    # It is uncertain if the call has expired meanwhile.
    if entry is None or entry.call_id != claim.call_id:
        return False
    return entry.state in {"sending", "uncertain"}


def record(transaction: Transaction, of: Claim, result: Result) -> bool:
    """
    Record the result of a call.

    Returns:
        Whether it was recorded. It is not if a later call was made for the entry, or if another
        result is already recorded.
    """
    state, error = result.state, result.error
    before = ["sending", "uncertain", "pending"]
    if state == "uncertain":  # no news of an entry that was pending again since, as by `retry`
        before = ["sending"]
    message = None if error is None else storable(str(error))
    request_id = None if result.request_id is None else storable(result.request_id)
    recorded = transaction.execute(
        """
        UPDATE leadpost_entries
        SET state = :state, changed_at = {now}, due_at = {now} + :due_in,
            failures = failures + :failed, request_id = :request_id,
            error_type = :error_type, message = :message
        WHERE id = :id AND account = :account AND call_id = :call_id
            AND state IN :before AND state <> :state
        """,
        id=of.id,
        call_id=of.call_id,
        before=before,
        state=state,
        due_in=result.due_in,
        failed=int(result.failed),
        request_id=request_id,
        error_type=None if error is None else type(error).__name__,
        message=message,
    )
    if recorded.rowcount:
        note = f"RequestID {request_id}" if request_id else message or ""
        add_changes(transaction, [of.id], state, note)
        return True
    # It has this state already if the answer to a COMMIT was lost, or by `expire` or by `retry`.
    same = "SELECT 1 FROM leadpost_entries WHERE id = :id AND call_id = :call_id AND state = :state"
    found = transaction.execute(same, id=of.id, call_id=of.call_id, state=state)
    return found.one_or_none() is not None


def expire(transaction: Transaction) -> int:
    """Make entries `uncertain` whose call ended long ago without a record; return their number."""
    expired = transaction.execute(
        f"""
        UPDATE leadpost_entries
        SET state = 'uncertain', changed_at = {{now}}, error_type = :error_type,
            message = 'its call was not recorded: it may have arrived'
        WHERE account = :account AND state = 'sending'
            AND (ends_by < {{now}} - :overdue OR {_CLOCK_WAS_SET_BACK})
        RETURNING id
        """,
        error_type=DeliveryUncertain.__name__,
        overdue=OVERDUE,
    )
    note = "its call was not recorded"
    return add_changes(transaction, expired.scalars(), "uncertain", note)


def be_seen(
    transaction: Transaction, away_for: float | None, called_ago: float | None, known_ago: float
) -> None:
    """
    Record that a worker of the account is alive.

    `away_for` are the seconds for which LeadSquared has been away, `called_ago` those since its
    last call, `known_ago` those since it last knew anything about LeadSquared: a worker that makes
    no calls does not end another's outage.
    """
    transaction.execute(
        """
        UPDATE leadpost_accounts
        SET worker_seen_at = {now},
            away_since = coalesce({now} - :away_for, CASE
                WHEN away_since BETWEEN {now} - :known_ago AND {now} + 60 THEN away_since END),
            called_at = {greatest}(coalesce(called_at, {now} - :called_ago),
                coalesce({now} - :called_ago, called_at))
        WHERE account = :account
        """,
        away_for=away_for,
        called_ago=called_ago,
        known_ago=known_ago,
    )
