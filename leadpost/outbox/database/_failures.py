"""Failures of a database: whether they may be temporary, and what to do about them."""

from __future__ import annotations

import re
import socket
import sqlite3
import ssl

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection

from leadpost.errors import DiskFull, OutboxError, OutboxUnavailable
from leadpost.outbox.database._urls import DatabaseUrl

FAILURES = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    sqlite3.Error,
    OSError,
)
"""Errors of a database; OSError and the drivers' own errors come from connecting."""

MAY_WRITE = "does the folder exist, and may this user write there?"
_LOCKED = "another process keeps it locked: find out which"
_UNTRUSTED = "its certificate is not trusted ({reason}): see sslmode, channel_binding"
_POOLER = "the connections of a pooler such as PgBouncer are shared: add pgbouncer=true to the URL"

_FULL = {
    "SQLITE_FULL": "the disk is full: make room",
    "SQLITE_IOERR_WRITE": "the disk takes no more data: make room, raise the quota, or replace it",
    "53100": "the server's disk is full: make room",
}
_MAY_PASS = {
    "SQLITE_BUSY": _LOCKED,
    "SQLITE_LOCKED": _LOCKED,
    "SQLITE_PROTOCOL": _LOCKED,
    "SQLITE_IOERR": "the disk cannot be read or written: is it failing?",
    # The file was there, and could be read, when it was opened first.
    "SQLITE_CANTOPEN": f"the file cannot be opened: too many open files? {MAY_WRITE}",
    "SQLITE_NOMEM": "the process has no memory left",
    "08": "the connection was lost",
    "25006": "the server is read-only: a standby, or in a failover",
    "25P03": "the server ended a transaction that did nothing for too long",
    "25P04": "the server ended a transaction that took too long",
    "40": "the server ended the transaction in favor of another",
    "53": "the server has no memory left",
    "53300": "the server has no free connection: use fewer, or raise max_connections",
    "55P03": "another process keeps a lock",
    "57": "the server stops, starts, or ended the statement",
    "58": "the server cannot read or write its disk",
}
_LASTING = {
    "SQLITE_READONLY": "the file or its folder is read-only: make both writable",
    "SQLITE_READONLY_DBMOVED": "the file was moved or deleted while it was open",
    "SQLITE_PERM": "this user may not open the file",
    "SQLITE_CORRUPT": "the file is damaged: `sqlite3 FILE .recover` saves what it can",
    "SQLITE_NOTADB": "the file is not a SQLite database: choose another name",
    "23505": "a unique value is taken: was the database restored without its sequences' values?",
    "26000": _POOLER,
    "28": "the server does not let this user in from here: check the user, pg_hba.conf and sslmode",
    "28P01": "user or password were refused: correct the URL",
    "3D": "there is no such database: create it, or correct the URL",
    "3F": "there is no such schema: create it, or correct the search_path",
    "42501": "this user may not create or use the tables: GRANT what is missing",
    "42704": "an option of the URL is not known to the server",
    "42P01": "a table is missing: `leadpost outbox schema` prints them all",
    "42P05": _POOLER,
    "57P04": "the database was dropped",
    "XX001": "the server's data are damaged",
    "XX002": "an index of the server is damaged: REINDEX it",
}
"""What to do, by the beginning of SQLite's name of an error, or of PostgreSQL's SQLSTATE."""
_TABLES: tuple[tuple[type[OutboxError], dict[str, str]], ...] = (
    (DiskFull, _FULL),
    (OutboxUnavailable, _MAY_PASS),
    (OutboxError, _LASTING),
)

_RACES = {"leadpost_entries_call", "leadpost_entries_activity_id"}
"""Indexes by which one of two transactions fails that do the same at once."""
_PASSES = re.compile(
    r"connections? (exceeded|allowed)|_timeout|shutting down|server conn|server login|pause failed"
    r"|memory|exhaustion|forced disconnect|closed"
)
"""PgBouncer's errors that are not the client's fault; all its errors have the same SQLSTATE."""

