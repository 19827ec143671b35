# ruff: noqa: S608  these are statements, and nothing of a caller's is in them
"""
The tables of version 1. No key of an account is in them, only a fingerprint of its access key.

An INSERT of account, key and activity into `leadpost_entries` is all that is needed to put an entry
in any language: everything else has a default.
"""

from __future__ import annotations

from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql.functions import FunctionElement

from leadpost.errors import OutboxError

VERSION = 1

metadata = sa.MetaData()


class now(FunctionElement[float]):  # noqa: N801  it is used like a function
    """The database's time: seconds since 1970, in UTC."""

    type = sa.Double[float]()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(*_: Any, **__: Any) -> str:
    # clock_timestamp() differs from row to row, so that no index can be used for it.
    return "CAST(extract(epoch FROM statement_timestamp()) AS DOUBLE PRECISION)"


class _lead_of_activity(FunctionElement[str]):  # noqa: N801  it is used like a function
    """The lead of an entry's activity, in small letters; what is not JSON is refused here."""

    type = sa.Text()
    inherit_cache = True


@compiles(_lead_of_activity, "sqlite")
def _lead_sqlite(*_: Any, **__: Any) -> str:
    return "lower(json_extract(activity, '$.RelatedProspectId'))"


@compiles(_lead_of_activity, "postgresql")
def _lead_postgresql(*_: Any, **__: Any) -> str:
    # JSON may have the NUL character, PostgreSQL's texts may not.
    return r"lower(CAST(replace(activity, '\u0000', '\u0001') AS json) ->> 'RelatedProspectId')"


class _Hidden(str):
    """Text that no log shows: aiosqlite logs the values of every statement at DEBUG."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"


class PrivateText(sa.TypeDecorator[str]):
    """Text of the caller's, or of a person's."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        del dialect
        return None if value is None else _Hidden(value)


class VendorText(PrivateText):
    """Text of LeadSquared's: characters that no database takes are removed."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        if value is not None:
            value = value.replace("\0", "").encode(errors="replace").decode()
        return super().process_bind_param(value, dialect)


_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts only that one up
_STATES = "'pending', 'sending', 'accepted', 'succeeded', 'failed', 'rejected', 'uncertain'"


def _partial(
    name: str, where: str, *columns: str | sa.TextClause, unique: bool = False
) -> sa.Index:
    condition = sa.text(where)
    return sa.Index(
        name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition
    )


schema = sa.Table(
    "leadpost_schema", metadata, sa.Column("version", sa.Integer, nullable=False, primary_key=True)
)

accounts = sa.Table(
    "leadpost_accounts",
    metadata,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("worker_seen_at", sa.Double),  # all times: seconds since 1970
    sa.Column("away_since", sa.Double),
)

entries = sa.Table(
    "leadpost_entries",
    metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("key", PrivateText),
    sa.Column("activity", PrivateText, nullable=False),  # LeadSquared's JSON
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("state", sa.Text, nullable=False, server_default="pending"),
    sa.Column("put_at", sa.Double, nullable=False, server_default=now()),
    sa.Column("changed_at", sa.Double, nullable=False, server_default=now()),
    sa.Column("due_at", sa.Double, nullable=False, server_default="0"),  # not to be sent before
    sa.Column("calls", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),  # calls that count
    sa.Column("checks", sa.Integer, nullable=False, server_default="0"),  # of its status
    sa.Column("call_id", sa.Text),  # of its latest call
    sa.Column("sent_at", sa.Double),
    sa.Column("ends_by", sa.Double),  # when its latest call must have ended
    sa.Column("request_id", VendorText),
    sa.Column("activity_id", VendorText),
    sa.Column("error_type", sa.Text),
    sa.Column("message", VendorText),
    sa.Column("lead", sa.Text, sa.Computed(cast("Any", _lead_of_activity()), persisted=True)),
    sa.CheckConstraint(f"state IN ({_STATES})", name="leadpost_entries_state"),
    sa.UniqueConstraint("account", "key", name="leadpost_entries_key"),
    # One index for each question that is asked all the time, and small where it can be.
    _partial(
        "leadpost_entries_pending", "state = 'pending'", "account", sa.text("priority DESC"), "id"
    ),
    _partial("leadpost_entries_sending", "state = 'sending'", "account", "ends_by"),
    _partial("leadpost_entries_accepted", "state = 'accepted'", "account", "due_at"),
    _partial(
        "leadpost_entries_finished",
        "state IN ('succeeded', 'failed', 'rejected')",
        *("account", "changed_at"),
    ),
    sa.Index("leadpost_entries_state", "account", "state", "id"),
    sa.Index("leadpost_entries_lead", "account", "lead"),
    _partial(
        "leadpost_entries_activity_id",
        "activity_id IS NOT NULL",
        *("account", "activity_id"),
        unique=True,
    ),
    sqlite_autoincrement=True,  # or an id that was pruned could come again
)

changes = sa.Table(
    "leadpost_changes",
    metadata,
    sa.Column("id", _id, primary_key=True),
    sa.Column("entry_id", _id, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False, server_default=now()),
    sa.Column("note", VendorText),
    sa.Index("leadpost_changes_entry", "entry_id"),
)


buckets = sa.Table(
    "leadpost_buckets",
    metadata,
    sa.Column("bucket", sa.Text, primary_key=True),
    sa.Column("period", sa.Double, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),  # of the five columns that follow
    sa.Column("tokens", sa.Integer, nullable=False),  # how many to use
    sa.Column("most", sa.Integer, nullable=False),  # by the limit that LeadSquared named
    sa.Column("rest", sa.Double, nullable=False),  # seconds
    sa.Column("named_until", sa.Double),
    sa.Column("grow_at", sa.Double, nullable=False),
    sa.Column("paused_until", sa.Double, nullable=False),
    # After a pause one call is a trial: this is 0 if it is due, or when the present one has ended.
    sa.Column("trial_until", sa.Double),
    sa.Column("set_at", sa.Double, nullable=False),  # when these times were set
)

tokens = sa.Table(
    "leadpost_tokens",
    metadata,
    sa.Column("bucket", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("back_at", sa.Double, nullable=False),
    sa.Column("use_id", sa.Text),  # of the call that has it
    sa.Column("set_at", sa.Double, nullable=False),
)

counts = sa.Table(
    "leadpost_counts",
    metadata,
    sa.Column("account", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, primary_key=True),
    # 0, or the transaction that has changed the number: so that none waits for another.
    sa.Column("part", sa.BigInteger, primary_key=True),
    sa.Column("entries", sa.BigInteger, nullable=False),
)
"""The number of entries in each state, kept by triggers: to count a million takes half a second."""

_COUNT = "INSERT INTO leadpost_counts (account, state, part, entries)"
_ADD = (
    " ON CONFLICT (account, state, part)"
    " DO UPDATE SET entries = leadpost_counts.entries + excluded.entries"
)


def _count_row(row: str, number: int) -> str:
    return f"{_COUNT} VALUES ({row}.account, {row}.state, 0, {number}){_ADD};"


def _count_rows(rows: str, number: str) -> str:
    return (
        f"{_COUNT} SELECT account, state, this_transaction, {number} FROM {rows}"
        f" GROUP BY account, state{_ADD};"
    )


def _trigger(event: str, what: str) -> str:
    return (
        f"CREATE TRIGGER leadpost_counts_{event.lower()} AFTER {event} ON leadpost_entries {what}"
    )


_PER_STATEMENT = "FOR EACH STATEMENT EXECUTE FUNCTION leadpost_count()"
_TRIGGERS: dict[str, list[str]] = {
    "sqlite": [
        _trigger("INSERT", f"BEGIN {_count_row('NEW', 1)} END"),
        _trigger("UPDATE", f"BEGIN {_count_row('OLD', -1)} {_count_row('NEW', 1)} END"),
        _trigger("DELETE", f"BEGIN {_count_row('OLD', -1)} END"),
    ],
    "postgresql": [
        f"""CREATE FUNCTION leadpost_count() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    this_transaction bigint := CAST(CAST(pg_current_xact_id() AS text) AS bigint);
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM leadpost_counts;
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        {_count_rows("old_rows", "-count(*)")}
    END IF;
    IF TG_OP <> 'DELETE' THEN
        {_count_rows("new_rows", "count(*)")}
    END IF;
    RETURN NULL;
