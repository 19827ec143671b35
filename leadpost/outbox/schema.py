"""
The tables, and how those of an older version become those of this one.

Nothing in them is a key of the account: a bucket has a fingerprint for a name.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.errors import OutboxError

metadata = sa.MetaData()


class _Hidden(str):
    """Text that no log shows: aiosqlite logs the values of every statement at DEBUG."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class PrivateText(sa.TypeDecorator[str]):
    """Text that is the caller's own, or a person's."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        del dialect
        return None if value is None else _Hidden(value)


class ToldText(PrivateText):
    """Text that came from the vendor: what no database takes is left out of it."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        if value is not None:
            value = value.replace("\0", "").encode(errors="replace").decode()
        return super().process_bind_param(value, dialect)


_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only that one

version_table = sa.Table(
    "leadpost_schema",
    metadata,
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("identity", sa.Text),
)

entries = sa.Table(
    "leadpost_entries",
    metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("key", PrivateText, unique=True),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("payload", PrivateText, nullable=False),  # the vendor's JSON
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("put_at", sa.Double, nullable=False),  # all times: seconds since 1970
    sa.Column("changed_at", sa.Double, nullable=False),
    sa.Column("due_at", sa.Double, nullable=False),  # not to be sent, or asked about, before
    sa.Column("owner", sa.Text),  # the worker that sent it last
    sa.Column("calls", sa.Integer, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),  # those of the calls that count
    sa.Column("checks", sa.Integer, nullable=False),  # how often its status was asked for
    sa.Column("sent_at", sa.Double),
    sa.Column("request_id", ToldText),
    sa.Column("activity_id", ToldText, unique=True),
    sa.Column("error_type", sa.Text),
    sa.Column("message", ToldText),
    sa.Column("original", PrivateText),  # where it was corrected: what was put, or JSON's null
    sa.Index("leadpost_entries_next", "state", sa.text("priority DESC"), "id"),
    sa.Index(
        "leadpost_entries_unverified",
        "due_at",
        sqlite_where=sa.text("state = 'accepted'"),
        postgresql_where=sa.text("state = 'accepted'"),
    ),
)

changes = sa.Table(
    "leadpost_changes",
    metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("entry_id", _id, nullable=False, index=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("note", ToldText),
)

workers = sa.Table(
    "leadpost_workers",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("lease_until", sa.Double, nullable=False),
)

buckets = sa.Table(
    "leadpost_buckets",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("touches", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),  # JSON, see tokens.py
)


def _know_what_was_corrected(connection: sa.Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE leadpost_entries ADD COLUMN original TEXT")
    connection.exec_driver_sql("ALTER TABLE leadpost_schema ADD COLUMN identity TEXT")
    connection.execute(sa.update(version_table).values(identity=uuid4().hex))


MIGRATIONS: list[Callable[[sa.Connection], None]] = [_know_what_was_corrected]
"""What makes version n + 1 of version n, from version 1 on."""


async def bring_up_to_date(connection: AsyncConnection) -> None:
    """
    Make the tables where there are none, or do what is missing of the migrations.

    Raises:
        OutboxError: the tables are of a newer version.
    """
    if connection.dialect.name == "postgresql":
        # Two that make the tables at once would collide; the number is leadpost's own.
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x6C656164)))
    latest = 1 + len(MIGRATIONS)
    if not await connection.run_sync(lambda sync: sa.inspect(sync).has_table(version_table.name)):
        await connection.run_sync(metadata.create_all)
        first = {"version": latest, "identity": uuid4().hex}
        await connection.execute(sa.insert(version_table).values(first))
        return
    found = int((await connection.execute(sa.select(version_table.c.version))).scalar_one())
    if found > latest:
        raise OutboxError(
            f"the outbox is of version {found}, this leadpost knows up to {latest}:"
            " install the newer one again, or use another outbox"
        )
    for migrate in MIGRATIONS[found - 1 :]:
        await connection.run_sync(migrate)
    await connection.execute(sa.update(version_table).values(version=latest))