_TYPES: tuple[tuple[type[Exception], bool, str], ...] = (
    (socket.gaierror, True, "its host is not found: correct the URL, or check the network"),
    (FileNotFoundError, True, "its socket is missing: is the server running?"),
    (PermissionError, False, "this user may not use the server's socket"),
    (ssl.SSLCertVerificationError, False, _UNTRUSTED),
    (ssl.SSLEOFError, True, "no connection ({name}): is the server running?"),
    (ssl.SSLError, False, "no TLS connection ({reason}): see sslmode"),
    (TimeoutError, True, "no answer: is the server running, is a firewall in between?"),
    (OSError, True, "no connection ({name}): is the server running?"),
    (asyncpg.ClientConfigurationError, False, "asyncpg cannot use an option of the URL or service"),
    (asyncpg.UnsupportedClientFeatureError, False, "{name}"),
    (ValueError, False, "{name}"),  # such as a number that is too large
    (asyncpg.InterfaceError, True, "no connection ({name})"),
    (asyncpg.InternalClientError, True, "no connection ({name})"),  # a message that broke off
    (NoConnection, True, "no connection was free for too long"),
)
"""
For errors without a code, the first of these types: whether it may be temporary, and what to do.
"""


def outbox_error(failure: BaseException, url: DatabaseUrl) -> OutboxError:
    """
    Return an error that says what failed and what to do, without any value of a statement.

    Args:
        failure: One of `FAILURES`.
        url: The URL of the database.
    """
    kind, what = _explained(failure, url)
    return kind(f"{url.name}: {what}")


def is_locked(failure: Exception) -> bool:
    """Whether another process has SQLite's lock."""
    return getattr(_origin(failure), "sqlite_errorname", "").startswith("SQLITE_BUSY")


def is_race(failure: BaseException) -> bool:
    """Whether another transaction has just done the same, so that another attempt shows that."""
    origin = _origin(failure)
    return isinstance(origin, asyncpg.UniqueViolationError) and origin.constraint_name in _RACES


def _origin(failure: BaseException) -> BaseException:
    # asyncpg's error is the cause of the adapter's error, which SQLAlchemy's error wraps.
    if isinstance(failure, DBAPIError) and failure.orig is not None:
        return failure.orig.__cause__ or failure.orig
    return failure


def _explained(failure: BaseException, url: DatabaseUrl) -> tuple[type[OutboxError], str]:
    origin = _origin(failure)
    if isinstance(origin, sqlite3.Error):
        return _by_code(getattr(origin, "sqlite_errorname", ""), origin)
    if isinstance(origin, asyncpg.PostgresError):
        if origin.sqlstate == "08P01":
            return _refused(str(origin), url)
        if is_race(origin):
            return OutboxUnavailable, "another process has just stored the same (23505)"
        return _by_code(origin.sqlstate or "", origin)
    if isinstance(failure, DBAPIError) and failure.connection_invalidated:
        return OutboxUnavailable, f"no connection ({type(origin).__name__})"
    return _by_type(origin)


def _refused(words: str, url: DatabaseUrl) -> tuple[type[OutboxError], str]:
    """Return the error of a pooler such as PgBouncer, in its own words."""
    for text in url.private:
        words = re.sub(rf"(?<!\w){re.escape(text)}(?!\w)", "…", words)
    return OutboxUnavailable if _PASSES.search(words) else OutboxError, f"{words} (08P01)"


def _by_code(code: str, origin: BaseException) -> tuple[type[OutboxError], str]:
    for length in range(len(code), 1, -1):
        for kind, table in _TABLES:
            if what := table.get(code[:length]):
                return kind, f"{what} ({code})"
    return OutboxError, f"{type(origin).__name__} ({code})"


def _by_type(failure: BaseException) -> tuple[type[OutboxError], str]:
    if "SSL upgrade" in str(failure):  # asyncpg's words
        return OutboxError, "the server offers no TLS, which sslmode or channel_binding asks for"
    values = {
        "name": type(failure).__name__,
        "reason": getattr(failure, "verify_message", None) or getattr(failure, "reason", None),
    }
    for type_, passes, what in _TYPES:
        if isinstance(failure, type_):
            return OutboxUnavailable if passes else OutboxError, what.format_map(values)
    return OutboxError, type(failure).__name__
