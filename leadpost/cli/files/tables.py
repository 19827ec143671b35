"""The two tables that the command has in an outbox's database beside those of the outbox."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost.cli.files.snapshot import KNOWN_COLUMNS

Values = dict[str, Any] | list[dict[str, Any]]

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
    "leadpost_rows",  # see `KNOWN_COLUMNS`
    _metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("batch", _id, nullable=False),
    sa.Column("letters", sa.Text, nullable=False, unique=True),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("number", sa.Integer),
    sa.Column("present", sa.Text),
    sa.Column("lead", sa.Text, nullable=False),
    sa.Column("last", sa.Text),
    sa.Column("entry", _id),  # its id, which outlives the entry when that is pruned
    sa.UniqueConstraint("batch", "origin", "number"),
    sa.Index("leadpost_rows_batch", "batch", "id"),  # a batch is read in the order of putting
    sa.Index("leadpost_rows_present", "present"),
    sa.Index("leadpost_rows_origin", "origin"),
)
KNOWN = ", ".join(
    f"{'known' if name in rows.c else 'entry'}.{name} AS {name}" for name in KNOWN_COLUMNS
)
ROWS = """
leadpost_rows known JOIN leadpost_batches batch ON batch.id = known.batch
LEFT JOIN leadpost_entries entry ON entry.id = known.entry
"""


async def are_there(connection: AsyncConnection) -> bool:
    """Whether the tables have been created."""
    return await connection.run_sync(lambda sync: sa.inspect(sync).has_table(rows.name))


async def create(connection: AsyncConnection) -> None:
    """Create those that are missing."""
    if connection.dialect.name == "postgresql":
        # Two processes that create them at once would collide; the number is leadpost's own.
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x6C656164)))
    await connection.run_sync(_metadata.create_all)


def _statement(text: str, values: Values) -> sa.TextClause:
    """Return a statement in which each list of values is written out."""
    named = {} if isinstance(values, list) else values
    lists = [name for name, value in named.items() if isinstance(value, list | tuple)]
    binds: list[Any] = [sa.bindparam(name, expanding=True) for name in lists]
    return sa.text(text).bindparams(*binds)


async def do(connection: AsyncConnection, statement: str, values: Values) -> None:
    """Execute a statement, once or for each of some values."""
    await connection.execute(_statement(statement, values), values)


async def all_of(connection: AsyncConnection, query: str, values: Values) -> list[sa.Row[Any]]:
    """Return the rows of a query, or of a statement with RETURNING."""
    return list((await connection.execute(_statement(query, values), values)).all())
