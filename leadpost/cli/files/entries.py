"""The entries of a batch's rows in the outbox: putting them, and taking them back."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.cli.files.identity import new_key
from leadpost.cli.files.ledger import ROWS, Batch, Ledger, parts_of
from leadpost.cli.files.plan import Planned
from leadpost.outbox.database._sql import execute, execute_many

Part = Sequence[tuple[Planned, Any]]
"""At most 500 rows, each with its activity; None if it cannot be posted."""


class Entries:
    """
    The entries of the rows of one batch.

    Args:
        ledger: What is known.
        batch: The batch.
    """

    def __init__(self, ledger: Ledger, batch: Batch) -> None:
        self._ledger = ledger
        self._outbox = ledger.outbox
        self._database = ledger.database
        self._batch = batch

    def _key(self, letters: str) -> str:
        return f"{self._batch.name}/{letters}"

    async def put(self, part: Part) -> None:
        """
        Put rows that are new, with their entries, in one transaction.

        A row that cannot be posted gets no entry, but a key for the rejects.
        """

        async def work(connection: AsyncConnection) -> None:
            values = [
                {
                    "batch": self._batch.id,
                    "letters": new_key(),
                    "origin": row.digest,
                    "number": row.number,
                    "present": row.present if activity else None,
                    "lead": row.lead,
                }
                for row, activity in part
            ]
            # Another run of the same file gives its rows the same numbers: each is put once.
            await execute_many(
                connection,
                "INSERT INTO leadpost_rows (batch, letters, origin, number, present, lead)"
                " VALUES (:batch, :letters, :origin, :number, :present, :lead)"
                " ON CONFLICT (batch, origin, number) DO NOTHING",
                values,
            )
            there = await execute(
                connection,
                "SELECT id, letters, origin, number FROM leadpost_rows"
                " WHERE batch = :batch AND origin IN :origins",
                batch=self._batch.id,
                origins=[row.digest for row, _ in part],
            )
            found = {(row.origin, row.number): row for row in there}
            new = {value["letters"] for value in values}
            activities: dict[Any, Any] = {}
            for row, activity in part:
                stored = found[row.digest, row.number]
                row.known = stored.id
                if activity and stored.letters in new:
                    activities[stored.letters] = activity
            await self._put_entries(connection, activities)

        await self._database.write(work)

    async def correct(self, part: Part) -> None:
        """
        Give rows of a rejects file the activities that they are now.

        Raises:
            KeyConflict: one was sent meanwhile.
        """
        states = await self._ledger.states([row.known for row, _ in part if row.known])
        letters = {row: states[row.known].letters for row, _ in part if row.known}
        activities = {self._key(letters[row]): activity for row, activity in part}
        known = await self._outbox.find(list(activities))
        await self._outbox.replace({key: activities[key] for key in known})
        new = {
            letters[row]: activity for row, activity in part if self._key(letters[row]) not in known
        }

        async def work(connection: AsyncConnection) -> None:
            await self._put_entries(connection, new)
            await execute_many(
                connection,
                "UPDATE leadpost_rows SET present = :present, lead = :lead WHERE id = :id",
                [{"present": row.present, "lead": row.lead, "id": row.known} for row, _ in part],
            )

        await self._database.write(work)

    async def retry(self, part: Part) -> None:
        """Make the entries of refused, given-up or failed rows pending again."""
        ids = [row.known for row, _ in part if row.known is not None]
        found = await self._database.read(lambda connection: self._entries(connection, ids))
        entries = [row.entry for row in found.values() if row.entry is not None]
        await self._outbox.retry("rejected", "failed", ids=entries)
        pruned = {
            found[row.known].letters: activity
            for row, activity in part
            if row.known is not None and found[row.known].entry is None and activity
        }
        await self._database.write(lambda connection: self._put_entries(connection, pruned))

    async def _put_entries(
        self, connection: AsyncConnection, activities: Mapping[str, Any]
    ) -> None:
        """Put activities, given by the letters of their rows, in the rows' transaction."""
        if not activities:
            return
        keys = [self._key(letters) for letters in activities]
        await self._outbox.put_many(activities.values(), keys=keys, connection=connection)
        await execute(
            connection,
            "UPDATE leadpost_rows SET entry = (SELECT id FROM leadpost_entries WHERE"
            " account = :account AND key = :name || '/' || letters) WHERE letters IN :letters",
            account=self._outbox.account,
            name=self._batch.name,
            letters=[*activities],
        )

    async def _entries(
        self, connection: AsyncConnection, ids: Sequence[int]
    ) -> dict[int, sa.Row[Any]]:
        query = "SELECT known.id, letters, origin, entry.id AS entry"
        query += f" FROM {ROWS} WHERE known.id IN :ids ORDER BY known.id"
        return {row.id: row for row in await execute(connection, query, ids=[*ids])}

    async def postpone(self, rows: Sequence[Planned]) -> None:
        """Make rows as if they had never been put, for a later run to put them."""
        await self.withdraw([row.known for row in rows if row.known is not None], forget=True)
        for row in rows:
            row.known = None

    async def withdraw(self, ids: Sequence[int], *, forget: bool = False) -> None:
        """
        Take rows back that were not sent: nothing can send them any more.

        Args:
            ids: The numbers of the rows.
            forget: Whether they are as if they had never been put; otherwise their keys stay known.
        """

        async def work(connection: AsyncConnection, part: Sequence[int]) -> None:
            found = await self._entries(connection, part)
            # One that a worker has just claimed is sent: its row stays.
            deleted = await execute(
                connection,
                "DELETE FROM leadpost_entries WHERE id IN :ids"
                " AND state IN ('pending', 'rejected', 'failed') RETURNING id",
                ids=[row.entry for row in found.values() if row.entry is not None],
            )
            gone = list(deleted.scalars())
            changes = "DELETE FROM leadpost_changes WHERE entry_id IN :ids"
            await execute(connection, changes, ids=gone)
            statement = (
                "DELETE FROM leadpost_rows WHERE id IN :ids"
                if forget
                else "UPDATE leadpost_rows SET number = NULL WHERE id IN :ids"
            )
            withdrawn = [id_ for id_, row in found.items() if row.entry in {None, *gone}]
            await execute(connection, statement, ids=withdrawn)

        for part in parts_of(ids):
            await self._database.write(partial(work, part=part))

    async def move(self, ids: Sequence[int]) -> None:
        """Move rows of other batches, with their entries, to this one."""

        async def work(connection: AsyncConnection, part: Sequence[int]) -> None:
            for id_, row in (await self._entries(connection, part)).items():
                await execute(
                    connection,
                    "UPDATE leadpost_rows SET batch = :batch, number = 1 + coalesce((SELECT"
                    " max(number) FROM leadpost_rows WHERE batch = :batch AND origin = :origin), 0)"
                    " WHERE id = :id",
                    id=id_,
                    batch=self._batch.id,
                    origin=row.origin,
                )
                await execute(
                    connection,
                    "UPDATE leadpost_entries SET key = :key WHERE id = :id",
                    id=row.entry,
                    key=self._key(row.letters),
                )

        for part in parts_of(ids):
            await self._database.write(partial(work, part=part))
