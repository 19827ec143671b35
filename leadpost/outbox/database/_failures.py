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

from leadpost.errors import OutboxError, OutboxUnavailable
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

_MAY_WRITE = "does the folder exist, and may this user write there?"

_SQLITE = {
    "SQLITE_BUSY": (OutboxUnavailable, "another process keeps it locked: find out which"),
    "SQLITE_LOCKED": (OutboxUnavailable, "another process keeps it locked: find out which"),
    "SQLITE_PROTOCOL": (OutboxUnavailable, "another process keeps it locked: find out which"),
    "SQLITE_READONLY_DBMOVED": (OutboxError, "the file was moved or deleted while it was open"),
    "SQLITE_READONLY": (OutboxError, "the file or its folder is read-only: make both writable"),
    "SQLITE_FULL": (OutboxUnavailable, "the disk is full: make room"),
    "SQLITE_CANTOPEN": (OutboxError, f"the file cannot be opened: {_MAY_WRITE}"),
    "SQLITE_PERM": (OutboxError, "this user may not open the file"),
    "SQLITE_CORRUPT": (
        OutboxError,
        "the file is damaged: `sqlite3 FILE .recover` saves what it can",
    ),
    "SQLITE_NOTADB": (OutboxError, "the file is not a SQLite database: choose another name"),
    "SQLITE_IOERR": (OutboxUnavailable, "the disk cannot be read or written: is it failing?"),
}
"""By the start of the name of SQLite's error."""

_POOLER = "the connections of a pooler such as PgBouncer are shared: add pgbouncer=true to the URL"
_POSTGRESQL = {
    "08": (OutboxUnavailable, "the connection was lost"),
    "23505": (OutboxUnavailable, "another process has just stored the same"),
    "25006": (OutboxUnavailable, "the server is read-only: a standby, or in a failover"),
    "25P03": (OutboxUnavailable, "the server ended a transaction that did nothing for too long"),
    "25P04": (OutboxUnavailable, "the server ended a transaction that took too long"),
    "26000": (OutboxError, _POOLER),
    "28P01": (OutboxError, "user or password were refused: correct the URL"),
    "28": (
        OutboxError,
        "the server does not let this user in from here: check the user, pg_hba.conf and sslmode",
    ),
    "3D": (OutboxError, "there is no such database: create it, or correct the URL"),
    "3F": (OutboxError, "there is no such schema: create it, or correct the search_path"),
    "40": (OutboxUnavailable, "the server ended the transaction in favor of another"),
    "42501": (OutboxError, "this user may not create or use the tables: GRANT what is missing"),
    "42704": (OutboxError, "an option of the URL is not known to the server"),
    "42P01": (OutboxError, "a table is missing: `leadpost outbox schema` prints them all"),
    "42P05": (OutboxError, _POOLER),
    "53100": (OutboxUnavailable, "the server's disk is full: make room"),
    "53300": (
        OutboxUnavailable,
        "the server has no free connection: use fewer, or raise max_connections",
    ),
    "53": (OutboxUnavailable, "the server has no memory left"),
    "55P03": (OutboxUnavailable, "another process keeps a lock"),
    "57P04": (OutboxError, "the database was dropped"),
    "57": (OutboxUnavailable, "the server stops, starts, or ended the statement"),
    "58": (OutboxUnavailable, "the server cannot read or write its disk"),
    "XX001": (OutboxError, "the server's data are damaged"),
    "XX002": (OutboxError, "an index of the server is damaged: REINDEX it"),
}
"""By the start of the SQLSTATE."""

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
    kind, what = _sqlite(failure) if url.path is not None else _postgresql(failure, url)
    return kind(f"{url.name}: {what}")


def is_locked(failure: Exception) -> bool:
    """Whether another process has SQLite's lock."""
    return getattr(_origin(failure), "sqlite_errorname", "").startswith("SQLITE_BUSY")


def _origin(failure: BaseException) -> BaseException:
    # asyncpg's error is the cause of the adapter's error, which SQLAlchemy's error wraps.
    if isinstance(failure, DBAPIError) and failure.orig is not None:
        return failure.orig.__cause__ or failure.orig
    return failure


def _sqlite(failure: BaseException) -> tuple[type[OutboxError], str]:
    origin = _origin(failure)
    if isinstance(origin, PermissionError | FileNotFoundError | NotADirectoryError):
        return OutboxError, f"{origin.strerror}: {_MAY_WRITE}"
    if isinstance(origin, OSError):
        return OutboxUnavailable, f"the file cannot be created ({origin.strerror})"
    if isinstance(origin, NoConnection):
        return OutboxUnavailable, "no connection was free for too long"
    return _by_code(getattr(origin, "sqlite_errorname", ""), _SQLITE, origin)


def _postgresql(failure: BaseException, url: DatabaseUrl) -> tuple[type[OutboxError], str]:
    origin = _origin(failure)
    if isinstance(origin, asyncpg.PostgresError):
        if origin.sqlstate == "08P01":
            return _refused(str(origin), url)
        return _by_code(origin.sqlstate or "", _POSTGRESQL, origin)
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


def _by_code(
    code: str, table: dict[str, tuple[type[OutboxError], str]], origin: BaseException
) -> tuple[type[OutboxError], str]:
    for beginning, (kind, what_to_do) in table.items():
        if code.startswith(beginning):
            return kind, f"{what_to_do} ({code})"
    return OutboxError, f"{type(origin).__name__} ({code})"
