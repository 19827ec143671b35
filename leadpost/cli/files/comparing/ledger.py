# ruff: noqa: S608  the statements are made of fixed texts
"""
What is known of the rows of files: two tables of the command's own, in the outbox's database.

A row is known by its digests for good; its entry, which may be pruned, by its key `BATCH/ROW_KEY`.
"""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime
from inspect import cleandoc
from typing import Any, Literal, cast

import sqlalchemy as sa
from attrs import frozen

from leadpost.cli.exits import InputError
from leadpost.cli.files.comparing.options import Options
from leadpost.cli.files.reading.identity import occasion_of
from leadpost.cli.files.reading.settings import Reading
from leadpost.errors import DeliveryUncertain
from leadpost.outbox import Outbox
from leadpost.outbox.database._sql import execute

PART = 500
"""Rows that one statement is about at most."""
_PAGE = 5000
"""Rows that are read at once."""

# See `occasion_of`. Few rows are read otherwise than they are sent: those whose lead was looked up.
_OCCASION = "substr(digest_sent, 33, length(digest_sent) - 34)"
_GIVEN_OCCASION = "substr(digest_read, 33, length(digest_read) - 34)"
_TABLES = (
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
        row_key TEXT NOT NULL UNIQUE, -- which rejects files have
        digest_read TEXT NOT NULL, -- of the row in the file that it came from
        number INTEGER, -- among those of the same digest_read, from 1; NULL once it is withdrawn
        digest_sent TEXT, -- of what its entry sends; NULL without an entry
        reason TEXT, -- why it is invalid, without what stands in its cells
        ended TEXT, -- its kind if it was rejected or failed, once its entry is pruned
        entry BIGINT, -- which outlives the entry when that is pruned
        is_gone INTEGER NOT NULL DEFAULT 0, -- 1 if its file, when posted last, did not have it
        UNIQUE (batch, digest_read, number)
    )
    """,
    # A batch is read in the order of putting.
    "CREATE INDEX IF NOT EXISTS leadpost_rows_batch ON leadpost_rows (batch, id)",
    f"CREATE INDEX IF NOT EXISTS leadpost_rows_occasion ON leadpost_rows ({_OCCASION})",
    f"""
    CREATE INDEX IF NOT EXISTS leadpost_rows_given_occasion ON leadpost_rows ({_GIVEN_OCCASION})
    WHERE digest_read <> digest_sent
    """,
)
_ENDED = """
UPDATE leadpost_rows SET ended =
    CASE WHEN OLD.state = 'failed' AND OLD.request_id IS NOT NULL THEN 'failed' ELSE 'rejected' END
    WHERE entry = OLD.id AND row_key =
