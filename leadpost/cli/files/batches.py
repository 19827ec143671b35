"""
Batches and their rows in the outbox's database: two tables of the command's own.

A row is known by its digest for good; its entry, which may be pruned, by its key `BATCH/LETTERS`.
"""

import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self, TypeVar

import sqlalchemy as sa
from attrs import field, frozen
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.cli.files.identity import new_key
from leadpost.cli.files.reading import Reading
from leadpost.cli.files.snapshot import Known, KnownRow, Stored
from leadpost.outbox import Outbox
from leadpost.outbox.database._entries import add_changes, insert_into
from leadpost.outbox.database._schema import changes, entries

T = TypeVar("T")

PART = 500
"""Rows that one statement is about at most."""

_metadata = sa.MetaData()
_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
batches = sa.Table(
    "leadpost_batches",
    _metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("file", sa.Text, nullable=False),  # its name without its folder
    sa.Column("reading", sa.Text, nullable=False),  # JSON, see `Reading`
    sa.Column("outputs", sa.Text, nullable=False),  # JSON, name to digest of its content
    sa.Column("posted_at", sa.Double),  # seconds since 1970
    sa.UniqueConstraint("account", "name"),
)
rows = sa.Table(
    "leadpost_rows",
    _metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("batch", _id, nullable=False),
    sa.Column("letters", sa.Text, nullable=False, unique=True),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("number", sa.Integer),  # among those of the same origin; None once withdrawn
    sa.Column("present", sa.Text),
    sa.Column("lead", sa.Text, nullable=False),
    sa.Column("last", sa.Text),  # the state that its entry was seen in last
    sa.UniqueConstraint("batch", "origin", "number"),
    sa.Index("leadpost_rows_present", "present"),
    sa.Index("leadpost_rows_origin", "origin"),
)


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


