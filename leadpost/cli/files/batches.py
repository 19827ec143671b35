# ruff: noqa: S608  the statements are made of fixed texts
"""
Batches and their rows in the outbox's database: two tables of the command's own.

A row is known by its digest for good; its entry, which may be pruned, by its key `BATCH/LETTERS`.
"""

import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self, cast

import sqlalchemy as sa
from attrs import frozen

from leadpost.cli.files.reading import Reading
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
        for part in parts_of(list(letters)):
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
        for part in parts_of(states, _PAGE):
            await self._execute(
                "UPDATE leadpost_rows SET last = :last WHERE id = :id",
                [{"id": id_, "last": last} for id_, last in part],
            )

    async def adopt(self, previous: str) -> None:
        """Hand over the batches of another account, except those whose names are taken."""
        await self._execute(
            "UPDATE leadpost_batches SET account = :account WHERE account = :previous"
            " AND name NOT IN (SELECT name FROM leadpost_batches WHERE account = :account)",
            {"account": self._account, "previous": previous},
        )


def parts_of(items: Sequence[Any], size: int = PART) -> list[Sequence[Any]]:
    """Cut a sequence into parts."""
    return [items[first : first + size] for first in range(0, len(items), size)]


def _batch(row: sa.Row[Any]) -> Batch:
    at = None if row.posted_at is None else datetime.fromtimestamp(row.posted_at, UTC)
    reading = Reading.from_json(json.loads(row.reading))
    return Batch(row.id, row.name, row.file, reading, json.loads(row.outputs), at)
