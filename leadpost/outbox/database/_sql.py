"""
SQL as text, the same for SQLite and PostgreSQL except for a few words in braces.

`{now}` is the database's time in seconds since 1970. `{locked}` locks the rows that a SELECT
finds; `{or_skipped}` does too, and skips rows that others have locked. SQLite needs neither, as it
has only one writer at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import sqlalchemy as sa
from attrs import frozen

T = TypeVar("T")
Result: TypeAlias = "sa.CursorResult[*tuple[Any, ...]]"
Work = Callable[[sa.Connection], T]
"""
Statements within one transaction. On SQLite it is called in a thread. What else it does must be
safe to repeat: it is called again if COMMIT finds SQLite's file locked, and on PostgreSQL if the
connection was lost before COMMIT, or if another transaction has just done the same.
"""

LONGEST_WAIT = 60.0
"""Seconds for one transaction, including the wait for SQLite's lock or a free connection."""

WORDS = {
    "sqlite": {
        "now": "((julianday('now') - 2440587.5) * 86400.0)",
        "locked": "",
        "or_skipped": "",
        "greatest": "max",
    },
    "postgresql": {
        # clock_timestamp() differs from row to row, so no index can be used for it.
        "now": "CAST(extract(epoch FROM statement_timestamp()) AS DOUBLE PRECISION)",
        "locked": "FOR UPDATE",
        "or_skipped": "FOR UPDATE SKIP LOCKED",
        "greatest": "greatest",
    },
}

UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""Characters that no database stores in a text: NUL, and lone surrogates."""


def storable(text: str) -> str:
    """Return a text of LeadSquared's without characters that no database stores."""
    return text.replace("\0", "").encode(errors="replace").decode()


def is_sqlite(connection: sa.Connection) -> bool:
    """Whether it is a connection to SQLite."""
    return connection.dialect.name == "sqlite"


def execute(connection: sa.Connection, sql: str, **values: Any) -> Result:
    """Execute a statement. `:name` stands for a value, or after `IN` for a list of values."""
    lists = tuple(name for name, value in values.items() if isinstance(value, list))
    return connection.execute(_statement(_in_dialect(connection, sql), lists), values)


def execute_many(connection: sa.Connection, sql: str, rows: Sequence[dict[str, Any]]) -> None:
    """Execute a statement once for each row of values; it returns nothing."""
    if rows:
        connection.execute(_statement(_in_dialect(connection, sql)), rows)


@frozen
class Transaction:
    """Executes statements in which some values are always the same, such as `:account`."""

    connection: sa.Connection
    always: Mapping[str, Any]

    def execute(self, sql: str, **values: Any) -> Result:
        """Execute a statement, see the function `execute`."""
        return execute(self.connection, sql, **self.always, **values)

    def execute_many(self, sql: str, rows: Sequence[dict[str, Any]]) -> None:
        """Execute a statement once for each row of values; it returns nothing."""
        execute_many(self.connection, sql, [{**self.always, **row} for row in rows])


def _in_dialect(connection: sa.Connection, sql: str) -> str:
    return sql.format_map(WORDS[connection.dialect.name])


@lru_cache(maxsize=256)
def _statement(sql: str, lists: tuple[str, ...] = ()) -> sa.TextClause:
    several: list[sa.BindParameter[Any]] = [sa.bindparam(name, expanding=True) for name in lists]
    return sa.text(sql).bindparams(*several)
