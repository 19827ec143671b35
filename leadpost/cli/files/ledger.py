# ruff: noqa: S608  the statements are made of fixed texts
"""
What is known of the rows of files: two tables of the command's own, in the outbox's database.

A row is known by its digests for good; its entry, which may be pruned, by its key `BATCH/LETTERS`.
"""

import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, Self, cast

import sqlalchemy as sa
from attrs import frozen
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.cli.files.reading import Reading
from leadpost.outbox import Outbox
from leadpost.outbox.database._sql import execute

PART = 500
"""Rows that one statement is about at most."""
_PAGE = 5000
"""Rows that are read at once."""
FAILED_BY_QUEUE = "failed by the queue"
"""In place of the last state of a pruned entry that LeadSquared's queue has failed for good."""

TABLES = (
    """
    CREATE TABLE IF NOT EXISTS leadpost_batches (
        id {id},
        account TEXT NOT NULL,
        host TEXT NOT NULL,
        name TEXT NOT NULL,
        file TEXT NOT NULL, -- its name without its folder
        reading TEXT NOT NULL, -- JSON, see `Reading`
        outputs TEXT NOT NULL, -- JSON, name to digest of its content
        posted_at DOUBLE PRECISION, -- seconds since 1970
        UNIQUE (account, name)
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS leadpost_rows (
        id {id},
        batch BIGINT NOT NULL,
        letters TEXT NOT NULL UNIQUE, -- of its key, which rejects files have
        origin TEXT NOT NULL, -- its digest in the file that it came from
        number INTEGER, -- among those of the same origin, from 1; NULL once it is withdrawn
        present TEXT, -- the digest of what its entry sends; NULL without an entry
        lead TEXT NOT NULL, -- the digest of its lead
        last TEXT, -- the state of its entry that was seen last
        entry BIGINT, -- which outlives the entry when that is pruned
        UNIQUE (batch, origin, number)
    )
    """,
    # A batch is read in the order of putting.
    "CREATE INDEX IF NOT EXISTS leadpost_rows_batch ON leadpost_rows (batch, id)",
    "CREATE INDEX IF NOT EXISTS leadpost_rows_present ON leadpost_rows (present)",
    "CREATE INDEX IF NOT EXISTS leadpost_rows_origin ON leadpost_rows (origin)",
)
ROWS = """
leadpost_rows AS known JOIN leadpost_batches AS batch ON batch.id = known.batch
LEFT JOIN leadpost_entries AS entry ON entry.id = known.entry
"""
_KIND = f"""
CASE
    WHEN number IS NULL THEN 'withdrawn'
    WHEN present IS NULL THEN 'invalid'
    WHEN state = 'pending' THEN 'waiting'
    WHEN state = 'failed' AND request_id IS NOT NULL THEN 'failed'
    WHEN coalesce(state, last) = '{FAILED_BY_QUEUE}' THEN 'failed'
    WHEN coalesce(state, last) IN ('rejected', 'failed') THEN 'refused'
    ELSE 'posted'
END
"""

Kind = Literal["posted", "waiting", "refused", "failed", "invalid", "withdrawn"]
"""
What is known of a row of an earlier run: `posted` (accepted, or in doubt), `waiting` (not sent
yet), `refused` (or given up), `failed` (by LeadSquared's queue, for good), `invalid`, `withdrawn`.
"""


@frozen
class Batch:
    """A batch."""

    id: int
    name: str
    file: str  # the name of the file that it came from
    reading: Reading
    outputs: Mapping[str, str]  # the digests of the rejects files that were written, by their names
    posted_at: datetime | None  # when something of it was posted last


@frozen
class Known:
    """A row of an earlier run."""

    id: int
    batch: str  # the name of its batch
    is_own: bool  # whether that is the batch in question
    has_other_keys: bool  # whether it belongs to other keys of the same host
    letters: str
    origin: str
    present: str | None
    number: int | None
    kind: Kind


_COLUMNS = f"""
known.id, batch.name, batch.account = :account AND batch.name = :name, batch.account != :account,
letters, origin, present, number, {_KIND}
"""