@frozen
class Result:
    """
    What became of a row.

    Attributes:
        state: The state of its entry, None without one; of a pruned entry, the last that was seen.
        request_id, activity_id, error_type, message: As those of an `Entry`.
    """

    state: str | None
    request_id: str | None = None
    activity_id: str | None = None
    error_type: str | None = None
    message: str | None = field(default=None, repr=False)


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
        if not await self._read(_exists):
            await self._write(_create)
        return self

    async def _read(self, work: Callable[..., Any], *args: Any) -> Any:
        return await self._database.read(lambda connection: work(connection, *args))

    async def _write(self, work: Callable[..., Any], *args: Any) -> Any:
        return await self._database.write(lambda connection: work(connection, *args), within=None)

    # Batches.

    async def find(self, name: str) -> Batch | None:
        """Return the batch of that name."""
        where = sa.and_(batches.c.account == self._account, batches.c.name == name)
        found: Batch | None = await self._read(_batch, where)
        return found

    async def of_letters(self, letters: Iterable[str]) -> dict[str, str]:
        """Return the name of the batch for each key of a rejects file that is known."""
        found: dict[str, str] = {}
        keys = list(letters)
        for first in range(0, len(keys), PART):
            found |= await self._read(self._names_of, keys[first : first + PART])
        return found

    async def _names_of(self, connection: AsyncConnection, letters: list[str]) -> dict[str, str]:
        query = (
            sa.select(rows.c.letters, batches.c.name)
            .join(batches, batches.c.id == rows.c.batch)
            .where(rows.c.letters.in_(letters), batches.c.account == self._account)
        )
        return {row[0]: row[1] for row in await connection.execute(query)}

    async def knows_file(self, file: str) -> bool:
        """Whether a file of that name was posted by anyone."""
        query = sa.select(sa.exists().where(batches.c.file == file))
        found: bool = await self._read(_scalar, query)
        return found

    async def begin(self, name: str, file: str, reading: Reading) -> Batch:
        """Create a batch, or note how it is read now."""
        values = {"file": file, "reading": json.dumps(reading.as_json())}
        where = sa.and_(batches.c.account == self._account, batches.c.name == name)

        async def work(connection: AsyncConnection) -> Any:
            new = {"account": self._account, "host": self._host, "name": name, "outputs": "{}"}
            # Another run may have done so.
            insert = insert_into(connection.dialect, batches, batches.c.account, batches.c.name)
            await connection.execute(insert, new | values)
            await connection.execute(sa.update(batches).where(where).values(values))
            return await _batch(connection, where)

        found: Batch = await self._database.write(work)
        return found

    async def note(
        self, batch: Batch, *, outputs: Mapping[str, str] | None = None, posted: bool = False
    ) -> None:
        """Note which files were written, or that something was posted just now."""
        values: dict[str, Any] = {}
        if outputs is not None:
            values["outputs"] = json.dumps(dict(outputs))
        if posted:
            values["posted_at"] = datetime.now(UTC).timestamp()
        update = sa.update(batches).where(batches.c.id == batch.id).values(values)
        await self._write(_execute, update)

    # Rows that are known.

    async def known(self, batch: Batch) -> AsyncGenerator[list[KnownRow]]:
        """Yield the rows of a batch, in parts."""
        last = 0
        while True:
            query = (
                _known_rows(self._account)
                .where(rows.c.batch == batch.id, rows.c.id > last)
                .order_by(rows.c.id)
                .limit(10 * PART)
            )
            found: list[sa.Row[Any]] = await self._read(_all, query)
            yield [_known(row) for row in found]
            if len(found) < 10 * PART:
                return
            last = found[-1].id

    async def has_others(self, name: str) -> bool:
        """Whether there are batches but this one, of this account or others at the same host."""
        own = sa.and_(batches.c.account == self._account, batches.c.name == name)
        query = sa.select(sa.exists().where(batches.c.host == self._host, sa.not_(own)))
        found: bool = await self._read(_scalar, query)
        return found

    async def elsewhere(
        self, batch: str, digests: Sequence[str]
    ) -> tuple[list[KnownRow], list[tuple[str, str, bool]]]:
        """
        Look for activities in other batches, and with other keys of the same host.

        Args:
            batch: The name of the batch that does not count.
            digests: At most 500.

        Returns:
            The rows that were not posted, and belong to this account; and the digests that were
            posted, with the batch, and whether with other keys.
        """
        own = sa.and_(batches.c.account == self._account, batches.c.name == batch)
        query = (
            _known_rows(batches.c.account)
            .add_columns(batches.c.account.label("of_account"), batches.c.name.label("of_batch"))
            .where(
                batches.c.host == self._host,
                sa.not_(own),
                rows.c.number.is_not(None),
                sa.or_(rows.c.present.in_(digests), rows.c.origin.in_(digests)),
            )
        )
        unsent: list[KnownRow] = []
        posted: list[tuple[str, str, bool]] = []
        for row in await self._read(_all, query):
            known = _known(row)
            has_other_keys = row.of_account != self._account
            if known.state == "posted":
                if row.present:
                    posted.append((row.present, row.of_batch, has_other_keys))
            elif not has_other_keys:
                unsent.append(known)
        return unsent, posted

    async def activities(self, ids: Sequence[int]) -> dict[int, Any]:
        """Return the activities of at most 500 rows by their numbers; not those that are pruned."""
        query = (
            sa.select(rows.c.id, entries.c.activity)
            .join(batches, batches.c.id == rows.c.batch)
            .join(entries, _is_entry(self._account))
            .where(rows.c.id.in_(ids))
        )
        return {row[0]: json.loads(row[1]) for row in await self._read(_all, query)}

    async def results(self, ids: Sequence[int]) -> dict[int, tuple[str, Result]]:
        """
        Return the keys and what became of at most 500 rows, by their numbers.

        What is seen is noted, for the time after the entries are pruned.
        """
        columns = ("state", "request_id", "activity_id", "error_type", "message")
        query = (
            sa.select(
                rows.c.id, rows.c.letters, rows.c.last, *(entries.c[name] for name in columns)
            )
            .join(batches, batches.c.id == rows.c.batch)
            .outerjoin(entries, _is_entry(self._account))
            .where(rows.c.id.in_(ids))
        )
        found: dict[int, tuple[str, Result]] = {}
        seen: dict[str, list[int]] = {}
        for row in await self._read(_all, query):
            found[row.id] = row.letters, Result(row.state or row.last, *row[4:])
            last = _last(row.state, row.request_id) if row.state else row.last
            if last != row.last:
                seen.setdefault(last, []).append(row.id)
        for last, changed in seen.items():
            update = sa.update(rows).where(rows.c.id.in_(changed)).values(last=last)
            await self._write(_execute, update)
        return found

    # Changing them.

    async def put(self, batch: Batch, part: Sequence[Stored]) -> list[tuple[int, int]]:
        """
        Put at most 500 rows that are new, with their entries, in one transaction.

        Rows that cannot be posted have no entry; they get a key for the rejects all the same.

        Returns:
            The place of each, and its number from now on.
        """
        return await self._database.write(partial(self._put, batch, part))

    async def _put(
        self, batch: Batch, part: Sequence[Stored], connection: AsyncConnection
    ) -> list[tuple[int, int]]:
        values = [
            {
                "batch": batch.id,
                "letters": new_key(),
                "origin": row.digest,
                "number": row.number,
                "present": row.digest if row.payload else None,
                "lead": row.lead,
            }
            for row in part
        ]
        # Another run of the same file gives its rows the same numbers, so that each is put once.
        key = rows.c.batch, rows.c.origin, rows.c.number
        insert = insert_into(connection.dialect, rows, *key).returning(
            rows.c.origin, rows.c.number, rows.c.id, rows.c.letters
        )
        new = {
            (row.origin, row.number): row
            for row in (await connection.execute(insert, values)).all()
        }
        with_entry = [
            (json.loads(row.payload), f"{batch.name}/{new[row.digest, row.number].letters}")
            for row in part
            if row.payload and (row.digest, row.number) in new
        ]
        await self._outbox.put_many(
            [payload for payload, _ in with_entry],
            keys=[key for _, key in with_entry],
            connection=connection,
        )
        found = new
        if len(new) < len(part):
            query = sa.select(rows.c.origin, rows.c.number, rows.c.id).where(
                rows.c.batch == batch.id, rows.c.origin.in_([row.digest for row in part])
            )
            there = (await connection.execute(query)).all()
            found = {(row.origin, row.number): row for row in there}
        return [(row.pos, found[row.digest, row.number].id) for row in part]

    async def correct(self, batch: Batch, part: Sequence[Stored]) -> None:
        """
        Give at most 500 rows of a rejects file the activity that they are now.

        Raises:
            KeyConflict: one was sent meanwhile.
        """
        keys = {row.pos: f"{batch.name}/{row.letters}" for row in part}
        known = await self._outbox.find(list(keys.values()))
        payloads = {keys[row.pos]: json.loads(row.payload or "null") for row in part}
        await self._outbox.replace({key: payloads[key] for key in payloads if key in known})
        new = [key for key in payloads if key not in known]

        async def work(connection: AsyncConnection) -> None:
            await self._outbox.put_many(
                [payloads[key] for key in new], keys=new, connection=connection
            )
            for row in part:
                update = sa.update(rows).where(rows.c.id == row.known)
                await connection.execute(update.values(present=row.digest, lead=row.lead))

        await self._database.write(work)

    async def retry(self, batch: Batch, part: Sequence[Stored]) -> None:
        """Make the entries of at most 500 refused, given-up or failed rows pending again."""
        query = (
            sa.select(rows.c.id, rows.c.letters, entries.c.id.label("entry"))
            .join(batches, batches.c.id == rows.c.batch)
            .outerjoin(entries, _is_entry(self._account))
            .where(rows.c.id.in_([row.known for row in part]))
        )
        found = {row.id: row for row in await self._read(_all, query)}
        await self._outbox.retry(
            "rejected", "failed", ids=[row.entry for row in found.values() if row.entry]
        )
        pruned = [row for row in part if not found[row.known].entry]
        await self._outbox.put_many(
            [json.loads(row.payload or "null") for row in pruned],
            keys=[f"{batch.name}/{found[row.known].letters}" for row in pruned],
        )

    async def withdraw(self, ids: Sequence[int], *, forget: bool = False) -> int:
        """
        Take rows back that were not sent: nothing can send them any more.

        Args:
            ids: The rows.
            forget: Whether they are as if they had never been put; or else their keys stay known.

        Returns:
            How many entries were deleted.
        """
        done = 0
        for first in range(0, len(ids), PART):
            part = ids[first : first + PART]
            done += await self._write(self._withdraw, part, forget)
        return done

    async def _withdraw(
        self,
        connection: AsyncConnection,
        ids: Sequence[int],
        forget: bool,  # noqa: FBT001  passed on by position
    ) -> int:
        query = (
            sa.select(rows.c.id, entries.c.id.label("entry"), entries.c.state)
            .join(batches, batches.c.id == rows.c.batch)
            .outerjoin(entries, _is_entry(self._account))
            .where(rows.c.id.in_(ids))
        )
        found = (await connection.execute(query)).all()
        # One that a worker has just claimed is sent: its row stays.
        unsent = [row for row in found if row.state in {None, "pending", "rejected", "failed"}]
        numbers = [row.entry for row in unsent if row.entry is not None]
        gone = sa.delete(entries).where(
            entries.c.id.in_(numbers), entries.c.state.in_(("pending", "rejected", "failed"))
        )
        deleted = set((await connection.execute(gone.returning(entries.c.id))).scalars().all())
        await connection.execute(sa.delete(changes).where(changes.c.entry_id.in_(deleted)))
        of = [row.id for row in unsent if row.entry is None or row.entry in deleted]
        if forget:
            await connection.execute(sa.delete(rows).where(rows.c.id.in_(of)))
        else:
            withdrawn = sa.update(rows).where(rows.c.id.in_(of)).values(number=None)
            await connection.execute(withdrawn)
        return len(deleted)

    async def move(self, batch: Batch, ids: Sequence[int]) -> None:
        """Move rows of other batches, with their entries, to this one."""
        for first in range(0, len(ids), PART):
            await self._write(self._move, batch, ids[first : first + PART])

    async def _move(self, connection: AsyncConnection, batch: Batch, ids: Sequence[int]) -> None:
        query = (
            sa.select(rows.c.id, rows.c.letters, rows.c.origin, entries.c.id.label("entry"))
            .join(batches, batches.c.id == rows.c.batch)
            .outerjoin(entries, _is_entry(self._account))
            .where(rows.c.id.in_(ids))
            .order_by(rows.c.id)
        )
        moved: list[int] = []
        for row in (await connection.execute(query)).all():
            top = sa.select(sa.func.max(rows.c.number)).where(
                rows.c.batch == batch.id, rows.c.origin == row.origin
            )
            number = ((await connection.execute(top)).scalar() or 0) + 1
            update = sa.update(rows).where(rows.c.id == row.id)
            await connection.execute(update.values(batch=batch.id, number=number))
            if row.entry is not None:
                key = f"{batch.name}/{row.letters}"
                renamed = sa.update(entries).where(entries.c.id == row.entry).values(key=key)
                await connection.execute(renamed)
                moved.append(row.entry)
        await add_changes(connection, moved, "pending", f"moved to {batch.name}")

    async def adopt(self, previous: str) -> None:
        """Hand over the batches of another account, except those whose names are taken."""
        own = batches.alias()
        taken = sa.exists().where(own.c.account == self._account, own.c.name == batches.c.name)
        update = sa.update(batches).where(batches.c.account == previous, ~taken)
        await self._write(_execute, update.values(account=self._account))


