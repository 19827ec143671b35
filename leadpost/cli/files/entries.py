"""The entries of a batch's rows in the outbox: putting them, and taking them back."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.cli.files.batches import Batch, parts_of
from leadpost.cli.files.identity import new_key
from leadpost.cli.files.records import Stored
from leadpost.cli.files.tables import ROWS, all_of, do
from leadpost.outbox import Outbox


class Entries:
    """
    The entries of the rows of one batch.

    Args:
        outbox: The outbox.
        batch: The batch.
    """

    def __init__(self, outbox: Outbox, batch: Batch) -> None:
        self._outbox = outbox
        self._database = outbox.database
        self._batch = batch

    def _key(self, letters: str | None) -> str:
        return f"{self._batch.name}/{letters}"

    async def put(self, part: Sequence[tuple[Stored, Any]]) -> list[tuple[int, int]]:
        """
        Put at most 500 rows that are new, with their entries, in one transaction.

        Args:
            part: Each with its activity. One that cannot be posted has None, and no entry; it gets
                a key for the rejects all the same.

        Returns:
            The place of each, and its number from now on.
        """

        async def work(connection: AsyncConnection) -> list[tuple[int, int]]:
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
            await do(
                connection,
                "INSERT INTO leadpost_rows (batch, letters, origin, number, present, lead)"
                " VALUES (:batch, :letters, :origin, :number, :present, :lead)"
                " ON CONFLICT (batch, origin, number) DO NOTHING",
                values,
            )
            there = await all_of(
                connection,
                "SELECT id, letters, origin, number FROM leadpost_rows"
                " WHERE batch = :batch AND origin IN :digests",
                {"batch": self._batch.id, "digests": [row.digest for row, _ in part]},
            )
            found = {(row.origin, row.number): row for row in there}
            new = {value["letters"] for value in values}
            letters: list[str] = [found[row.digest, row.number].letters for row, _ in part]
            activities = {
                own: activity
                for own, (_, activity) in zip(letters, part, strict=True)
                if activity and own in new
            }
            await self._put_entries(connection, activities)
            return [(row.pos, found[row.digest, row.number].id) for row, _ in part]

        return await self._database.write(work)

    async def correct(self, part: Sequence[tuple[Stored, Any]]) -> None:
        """
        Give at most 500 rows of a rejects file the activity that they are now.

        Raises:
            KeyConflict: one was sent meanwhile.
        """
        activities = {self._key(row.letters): activity for row, activity in part}
        known = await self._outbox.find(list(activities))
        await self._outbox.replace({key: activities[key] for key in known})
        new = {
            row.letters: activity
            for row, activity in part
            if row.letters and self._key(row.letters) not in known
        }

        async def work(connection: AsyncConnection) -> None:
            await self._put_entries(connection, new)
            await do(
                connection,
                "UPDATE leadpost_rows SET present = :present, lead = :lead WHERE id = :id",
                [{"present": row.present, "lead": row.lead, "id": row.known} for row, _ in part],
            )

        await self._database.write(work)

    async def retry(self, part: Sequence[tuple[Stored, Any]]) -> None:
        """Make the entries of at most 500 refused, given-up or failed rows pending again."""
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
        """Put activities, given by the letters of their rows, with the rows' transaction."""
        if not activities:
            return
        keys = [self._key(letters) for letters in activities]
        await self._outbox.put_many(activities.values(), keys=keys, connection=connection)
        await do(
            connection,
            "UPDATE leadpost_rows SET entry = (SELECT id FROM leadpost_entries WHERE"
            " account = :account AND key = :name || '/' || letters) WHERE letters IN :letters",
            {"account": self._outbox.account, "name": self._batch.name, "letters": [*activities]},
        )

    async def _entries(
        self, connection: AsyncConnection, ids: Sequence[int]
    ) -> dict[int, sa.Row[Any]]:
        query = "SELECT known.id, letters, origin, entry.id AS entry"
        query += f" FROM {ROWS} WHERE known.id IN :ids ORDER BY known.id"
        return {row.id: row for row in await all_of(connection, query, {"ids": ids})}

    async def withdraw(self, ids: Sequence[int], *, forget: bool = False) -> None:
        """
        Take rows back that were not sent: nothing can send them any more.

        Args:
            ids: The rows.
            forget: Whether they are as if they had never been put; or else their keys stay known.
        """

        async def work(connection: AsyncConnection, part: Sequence[int]) -> None:
            found = await self._entries(connection, part)
            # One that a worker has just claimed is sent: its row stays.
            deleted = await all_of(
                connection,
                "DELETE FROM leadpost_entries WHERE id IN :ids"
                " AND state IN ('pending', 'rejected', 'failed') RETURNING id",
                {"ids": [row.entry for row in found.values() if row.entry is not None]},
            )
            gone = [row.id for row in deleted]
            await do(
                connection, "DELETE FROM leadpost_changes WHERE entry_id IN :ids", {"ids": gone}
            )
            withdrawn = [id_ for id_, row in found.items() if row.entry in {None, *gone}]
            statement = (
                "DELETE FROM leadpost_rows WHERE id IN :ids"
                if forget
                else "UPDATE leadpost_rows SET number = NULL WHERE id IN :ids"
            )
            await do(connection, statement, {"ids": withdrawn})

        for part in parts_of(ids):
            await self._database.write(partial(work, part=part))

    async def move(self, ids: Sequence[int]) -> None:
        """Move rows of other batches, with their entries, to this one."""

        async def work(connection: AsyncConnection, part: Sequence[int]) -> None:
            for id_, row in (await self._entries(connection, part)).items():
                await do(
                    connection,
                    "UPDATE leadpost_rows SET batch = :batch, number = 1 + coalesce((SELECT"
                    " max(number) FROM leadpost_rows WHERE batch = :batch AND origin = :origin), 0)"
                    " WHERE id = :id",
                    {"id": id_, "batch": self._batch.id, "origin": row.origin},
                )
                await do(
                    connection,
                    "UPDATE leadpost_entries SET key = :key WHERE id = :id",
                    {"id": row.entry, "key": self._key(row.letters)},
                )

        for part in parts_of(ids):
            await self._database.write(partial(work, part=part))