"""
_TRIGGER = """
TRIGGER leadpost_rows_ended BEFORE DELETE ON leadpost_entries
FOR EACH ROW WHEN (OLD.state IN ('rejected', 'failed'))
"""
_TRIGGERS = {
    "sqlite": [
        f"""
        CREATE {_TRIGGER.replace("leadpost_rows", "IF NOT EXISTS leadpost_rows")}
        BEGIN {_ENDED} substr(OLD.key, instr(OLD.key, '/') + 1); END
        """
    ],
    "postgresql": [
        f"""
        CREATE OR REPLACE FUNCTION leadpost_row_ended() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
        BEGIN
            PERFORM set_config('search_path', format('%I, pg_temp', TG_TABLE_SCHEMA), true);
            {_ENDED} split_part(OLD.key, '/', 2);
            RETURN OLD;
        END $$
        """,
        f"CREATE OR REPLACE {_TRIGGER} EXECUTE FUNCTION leadpost_row_ended()",
    ],
}
Kind = Literal["posted", "pending", "rejected", "failed", "invalid", "withdrawn"]
"""
What is known of a row of an earlier run: `posted` (accepted, or uncertain), `pending` (not sent
yet), `rejected` (or given up), `failed` (by LeadSquared's queue, for good), `invalid`, `withdrawn`.
"""
_KIND = """
CASE
    WHEN number IS NULL THEN 'withdrawn'
    WHEN digest_sent IS NULL THEN 'invalid'
    WHEN state = 'pending' THEN 'pending'
    WHEN state = 'failed' AND request_id IS NOT NULL THEN 'failed'
    WHEN state IN ('rejected', 'failed') THEN 'rejected'
    WHEN state IS NULL AND ended IS NOT NULL THEN ended
    ELSE 'posted'
END
"""
_STATE = f"""
CASE
    WHEN state = 'sending' THEN 'uncertain'
    WHEN state = 'pending' AND error_type = '{DeliveryUncertain.__name__}' THEN 'uncertain'
    WHEN state = 'pending' OR number IS NULL THEN 'not_sent'
    WHEN digest_sent IS NULL THEN 'invalid'
    WHEN state IS NULL AND ended IS NOT NULL THEN 'failed'
    ELSE coalesce(state, 'accepted') -- it was pruned
END
"""
_ROWS = """
leadpost_rows AS known JOIN leadpost_batches AS batch ON batch.id = known.batch
LEFT JOIN leadpost_entries AS entry ON entry.id = known.entry
"""
_KNOWN = f"""
SELECT known.id, batch.name, CASE WHEN batch.account = :account THEN 0 ELSE 1 END,
    row_key, digest_read, digest_sent, coalesce(number, 0), is_gone, {_KIND}
FROM {_ROWS}
"""

Known = Sequence[Any]
"""
A row of an earlier run: its number, the name of its batch, 1 if that was posted with other keys of
the same host, its key in rejects files, its digests (as read and as sent), its number among those
of the same digest as read, 1 if it was gone from its file when that was posted last, and its kind.
"""


@frozen
class Batch:
    """A batch."""

    id: int
    name: str
    file: str  # the name of the file that it came from
    reading: Reading
    outputs: Mapping[str, str]  # the digests of the files that were written, by their names
    posted_at: datetime | None  # when something of it was posted last


class Ledger:
    """The batches and rows of one account; of its host, also what was posted with other keys."""

    def __init__(self, outbox: Outbox, host: str) -> None:
        self.outbox = outbox
        self.database = outbox.database
        self._always = {"account": outbox.account, "host": host}
        self._has_tables = False

    async def _exists(self) -> bool:
        """Whether there are the tables: only a run that posts creates them."""
        self._has_tables = self._has_tables or await self.database.read(_are_there)
        return self._has_tables

    async def _all(self, query: str, **values: Any) -> list[sa.Row[Any]]:
        if not await self._exists():
            return []

        def work(connection: sa.Connection) -> list[sa.Row[Any]]:
            return list(execute(connection, query, **values, **self._always).all())

        return await self.database.read(work)

    async def _do(self, statement: str, **values: Any) -> None:
        values |= self._always
        if await self._exists():
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
        """Create a batch, and the tables, or record how it is read now."""
        if not await self._exists():
            await self.database.write(_create)
        await self._do(
            "INSERT INTO leadpost_batches (account, host, name, file, reading, outputs)"
            " VALUES (:account, :host, :name, :file, :reading, '{{}}') ON CONFLICT (account, name)"
            " DO UPDATE SET file = excluded.file, reading = excluded.reading",
            name=name,
            file=file,
            reading=json.dumps(reading.as_json()),
        )
        return cast("Batch", await self.batch(name))

    async def last_batch(self, file: str) -> str | None:
        """Return the name of the batch that a file of that name was posted in last."""
        found = await self._all(
            "SELECT name FROM leadpost_batches WHERE account = :account AND file = :file"
            " ORDER BY coalesce(posted_at, 0) DESC, id DESC LIMIT 1",
            file=file,
        )
        return found[0].name if found else None

    async def knows_all(self, request_ids: Sequence[str]) -> bool:
        """Whether entries have all of at most 500 RequestIDs; False if one of them is pruned."""
        query = "SELECT count(DISTINCT request_id) FROM leadpost_entries WHERE request_id IN :ids"
        found = await self._all(query, ids=[*request_ids])
        return bool(found) and found[0][0] == len({*request_ids})

    async def has_written(self, digest: str) -> bool:
        """Whether a run of this outbox wrote a file with that digest of its content."""
        query = "SELECT 1 FROM leadpost_batches WHERE outputs LIKE :digest LIMIT 1"
        return bool(await self._all(query, digest=f"%{digest}%"))

    async def batch_for(self, options: Options, name: str) -> Batch | None:
        """
        Return the batch of that name; None if it is new, and the command posts it.

        Raises:
            InputError: the file was never posted.
        """
        batch = await self.batch(name)
        if batch or options.command == "post":
            return batch
        raise InputError(
            f"{options.path} was never posted from this outbox (batch {name}). If it had another"
            f" name: leadpost {options.command} {options.arguments('OLDNAME')}"
        )

    async def record_outputs(self, batch: Batch, outputs: Mapping[str, str]) -> None:
        """Record which files were written, with the digests of their contents."""
        statement = "UPDATE leadpost_batches SET outputs = :outputs WHERE id = :id"
        await self._do(statement, outputs=json.dumps(dict(outputs)), id=batch.id)

    async def record_posted(self, batch: Batch) -> None:
        """Record that something was posted just now."""
        statement = "UPDATE leadpost_batches SET posted_at = {now} WHERE id = :id"
        await self._do(statement, id=batch.id)

    async def repeated(self, previous: str) -> list[int]:
        """Return the numbers of another account's unsent rows that this account has too."""
        query = f"""
            SELECT known.id FROM {_ROWS} WHERE batch.account = :previous
            AND batch.account <> :account AND state = 'pending' AND digest_sent IN (
                SELECT own.digest_sent FROM leadpost_rows AS own JOIN leadpost_batches AS owned
                ON owned.id = own.batch WHERE owned.account = :account AND own.number IS NOT NULL
            )
            """
        return [row.id for row in await self._all(query, previous=previous)]

    async def adopt(self, previous: str) -> None:
        """Transfer the batches of another account; to one of the same name, its rows are added."""
        await self._do(
            "UPDATE leadpost_batches SET account = :account WHERE account = :previous"
            " AND name NOT IN (SELECT name FROM leadpost_batches WHERE account = :account)",
            previous=previous,
        )
        await self._do(
            "UPDATE leadpost_rows SET batch = own.id, number = number + (SELECT"
            " coalesce(max(number), 0) FROM leadpost_rows AS other WHERE other.batch = own.id"
            " AND other.digest_read = leadpost_rows.digest_read)"
            " FROM leadpost_batches AS theirs, leadpost_batches AS own"
            " WHERE theirs.account = :previous AND theirs.id = leadpost_rows.batch"
            " AND own.account = :account AND own.name = theirs.name AND own.id <> theirs.id",
            previous=previous,
        )

    # Rows.

    async def of_batch(self, name: str) -> AsyncGenerator[Sequence[Known]]:
        """Yield the rows of a batch, in parts."""
        last = 0
        query = f"""
            {_KNOWN} WHERE batch.account = :account AND batch.name = :name AND known.id > :last
            ORDER BY known.id LIMIT {_PAGE}
            """
        while found := await self._all(query, name=name, last=last):
            yield found
            last = found[-1].id

    async def of_occasions(self, digests: Sequence[str]) -> Sequence[Known]:
        """
        Return the rows of the same lead, type and time as one of at most 500 digests.

        They are of all batches at this host, and may differ in all else.
        """
        query = f"""
            {_KNOWN} WHERE batch.host = :host AND known.id IN (
                SELECT id FROM leadpost_rows WHERE {_OCCASION} IN :occasions
                UNION SELECT id FROM leadpost_rows
                WHERE {_GIVEN_OCCASION} IN :occasions AND digest_read <> digest_sent
            )
            """
        return await self._all(query, occasions=[*{occasion_of(each) for each in digests}])

    async def batches_of(self, row_keys: Sequence[str]) -> dict[str, str]:
        """Return the batch of each of at most 500 keys of a rejects file, without unknown ones."""
        query = f"SELECT row_key, batch.name FROM {_ROWS} WHERE row_key IN :row_keys"
        query += " AND batch.account = :account"
        return {row.row_key: row.name for row in await self._all(query, row_keys=[*row_keys])}

    async def states(self, ids: Sequence[int]) -> dict[int, sa.Row[Any]]:
        """Return what became of at most 500 rows, by their numbers."""
        query = f"""
            SELECT known.id, batch.name, row_key, {_KIND} AS kind, {_STATE} AS state, request_id,
                activity_id, error_type, coalesce(message, error_type, reason) AS reason
            FROM {_ROWS} WHERE known.id IN :ids
            """
        return {row.id: row for row in await self._all(query, ids=[*ids])}

    async def activities(self, ids: Sequence[int]) -> dict[int, Any]:
        """Return the activities of at most 500 rows by their numbers; not those that are pruned."""
        query = f"SELECT known.id, entry.activity FROM {_ROWS} WHERE known.id IN :ids"
        found = await self._all(f"{query} AND entry.id IS NOT NULL", ids=[*ids])
        return {row.id: json.loads(row.activity) for row in found}

    async def record_gone(self, gone: Sequence[int], back: Sequence[int]) -> None:
        """Record which rows are gone from their file, and which are back, by numbers."""
        for ids, is_gone in ((gone, 1), (back, 0)):
            for part in parts_of(ids):
                statement = "UPDATE leadpost_rows SET is_gone = :is_gone WHERE id IN :ids"
                await self._do(statement, is_gone=is_gone, ids=[*part])


def parts_of(items: Sequence[Any], size: int = PART) -> list[Sequence[Any]]:
    """Cut a sequence into parts."""
    return [items[first : first + size] for first in range(0, len(items), size)]


def _are_there(connection: sa.Connection) -> bool:
    return sa.inspect(connection).has_table("leadpost_rows")


def _create(connection: sa.Connection) -> None:
    dialect = connection.dialect.name
    if dialect == "postgresql":
        # Two processes that create them at once would collide; the number is leadpost's own.
        execute(connection, "SELECT pg_advisory_xact_lock(:number)", number=0x6C656164)
    for statement in statements(dialect):
        connection.exec_driver_sql(statement)


def statements(dialect: str) -> list[str]:
    """Return the statements that create the tables."""
    id_ = "BIGSERIAL PRIMARY KEY" if dialect == "postgresql" else "INTEGER PRIMARY KEY"
    tables = [statement.format(id=id_) for statement in _TABLES]
    return [cleandoc(statement) for statement in (*tables, *_TRIGGERS[dialect])]