class Ledger:
    """
    The batches and rows of one account.

    Args:
        outbox: The outbox of the account, open.
        host: The account's host: what was posted there with other keys is known too.
    """

    def __init__(self, outbox: Outbox, host: str) -> None:
        self.outbox = outbox
        self.database = outbox.database
        self._account = outbox.account
        self._host = host

    async def open(self) -> Self:
        """Create the tables, if they are missing."""
        if not await self.database.read(_are_there):
            await self.database.write(_create)
        return self

    async def _all(self, query: str, **values: Any) -> list[sa.Row[Any]]:
        async def work(connection: AsyncConnection) -> list[sa.Row[Any]]:
            found = await execute(
                connection, query, **values, account=self._account, host=self._host
            )
            return list(found.all())

        return await self.database.read(work)

    async def _do(self, statement: str, **values: Any) -> None:
        await self.database.write(lambda own: execute(own, statement, **values), within=None)

    # Batches.

    async def batch(self, name: str) -> Batch | None:
        """Return the batch of that name."""
        found = await self._all(
            "SELECT id, name, file, reading, outputs, posted_at FROM leadpost_batches"
            " WHERE account = :account AND name = :name",
            name=name,
        )
        if not found:
            return None
        (row,) = found
        at = None if row.posted_at is None else datetime.fromtimestamp(row.posted_at, UTC)
        reading = Reading.from_json(json.loads(row.reading))
        return Batch(row.id, row.name, row.file, reading, json.loads(row.outputs), at)

    async def begin(self, name: str, file: str, reading: Reading) -> Batch:
        """Create a batch, or record how it is read now."""
        await self._do(
            "INSERT INTO leadpost_batches (account, host, name, file, reading, outputs)"
            " VALUES (:account, :host, :name, :file, :reading, '{{}}') ON CONFLICT (account, name)"
            " DO UPDATE SET file = excluded.file, reading = excluded.reading",
            account=self._account,
            host=self._host,
            name=name,
            file=file,
            reading=json.dumps(reading.as_json()),
        )
        return cast("Batch", await self.batch(name))

    async def knows_file(self, file: str) -> bool:
        """Whether a file of that name was posted by anyone."""
        return bool(await self._all("SELECT 1 FROM leadpost_batches WHERE file = :file", file=file))

    async def record_outputs(self, batch: Batch, outputs: Mapping[str, str]) -> None:
        """Record which rejects files were written, with the digests of their contents."""
        statement = "UPDATE leadpost_batches SET outputs = :outputs WHERE id = :id"
        await self._do(statement, outputs=json.dumps(dict(outputs)), id=batch.id)

    async def record_posted(self, batch: Batch) -> None:
        """Record that something was posted just now."""
        statement = "UPDATE leadpost_batches SET posted_at = {now} WHERE id = :id"
        await self._do(statement, id=batch.id)

    async def adopt(self, previous: str) -> None:
        """Transfer the batches of another account, except those whose names are taken."""
        await self._do(
            "UPDATE leadpost_batches SET account = :account WHERE account = :previous"
            " AND name NOT IN (SELECT name FROM leadpost_batches WHERE account = :account)",
            account=self._account,
            previous=previous,
        )

    # Rows.

    async def of_digests(self, name: str, digests: Iterable[str]) -> list[Known]:
        """
        Return the rows of these digests, of all batches at this host.

        Args:
            name: The name of the batch in question.
            digests: Of what rows were, or of what they are now; at most 500.
        """
        query = f"""
            SELECT {_COLUMNS} FROM {ROWS} WHERE batch.host = :host AND known.id IN (
                SELECT id FROM leadpost_rows WHERE origin IN :digests
                UNION SELECT id FROM leadpost_rows WHERE present IN :digests
            )
            ORDER BY known.id
            """
        return [_known(row) for row in await self._all(query, name=name, digests=[*digests])]

    async def of_letters(self, name: str, letters: Sequence[str]) -> dict[str, Known]:
        """Return the rows of at most 500 keys of a rejects file, without unknown ones."""
        query = f"SELECT {_COLUMNS} FROM {ROWS} WHERE letters IN :letters"
        query += " AND batch.account = :account"
        rows = await self._all(query, name=name, letters=[*letters])
        return {known.letters: known for known in map(_known, rows)}

    async def of_batch(self, name: str) -> AsyncGenerator[tuple[int, str, Kind]]:
        """Yield the number, the digest of the lead, and the kind of each row of a batch."""
        last = 0
        query = f"""
            SELECT known.id, known.lead, {_KIND} AS kind FROM {ROWS}
            WHERE batch.account = :account AND batch.name = :name AND known.id > :last
            ORDER BY known.id LIMIT {_PAGE}
            """
        while found := await self._all(query, name=name, last=last):
            for row in found:
                yield row.id, row.lead, row.kind
            last = found[-1].id

    async def states(self, ids: Sequence[int]) -> dict[int, sa.Row[Any]]:
        """Return what became of at most 500 rows, by their numbers."""
        query = f"""
            SELECT known.id, letters, {_KIND} AS kind, coalesce(state, last) AS state,
                state AS entry_state, last, request_id, activity_id, error_type, message
            FROM {ROWS} WHERE known.id IN :ids
            """
        return {row.id: row for row in await self._all(query, ids=[*ids])}

    async def activities(self, ids: Sequence[int]) -> dict[int, Any]:
        """Return the activities of at most 500 rows by their numbers; not those that are pruned."""
        query = f"SELECT known.id, entry.activity FROM {ROWS} WHERE known.id IN :ids"
        found = await self._all(f"{query} AND entry.id IS NOT NULL", ids=[*ids])
        return {row.id: json.loads(row.activity) for row in found}

    async def record_last(self, states: Sequence[sa.Row[Any]]) -> None:
        """Record the states of entries, for when these are pruned."""
        changed = dict[str, list[int]]()
        for row in states:
            seen = FAILED_BY_QUEUE if row.kind == "failed" else row.entry_state
            if row.entry_state is not None and seen != row.last:
                changed.setdefault(seen, []).append(row.id)
        for last, ids in changed.items():
            await self._do(
                "UPDATE leadpost_rows SET last = :last WHERE id IN :ids", last=last, ids=ids
            )


def _known(values: Sequence[Any]) -> Known:
    return Known(*values)


def parts_of(items: Sequence[Any], size: int = PART) -> list[Sequence[Any]]:
    """Cut a sequence into parts."""
    return [items[first : first + size] for first in range(0, len(items), size)]


async def _are_there(connection: AsyncConnection) -> bool:
    return await connection.run_sync(lambda sync: sa.inspect(sync).has_table("leadpost_rows"))


async def _create(connection: AsyncConnection) -> None:
    id_ = "INTEGER PRIMARY KEY"
    if connection.dialect.name == "postgresql":
        id_ = "BIGSERIAL PRIMARY KEY"
        # Two processes that create them at once would collide; the number is leadpost's own.
        await execute(connection, "SELECT pg_advisory_xact_lock(:number)", number=0x6C656164)
    for statement in TABLES:
        await connection.exec_driver_sql(statement.format(id=id_))