END $$""",
        _trigger("INSERT", f"REFERENCING NEW TABLE AS new_rows {_PER_STATEMENT}"),
        _trigger(
            "UPDATE",
            f"REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows {_PER_STATEMENT}",
        ),
        _trigger("DELETE", f"REFERENCING OLD TABLE AS old_rows {_PER_STATEMENT}"),
        _trigger("TRUNCATE", _PER_STATEMENT),
    ],
}


def ddl(dialect: str) -> str:
    """
    Return the statements that create the tables.

    Args:
        dialect: `sqlite` or `postgresql`.
    """
    of = {"sqlite": sqlite.dialect, "postgresql": postgresql.dialect}[dialect]()
    statements: list[str] = []
    for table in metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=of)).strip())
        # Sorted, as a set has no order of its own.
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        statements += [str(CreateIndex(index).compile(dialect=of)).strip() for index in indexes]
    statements += _TRIGGERS[dialect]
    statements.append(f"INSERT INTO {schema.name} (version) VALUES ({VERSION})")
    return "".join(f"{statement};\n\n" for statement in statements)


async def check_version(connection: AsyncConnection) -> bool:
    """
    Return whether the tables are there.

    Raises:
        OutboxError: they are of another version.
    """
    if not await connection.run_sync(lambda sync: sa.inspect(sync).has_table(schema.name)):
        return False
    found = (await connection.execute(sa.select(schema.c.version))).scalar()
    if found is None:
        raise OutboxError(
            "the outbox has no complete set of tables: drop those named leadpost_*, and create them"
            " in one transaction"
        )
    if found != VERSION:
        raise OutboxError(
            f"the outbox has tables of version {found}, this leadpost knows version {VERSION}:"
            " install the leadpost that made them, or use another database"
        )
    return True


async def create(connection: AsyncConnection) -> None:
    """Create the tables, unless another process has just done so."""
    if connection.dialect.name == "postgresql":
        # Two processes that create them at once would collide; the number is leadpost's own.
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x6C656164)))
    if not await check_version(connection):
        await connection.run_sync(metadata.create_all)
        for trigger in _TRIGGERS[connection.dialect.name]:
            await connection.exec_driver_sql(trigger)
        await connection.execute(sa.insert(schema).values(version=VERSION))