def _last(state: str, request_id: str | None) -> str:
    # What LeadSquared's queue failed is not sent again; what was given up is.
    return "failed by the queue" if state == "failed" and request_id else state


def _known_rows(account: Any) -> sa.Select[Any]:
    return (
        sa.select(
            *(rows.c[name] for name in ("id", "letters", "origin", "number", "present", "lead")),
            rows.c.last,
            entries.c.state,
            entries.c.request_id,
        )
        .join(batches, batches.c.id == rows.c.batch)
        .outerjoin(entries, _is_entry(account))
    )


def _is_entry(account: Any) -> sa.ColumnElement[bool]:
    return sa.and_(
        entries.c.account == account,
        entries.c.key == batches.c.name + sa.literal("/") + rows.c.letters,
    )


def _known(row: sa.Row[Any]) -> KnownRow:
    state = row.state or row.last
    if row.state:
        state = _last(row.state, row.request_id)
    kind = _kind(row, state)
    return KnownRow(row.id, row.letters, row.origin, row.present, row.lead, kind, row.number or 0)


def _kind(row: sa.Row[Any], state: str | None) -> Known:
    if row.number is None:
        return "withdrawn"
    if row.present is None:
        return "invalid"
    kinds: dict[str | None, Known] = {
        "pending": "waiting",
        "rejected": "refused",
        "failed": "refused",
        "failed by the queue": "failed",
    }
    if row.state is None and state == "pending":
        return "posted"  # pruned without having been seen again: nobody can tell
    return kinds.get(state, "posted")


async def _exists(connection: AsyncConnection) -> bool:
    return await connection.run_sync(lambda sync: sa.inspect(sync).has_table(rows.name))


async def _create(connection: AsyncConnection) -> None:
    if connection.dialect.name == "postgresql":
        # Two processes that create them at once would collide; the number is leadpost's own.
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x6C656164)))
    await connection.run_sync(_metadata.create_all)


async def _batch(connection: AsyncConnection, where: sa.ColumnElement[bool]) -> Batch | None:
    row = (await connection.execute(sa.select(batches).where(where))).one_or_none()
    if row is None:
        return None
    at = None if row.posted_at is None else datetime.fromtimestamp(row.posted_at, UTC)
    reading = Reading.from_json(json.loads(row.reading))
    return Batch(row.id, row.name, row.file, reading, json.loads(row.outputs), at)


async def _all(connection: AsyncConnection, query: sa.Select[Any]) -> list[sa.Row[Any]]:
    return list((await connection.execute(query)).all())


async def _scalar(connection: AsyncConnection, query: sa.Select[Any]) -> Any:
    return (await connection.execute(query)).scalar()


async def _execute(connection: AsyncConnection, statement: Any) -> None:
    await connection.execute(statement)
