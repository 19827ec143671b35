"""Failures of a database: whether they may be temporary, and what to do about them."""

from __future__ import annotations

import re
import socket
import sqlite3
import ssl

import asyncpg
from asyncpg.exceptions import TargetServerAttributeNotMatched
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
    "08": "the connection was lost",
    "23505": "another process has just stored the same",
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
    "SQLITE_CANTOPEN": f"the file cannot be opened: {MAY_WRITE}",
    "SQLITE_PERM": "this user may not open the file",
    "SQLITE_CORRUPT": "the file is damaged: `sqlite3 FILE .recover` saves what it can",
    "SQLITE_NOTADB": "the file is not a SQLite database: choose another name",
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

_PASSES = re.compile(
    r"connections? (exceeded|allowed)|_timeout|shutting down|server conn|server login|pause failed"
    r"|memory|exhaustion|forced disconnect|closed"
)
"""PgBouncer's errors that are not the client's fault; all its errors have the same SQLSTATE."""


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
        return _by_code(origin.sqlstate or "", origin)
    if isinstance(origin, OSError):
        return _by_system(origin)
    if isinstance(origin, TargetServerAttributeNotMatched):
        return OutboxUnavailable, "no host is what target_session_attrs asks for: a failover?"
    if isinstance(origin, asyncpg.ClientConfigurationError):
        return OutboxError, "asyncpg cannot use an option of the URL, the environment or service"
    if isinstance(origin, asyncpg.UnsupportedClientFeatureError | ValueError):
        return OutboxError, type(origin).__name__  # such as a number that is too large
    if isinstance(origin, NoConnection):
        return OutboxUnavailable, "no connection was free for too long"
    is_lost = isinstance(failure, DBAPIError) and failure.connection_invalidated
    # asyncpg raises an internal error if a server stops in the middle of a message.
    if is_lost or isinstance(origin, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return OutboxUnavailable, f"no connection ({type(origin).__name__})"
    return OutboxError, type(origin).__name__


def _refused(words: str, url: DatabaseUrl) -> tuple[type[OutboxError], str]:
    """Return the error of a pooler such as PgBouncer, in its own words."""
    for text in url.private:
        words = re.sub(rf"(?<!\w){re.escape(text)}(?!\w)", "…", words)
    return OutboxUnavailable if _PASSES.search(words) else OutboxError, f"{words} (08P01)"


def _by_system(failure: OSError) -> tuple[type[OutboxError], str]:
    if isinstance(failure, socket.gaierror):
        return OutboxUnavailable, "its host is not found: correct the URL, or check the network"
    if isinstance(failure, FileNotFoundError):
        return OutboxUnavailable, "its socket is missing: is the server running?"
    if isinstance(failure, PermissionError):
        return OutboxError, "this user may not use the server's socket"
    if isinstance(failure, ssl.SSLCertVerificationError):
        why = failure.verify_message
        return OutboxError, f"its certificate is not trusted ({why}): see sslmode, channel_binding"
    if isinstance(failure, ssl.SSLError) and not isinstance(failure, ssl.SSLEOFError):
        return OutboxError, f"no TLS connection ({getattr(failure, 'reason', None)}): see sslmode"
    if "SSL upgrade" in str(failure):  # asyncpg's words
        return OutboxError, "the server offers no TLS, which sslmode or channel_binding asks for"
    if isinstance(failure, TimeoutError):
        return OutboxUnavailable, "no answer: is the server running, is a firewall in between?"
    return OutboxUnavailable, f"no connection ({type(failure).__name__}): is the server running?"


def _by_code(code: str, origin: BaseException) -> tuple[type[OutboxError], str]:
    for length in range(len(code), 1, -1):
        for kind, table in _TABLES:
            if what := table.get(code[:length]):
                return kind, f"{what} ({code})"
    return OutboxError, f"{type(origin).__name__} ({code})"
