"""The entries of a batch's rows in the outbox: putting and withdrawing them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from attrs import evolve

from leadpost.cli.files.comparing.ledger import Batch, Ledger, parts_of
from leadpost.cli.files.reading.identity import new_key
from leadpost.cli.files.reading.row import Problem, Row
from leadpost.errors import DeliveryUncertain
from leadpost.outbox.database._sql import execute, execute_many

Part = Sequence[tuple[Row, Mapping[str, Any] | None]]
"""At most 500 rows, each with its activity; None if it cannot be posted."""


async def put(ledger: Ledger, batch: Batch, part: Part) -> None:
    """
    Put rows with their entries, in one transaction.

    A known row gets a new entry in place of the one that was not sent. A row that cannot be posted
    gets no entry, but a key for the rejects.
    """
    outbox = ledger.outbox

    def work(connection: sa.Connection) -> list[int]:
        # It changes no row itself: it is repeated if it was rolled back.
        old = [row.known for row, activity in part if row.known and activity]
        free = _delete_unsent(connection, old)
        known, new = _insert(connection, batch, [row for row, _ in part if not row.known])
        free |= new
        ids = [row.known or known[row.digest_read, row.number] for row, _ in part]
        put = [
            (id_, row, f"{batch.name}/{free[id_]}", activity)
            for id_, (row, activity) in zip(ids, part, strict=True)
            if activity and id_ in free
        ]
        activities = [activity for *_, activity in put]
        outbox.put_within(connection, activities, [key for _, _, key, _ in put])
        execute_many(
            connection,
            "UPDATE leadpost_rows SET digest_sent = :digest_sent, ended = NULL, reason = NULL,"
            " entry = (SELECT id FROM leadpost_entries WHERE account = :account AND key = :key)"
            " WHERE id = :id",
            [
                {
                    "id": id_,
                    "digest_sent": row.digest_sent,
                    "account": outbox.account,
                    "key": key,
                }
                for id_, row, key, _ in put
            ],
        )
        execute_many(
            connection,
            "UPDATE leadpost_rows SET reason = :reason WHERE id = :id AND digest_sent IS NULL",
            [
                {"id": id_, "reason": "; ".join(map(_without_value, row.problems))}
                for id_, (row, _) in zip(ids, part, strict=True)
                if row.problems
            ],
        )
        return ids

    for (row, _), id_ in zip(part, await ledger.database.write(work), strict=True):
        row.known = id_


def _without_value(problem: Problem) -> str:
    """Return a problem without what stands in the cell: it is kept for as long as the outbox."""
    return str(evolve(problem, value=""))


async def withdraw(ledger: Ledger, ids: Sequence[int]) -> int:
    """
    Withdraw rows that were not sent, by their numbers: nothing can send them any more.

    Returns:
        How many stay, because they have been sent after all, or may have been.
    """

    def work(connection: sa.Connection, part: Sequence[int]) -> int:
        free = _delete_unsent(connection, part)
        # One that may have arrived is not sent again, and counts as posted in the next run.
        execute(
            connection,
            "UPDATE leadpost_entries SET state = 'uncertain' WHERE state = 'pending' AND id IN"
            " (SELECT entry FROM leadpost_rows WHERE id IN :ids)",
            ids=[*part],
        )
        statement = "UPDATE leadpost_rows SET number = NULL WHERE id IN :ids"
        execute(connection, statement, ids=[*free])
        return len(part) - len(free)

    return sum([await ledger.database.write(partial(work, part=part)) for part in parts_of(ids)])


def _insert(
    connection: sa.Connection, batch: Batch, rows: Sequence[Row]
) -> tuple[dict[tuple[str, int | None], int], dict[int, str]]:
    """
    Insert new rows.

    Returns:
        The number of each, by its digest and its number among those of the same digest; and number
        and key of each that no other run has inserted.
    """
    if not rows:
        return {}, {}
    values = [
        {
            "batch": batch.id,
            "row_key": new_key(),
            "digest_read": row.digest_read,
            "number": row.number,
        }
        for row in rows
    ]
    new = {value["row_key"] for value in values}
    # Another run of the same file gives its rows the same numbers: each is put once.
    execute_many(
        connection,
        "INSERT INTO leadpost_rows (batch, row_key, digest_read, number)"
        " VALUES (:batch, :row_key, :digest_read, :number)"
        " ON CONFLICT (batch, digest_read, number) DO NOTHING",
        values,
    )
    there = execute(
        connection,
        "SELECT id, row_key, digest_read, number FROM leadpost_rows"
        " WHERE batch = :batch AND digest_read IN :digests",
        batch=batch.id,
        digests=[row.digest_read for row in rows],
    )
    stored = there.all()
    return (
        {(one.digest_read, one.number): one.id for one in stored},
        {one.id: str(one.row_key) for one in stored if one.row_key in new},
    )


def _delete_unsent(connection: sa.Connection, ids: Sequence[int]) -> dict[int, str]:
    """
    Delete the entries of rows, if they were not sent.

    Returns:
        Number and key of each row that has no entry now. One that a worker has just claimed
        keeps its entry, and so does one that may have arrived.
    """
    deleted = execute(
        connection,
        "DELETE FROM leadpost_entries WHERE id IN (SELECT entry FROM leadpost_rows WHERE id IN"
        " :ids) AND (state IN ('rejected', 'failed') OR state = 'pending' AND"
        " coalesce(error_type, '') <> :uncertain) RETURNING id",
        ids=[*ids],
        uncertain=DeliveryUncertain.__name__,
    )
    entries = list(deleted.scalars())
    execute(connection, "DELETE FROM leadpost_changes WHERE entry_id IN :ids", ids=entries)
    free = execute(
        connection,
        "SELECT id, row_key FROM leadpost_rows AS known WHERE id IN :ids AND NOT EXISTS"
        " (SELECT 1 FROM leadpost_entries WHERE id = known.entry)",
        ids=[*ids],
    )
    return {row.id: row.row_key for row in free}
