# ruff: noqa: S608  these are statements, and nothing of a caller's is in them
"""Statements that read entries, and what all statements about entries share."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from attrs import fields as attrs_of

from leadpost.outbox._entry import STATES, Change, Entry, EntryState, Health
from leadpost.outbox.database._sql import Transaction, is_sqlite, storable

PART = 500
"""The most entries or keys of one statement."""
KEYS_SHOWN = 20
"""The most keys that an error names."""
SEEN_WITHIN = 60.0
"""Seconds after its last sign of life until a worker counts as dead."""

T = TypeVar("T")

_NAMES = tuple(attribute.name for attribute in attrs_of(Entry))
_COLUMNS = ", ".join(f"entry.{name}" for name in _NAMES)


def of_batch(batch: str | None) -> str:
    """
    Return the condition for entries of the batch `:batch`, whose order is `batch_name, id`.

    It is a range, because PostgreSQL leaves what equals a constant out of the order: it might then
    read the primary key, and with it all other entries.
    """
    return "" if batch is None else "AND batch_name >= :batch AND batch_name <= :batch"


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


def _each(connection: sa.Connection, wanted: str, condition: str, columns: str) -> str:
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


def of_keys(connection: sa.Connection, columns: str) -> str:
    """Build the query for the entries of `:keys`, a list in JSON."""
    each = "json_each(:keys)"
    if not is_sqlite(connection):
        each = "json_array_elements_text(CAST(:keys AS JSON))"
    wanted = f"SELECT value AS wanted_key FROM {each}"
    return _each(connection, wanted, "account = :account AND key = wanted_key", columns)


def find(transaction: Transaction, keys: Sequence[str]) -> dict[str, Entry]:
    """Return the entries of these keys, at most 500, by key."""
    query = of_keys(transaction.connection, _COLUMNS)
    found = transaction.execute(query, keys=json.dumps(keys))
    return {entry.key: entry for entry in map(_entry, found) if entry.key is not None}


def page(
    transaction: Transaction,
    *,
    states: Sequence[EntryState],
    after: int,
    batch: str | None = None,
) -> list[Entry]:
    """Return the first entries in these states, of a batch or all, whose id is above `after`."""
    # State by state: an index contains each state's entries in the order of their ids.
    condition, order = "state = :state_{0} AND id > :after", "id"
    if batch is not None:
        condition = (
            f"state = :state_{{0}} AND (batch_name, id) > (:batch, :after) {of_batch(batch)}"
        )
        order = "batch_name, id"
    elif not is_sqlite(transaction.connection):
        # Ordered by state and id, as only that index is. Ordered by id, PostgreSQL might read the
        # primary key, and with it all entries of other states in between.
        condition = "(state, id) > (:state_{0}, :after) AND state <= :state_{0}"
        order = "state, id"
    of_states = [
        f"""
        SELECT id FROM (
            SELECT id FROM leadpost_entries
            WHERE account = :account AND {condition.format(number)}
            ORDER BY {order} LIMIT {PART}
        ) AS of_state_{number}
        """
        for number in range(len(states))
    ]
    wanted = f"SELECT id AS wanted_id FROM ({' UNION ALL '.join(of_states)}) AS found"
    wanted += f" ORDER BY id LIMIT {PART}"
    query = _each(transaction.connection, wanted, "id = wanted_id", _COLUMNS)
    query += " ORDER BY wanted_id"
    values: dict[str, Any] = {f"state_{number}": state for number, state in enumerate(states)}
    values |= {"batch": batch, "after": after}
    return [_entry(row) for row in transaction.execute(query, **values)]


def count(transaction: Transaction, batch: str | None = None) -> dict[EntryState, int]:
    """Count the entries by state: all, or those of a batch."""
    if batch is None:
        query = """
            SELECT state, sum(entries) FROM leadpost_counts WHERE account = :account GROUP BY state
        """
        rows = transaction.execute(query)
    else:
        query = f"""
            SELECT state, count(*) FROM leadpost_entries
            WHERE account = :account AND state IN :states {of_batch(batch)} GROUP BY state
        """
        rows = transaction.execute(query, states=[*STATES], batch=batch)
    found = {row[0]: int(row[1]) for row in rows}
    return {state: found.get(state, 0) for state in STATES}


def count_of_others(transaction: Transaction) -> dict[str, int]:
    """Count the entries of other accounts that are not finished."""
    query = """
        SELECT account, sum(entries) FROM leadpost_counts
        WHERE account <> :account AND state NOT IN ('succeeded', 'failed', 'rejected')
        GROUP BY account HAVING sum(entries) > 0
    """
    return {row[0]: int(row[1]) for row in transaction.execute(query)}


def health(transaction: Transaction) -> Health:
    """Return the condition of the account's entries and workers."""
    # Ordered by state and id, for the same reason as a page.
    oldest = """
        SELECT {now} - put_at FROM leadpost_entries
        WHERE account = :account AND (state, id) > ('pending', 0) AND state <= 'pending'
        ORDER BY state, id LIMIT 1
    """
    seconds: float | None = transaction.execute(oldest).scalar()
    worker = """
        SELECT coalesce(worker_seen_at BETWEEN {now} - :seen_within AND {now} + 60, FALSE),
            away_since, called_at
        FROM leadpost_accounts WHERE account = :account
    """
    found = transaction.execute(worker, seen_within=SEEN_WITHIN).one_or_none()
    is_working, away_since, called_at = (False, None, None) if found is None else found
    return Health(
        counts=count(transaction),
        oldest_pending=None if seconds is None else max(seconds, 0.0),
        is_working=bool(is_working),
        away_since=moment(away_since) if is_working and away_since is not None else None,
        called_at=None if called_at is None else moment(called_at),
    )


def history(transaction: Transaction, entry_id: int) -> list[Change]:
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
    found = transaction.execute(query, id=entry_id)
    return [Change(row.state, moment(row.at), row.note) for row in found]


def add_changes(transaction: Transaction, ids: Iterable[int], state: EntryState, note: str) -> int:
    """Add the new state of entries, and the reason, to their histories; return their number."""
    rows = [{"id": id_, "state": state, "note": storable(note)} for id_ in ids]
    insert = "INSERT INTO leadpost_changes (entry_id, state, note) VALUES (:id, :state, :note)"
    transaction.execute_many(insert, rows)
    return len(rows)
