# ruff: noqa: S608  these are statements, and nothing of a caller's is in them
"""Changes made by hand: retry, replace, arrived, adopt, prune; and the keys of an account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leadpost.errors import DeliveryUncertain, KeyConflict
from leadpost.outbox._entry import STATES, EntryState
from leadpost.outbox.database._entries import KEYS_SHOWN, PART, add_changes, page, parts
from leadpost.outbox.database._sql import Transaction

REPLACEABLE: tuple[EntryState, ...] = ("pending", "failed", "rejected")
"""States of entries that were not accepted."""

_AGAIN = """
    state = 'pending', changed_at = {now}, due_at = 0, request_id = NULL, failures = 0, queries = 0
"""


def retry(
    transaction: Transaction, *, states: Sequence[EntryState], ids: Sequence[int] | None
) -> int:
    """Make entries in these states pending again, of `ids` or of all; return their number."""
    done = 0
    for part in [None] if ids is None else parts(ids):
        last = 0
        while found := _retry(transaction, states=states, ids=part, after=last):
            done += len(found)
            last = found[-1]
    return done


def _retry(
    transaction: Transaction,
    *,
    states: Sequence[EntryState],
    ids: Sequence[int] | None,
    after: int,
) -> list[int]:
    found = transaction.execute(
        f"""
        SELECT id FROM leadpost_entries
        WHERE account = :account AND id > :after AND state IN :states
            {"" if ids is None else "AND id IN :ids"}
        ORDER BY id LIMIT {PART} {{locked}}
        """,
        after=after,
        states=list(states),
        **({} if ids is None else {"ids": list(ids)}),
    )
    again = list(found.scalars())
    update = f"UPDATE leadpost_entries SET {_AGAIN} WHERE id IN :ids"
    transaction.execute(update, ids=again)
    add_changes(transaction, again, "pending", "retried by hand")
    return again


def replace(transaction: Transaction, activities: Mapping[str, str]) -> None:
    """
    Replace the activities of entries, and make the entries pending again.

    `activities` maps the keys of the entries to activities as JSON.

    Raises:
        KeyConflict: a key is unknown, or its entry may have been accepted; none was replaced.
    """
    # In the order of the keys, so that two callers cannot wait for each other.
    for keys in parts(sorted(activities)):
        _replace(transaction, {key: activities[key] for key in keys})


def _replace(transaction: Transaction, part: Mapping[str, str]) -> None:
    query = """
        SELECT key, id, state, error_type FROM leadpost_entries
        WHERE account = :account AND key IN :keys ORDER BY key {locked}
    """
    rows = transaction.execute(query, keys=[*part])
    found = {row.key: row for row in rows}
    conflicts = [
        key
        for key in part
        if key not in found
        or found[key].state not in REPLACEABLE
        # A pending entry may have arrived, if uncertain posts are retried.
        or found[key].error_type == DeliveryUncertain.__name__
    ]
    if conflicts:
        raise KeyConflict(
            f"{len(conflicts)} keys cannot be replaced: unknown, or already sent; nothing was"
            " replaced",
            keys=conflicts[:KEYS_SHOWN],
        )
    # A late answer to an earlier call does not apply to a new activity.
    update = f"""
        UPDATE leadpost_entries
        SET {_AGAIN}, activity = :activity, error_type = NULL, message = NULL,
            call_id = CASE WHEN activity = :activity THEN call_id END
        WHERE id = :id
    """
    values = [{"id": found[key].id, "activity": activity} for key, activity in part.items()]
    transaction.execute_many(update, values)
    add_changes(transaction, [row.id for row in found.values()], "pending", "replaced")


def arrived(transaction: Transaction, ids: Sequence[int]) -> int:
    """Make those that are uncertain `succeeded`, and return their number."""
    update = """
        UPDATE leadpost_entries
        SET state = 'succeeded', changed_at = {now}, error_type = NULL, message = NULL
        WHERE account = :account AND id IN :ids AND state = 'uncertain' RETURNING id
    """
    found = [transaction.execute(update, ids=part) for part in parts(ids)]
    arrived = [entry for part in found for entry in part.scalars()]
    return add_changes(transaction, arrived, "succeeded", "seen on the lead")


def register(transaction: Transaction, fingerprint: str) -> str | None:
    """Record which keys an account's entries are posted with, and return those of the first."""
    insert = """
        INSERT INTO leadpost_accounts (account, fingerprint) VALUES (:account, :fingerprint)
        ON CONFLICT (account) DO NOTHING
    """
    transaction.execute(insert, fingerprint=fingerprint)
    return fingerprint_of(transaction)


def fingerprint_of(transaction: Transaction) -> str | None:
    """Return the fingerprint of the keys that an account's entries are posted with."""
    query = "SELECT fingerprint FROM leadpost_accounts WHERE account = :account"
    found: str | None = transaction.execute(query).scalar()
    return found


def adopt(transaction: Transaction, fingerprint: str | None, previous: str) -> int:
    """
    Transfer the entries of another account, or of this one's previous keys, to this account.

    `fingerprint` is that of its present keys, None if they are unknown. Return the number of
    transferred entries.

    Raises:
        KeyConflict: both accounts have entries of the same keys.
    """
    if fingerprint is not None:
        update = """
            UPDATE leadpost_accounts SET fingerprint = :fingerprint
            WHERE account = :account AND fingerprint = :previous
        """
        transaction.execute(update, fingerprint=fingerprint, previous=previous)
    if previous == transaction.always["account"]:
        return 0
    both = f"""
        SELECT theirs.key FROM leadpost_entries AS theirs
        JOIN leadpost_entries AS ours ON ours.account = :account AND ours.key = theirs.key
        WHERE theirs.account = :previous LIMIT {KEYS_SHOWN}
    """
    if keys := list(transaction.execute(both, previous=previous).scalars()):
        raise KeyConflict(
            "both accounts have entries of the same keys; none was adopted", keys=keys
        )
    update = """
        UPDATE leadpost_entries SET account = :account WHERE id IN :ids AND account = :previous
    """
    theirs = Transaction(transaction.connection, {"account": previous})
    done = last = 0
    while part := page(theirs, states=STATES, after=last):
        ids = [entry.id for entry in part]
        last = ids[-1]
        done += transaction.execute(update, ids=ids, previous=previous).rowcount
    return done


def prune(transaction: Transaction, older_than: float) -> int:
    """Delete at most 500 entries that finished `older_than` seconds ago; return their number."""
    # Locked, or else an entry that is retried meanwhile would be deleted too.
    old = transaction.execute(
        f"""
        SELECT id FROM leadpost_entries
        WHERE account = :account AND state IN ('succeeded', 'failed', 'rejected')
            AND changed_at < {{now}} - :older_than
        ORDER BY changed_at LIMIT {PART} {{or_skipped}}
        """,
        older_than=older_than,
    )
    ids = list(old.scalars())
    transaction.execute("DELETE FROM leadpost_changes WHERE entry_id IN :ids", ids=ids)
    transaction.execute("DELETE FROM leadpost_entries WHERE id IN :ids", ids=ids)
    return len(ids)
