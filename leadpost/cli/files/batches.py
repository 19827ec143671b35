# ruff: noqa: S608  the statements are made of fixed texts
"""
Batches and their rows in the outbox's database: two tables of the command's own.

A row is known by its digest for good; its entry, which may be pruned, by its key `BATCH/LETTERS`.
"""

import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self, cast

import sqlalchemy as sa
from attrs import frozen
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.cli.files.identity import new_key
from leadpost.cli.files.reading import Reading
from leadpost.cli.files.records import Stored
from leadpost.cli.files.tables import KNOWN, ROWS, Values, all_of, are_there, create, do
from leadpost.outbox import Outbox

PART = 500
"""Rows that one statement is about at most."""
_PAGE = 5000
"""Rows that are read at once."""


@frozen
class Batch:
    """
    A batch.

    Attributes:
        id: Its number in the database.
        name: Its name.
        file: The name of the file that it came from.
        reading: How that was read.
        outputs: The digests of the rejects files that were written, by their names.
        posted_at: When something of it was posted last.
    """

    id: int
    name: str
    file: str
    reading: Reading
    outputs: Mapping[str, str]
    posted_at: datetime | None


class Batches:
    """
    The batches of one account.

    Args:
        outbox: The outbox of the account, open.
        host: The account's host: what was posted there with other keys is known too.
    """

    def __init__(self, outbox: Outbox, host: str) -> None:
        self._outbox = outbox
        self._database = outbox.database
        self._account = outbox.account
        self._host = host

    async def open(self) -> Self:
        """Create the tables, if they are missing."""
        if not await self._database.read(are_there):
            await self._database.write(create, within=None)
        return self

    async def _all(self, query: str, **values: Any) -> list[sa.Row[Any]]:
        values |= {"account": self._account, "host": self._host}
        return await self._database.read(lambda connection: all_of(connection, query, values))

    async def _execute(self, statement: str, values: Values) -> None:
        await self._database.write(lambda own: do(own, statement, values), within=None)

    # Batches.

    async def find(self, name: str) -> Batch | None:
        """Return the batch of that name."""
        found = await self._all(
            "SELECT * FROM leadpost_batches WHERE account = :account AND name = :name", name=name
        )
        return _batch(found[0]) if found else None

    async def of_letters(self, letters: Iterable[str]) -> dict[str, str]:
        """Return the name of the batch for each key of a rejects file that is known."""
        found: list[sa.Row[Any]] = []
        for part in _parts(list(letters)):
            found += await self._all(
                "SELECT letters, name FROM leadpost_rows JOIN leadpost_batches batch ON"
                " batch.id = leadpost_rows.batch WHERE letters IN :letters AND account = :account",
                letters=part,
            )
        return {row.letters: row.name for row in found}

    async def knows_file(self, file: str) -> bool:
        """Whether a file of that name was posted by anyone."""
        return bool(await self._all("SELECT 1 FROM leadpost_batches WHERE file = :file", file=file))

    async def begin(self, name: str, file: str, reading: Reading) -> Batch:
        """Create a batch, or note how it is read now."""
        await self._execute(
            "INSERT INTO leadpost_batches (account, host, name, file, reading, outputs)"
            " VALUES (:account, :host, :name, :file, :reading, '{}') ON CONFLICT (account, name)"
            " DO UPDATE SET file = excluded.file, reading = excluded.reading",
            {
                "account": self._account,
                "host": self._host,
                "name": name,
                "file": file,
                "reading": json.dumps(reading.as_json()),
            },
        )
        return cast("Batch", await self.find(name))

    async def note_outputs(self, batch: Batch, outputs: Mapping[str, str]) -> None:
        """Note which rejects files were written, with the digests of their contents."""
        values = {"outputs": json.dumps(dict(outputs)), "id": batch.id}
        await self._execute("UPDATE leadpost_batches SET outputs = :outputs WHERE id = :id", values)

    async def note_posted(self, batch: Batch) -> None:
        """Note that something was posted just now."""
        values = {"now": datetime.now(UTC).timestamp(), "id": batch.id}
        await self._execute("UPDATE leadpost_batches SET posted_at = :now WHERE id = :id", values)

    # Rows that are known.

    async def known(self, batch: Batch) -> AsyncGenerator[Sequence[sa.Row[Any]]]:
        """Yield what is known of the rows of a batch, see `KNOWN_COLUMNS`, in parts."""
        last = 0
        query = f"SELECT {KNOWN} FROM {ROWS} WHERE known.batch = :batch AND known.id > :last"
        query += f" ORDER BY known.id LIMIT {_PAGE}"
        while found := await self._all(query, batch=batch.id, last=last):
            yield found
            last = found[-1].id

    async def has_others(self, name: str) -> bool:
        """Whether there are batches but this one, of this account or others at the same host."""
        return bool(
            await self._all(
                "SELECT 1 FROM leadpost_batches WHERE host = :host"
                " AND NOT (account = :account AND name = :name) LIMIT 1",
                name=name,
            )
        )

    async def elsewhere(self, batch: str, digests: Sequence[str]) -> list[sa.Row[Any]]:
        """
        Look for activities in other batches, and with other keys of the same host.

        Args:
            batch: The name of the batch that does not count.
            digests: At most 500.

        Returns:
            What is known of them, see `KNOWN_COLUMNS`, and then `batch`, the name, and
            `has_other_keys`.
        """
        return await self._all(
            f"SELECT {KNOWN}, batch.name AS batch, batch.account != :account AS has_other_keys"
            f" FROM {ROWS} WHERE batch.host = :host"
            " AND NOT (batch.account = :account AND batch.name = :batch)"
            " AND number IS NOT NULL AND (present IN :digests OR origin IN :digests)",
            batch=batch,
            digests=digests,
        )

    async def activities(self, ids: Sequence[int]) -> dict[int, Any]:
        """Return the activities of at most 500 rows by their numbers; not those that are pruned."""
        found = await self._all(
            f"SELECT known.id, entry.activity FROM {ROWS} WHERE known.id IN :ids"
            " AND entry.id IS NOT NULL",
            ids=ids,
        )
        return {row.id: json.loads(row.activity) for row in found}

    async def note_seen(self, states: Sequence[tuple[int, str]]) -> None:
        """Note the states of entries by the numbers of their rows, for when they are pruned."""
        for part in _parts(states):
            await self._execute(
                "UPDATE leadpost_rows SET last = :last WHERE id = :id",
                [{"id": id_, "last": last} for id_, last in part],
            )

    # Changing them.

    async def put(self, batch: Batch, part: Sequence[tuple[Stored, Any]]) -> list[tuple[int, int]]:
        """
        Put at most 500 rows that are new, with their entries, in one transaction.

        Args:
            batch: Their batch.
            part: Each with its activity. One that cannot be posted has None, and no entry; it gets
                a key for the rejects all the same.

        Returns:
            The place of each, and its number from now on.
        """

        async def work(connection: AsyncConnection) -> list[tuple[int, int]]:
            values = [
                {
                    "batch": batch.id,
                    "letters": new_key(),
                    "origin": row.digest,
                    "number": row.number,
                    "present": row.digest if activity else None,
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
                {"batch": batch.id, "digests": [row.digest for row, _ in part]},
            )
            found = {(row.origin, row.number): row for row in there}
            new = {value["letters"] for value in values}
            letters: list[str] = [found[row.digest, row.number].letters for row, _ in part]
            activities = {
                own: activity
                for own, (_, activity) in zip(letters, part, strict=True)
                if activity and own in new
            }
            await self._put_entries(connection, batch, activities)
            return [(row.pos, found[row.digest, row.number].id) for row, _ in part]

        return await self._database.write(work)

    async def correct(self, batch: Batch, part: Sequence[tuple[Stored, Any]]) -> None:
        """
        Give at most 500 rows of a rejects file the activity that they are now.

        Raises:
            KeyConflict: one was sent meanwhile.
        """
        activities = {_key(batch, row.letters): activity for row, activity in part}
        known = await self._outbox.find(list(activities))
        await self._outbox.replace({key: activities[key] for key in known})
        new = {
            row.letters: activity
            for row, activity in part
            if row.letters and _key(batch, row.letters) not in known
        }

        async def work(connection: AsyncConnection) -> None:
            await self._put_entries(connection, batch, new)
            await do(
                connection,
                "UPDATE leadpost_rows SET present = :digest, lead = :lead WHERE id = :id",
                [{"digest": row.digest, "lead": row.lead, "id": row.known} for row, _ in part],
            )

        await self._database.write(work)

    async def retry(self, batch: Batch, part: Sequence[tuple[Stored, Any]]) -> None:
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
        await self._database.write(lambda connection: self._put_entries(connection, batch, pruned))

    async def _put_entries(
        self, connection: AsyncConnection, batch: Batch, activities: Mapping[str, Any]
    ) -> None:
        """Put activities, given by the letters of their rows, with the rows' transaction."""
        if not activities:
            return
        keys = [_key(batch, letters) for letters in activities]
        await self._outbox.put_many(activities.values(), keys=keys, connection=connection)
        await do(
            connection,
            "UPDATE leadpost_rows SET entry = (SELECT id FROM leadpost_entries WHERE"
            " account = :account AND key = :name || '/' || letters) WHERE letters IN :letters",
            {"account": self._account, "name": batch.name, "letters": [*activities]},
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

        for part in _parts(ids):
            await self._database.write(partial(work, part=part))

    async def move(self, batch: Batch, ids: Sequence[int]) -> None:
        """Move rows of other batches, with their entries, to this one."""

        async def work(connection: AsyncConnection, part: Sequence[int]) -> None:
            for id_, row in (await self._entries(connection, part)).items():
                await do(
                    connection,
                    "UPDATE leadpost_rows SET batch = :batch, number = 1 + coalesce((SELECT"
                    " max(number) FROM leadpost_rows WHERE batch = :batch AND origin = :origin), 0)"
                    " WHERE id = :id",
                    {"id": id_, "batch": batch.id, "origin": row.origin},
                )
                await do(
                    connection,
                    "UPDATE leadpost_entries SET key = :key WHERE id = :id",
                    {"id": row.entry, "key": _key(batch, row.letters)},
                )

        for part in _parts(ids):
            await self._database.write(partial(work, part=part))

    async def adopt(self, previous: str) -> None:
        """Hand over the batches of another account, except those whose names are taken."""
        await self._execute(
            "UPDATE leadpost_batches SET account = :account WHERE account = :previous"
            " AND name NOT IN (SELECT name FROM leadpost_batches WHERE account = :account)",
            {"account": self._account, "previous": previous},
        )


def _key(batch: Batch, letters: str | None) -> str:
    return f"{batch.name}/{letters}"


def _parts(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[first : first + PART] for first in range(0, len(items), PART)]


def _batch(row: sa.Row[Any]) -> Batch:
    at = None if row.posted_at is None else datetime.fromtimestamp(row.posted_at, UTC)
    reading = Reading.from_json(json.loads(row.reading))
    return Batch(row.id, row.name, row.file, reading, json.loads(row.outputs), at)
