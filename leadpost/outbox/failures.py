"""What a database says when it fails, and what to do about it."""

from __future__ import annotations

import socket
import sqlite3

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection

from leadpost.errors import OutboxError, OutboxUnavailable

FAILURES = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    sqlite3.Error,
    OSError,
)
"""What a store raises: OSError and the drivers' own errors come from connecting."""

_MAY_WRITE = "is there such a folder, and may this user write there?"

_SQLITE = {
    "SQLITE_BUSY": (OutboxUnavailable, "another process keeps it locked: see what holds it"),
    "SQLITE_LOCKED": (OutboxUnavailable, "another process keeps it locked: see what holds it"),
    "SQLITE_READONLY": (OutboxError, "the file or its folder is read-only: make both writable"),
    "SQLITE_FULL": (OutboxError, "the disk is full: make room and go on"),
    "SQLITE_CANTOPEN": (OutboxError, f"the file cannot be opened: {_MAY_WRITE}"),
    "SQLITE_PERM": (OutboxError, "this user may not open the file"),
    "SQLITE_CORRUPT": (
        OutboxError,
        "the file is damaged: `sqlite3 FILE .recover` saves what it can",
    ),
    "SQLITE_NOTADB": (OutboxError, "the file is no SQLite database: choose another name"),
    "SQLITE_IOERR": (OutboxError, "the disk cannot be read or written: is it full or failing?"),
}
"""By the beginning of the name of SQLite's error."""

_POSTGRESQL = {
    "08": (OutboxUnavailable, "the connection was lost"),
    "40": (OutboxUnavailable, "the server ended the transaction in favour of another"),
    "53300": (OutboxUnavailable, "the server has no connection left"),
    "53100": (OutboxError, "the server's disk is full: make room and go on"),
    "55P03": (OutboxUnavailable, "another process keeps a lock"),
    "57P": (OutboxUnavailable, "the server stops or starts"),
    "57014": (OutboxUnavailable, "the server ended the statement"),
    "25P03": (OutboxUnavailable, "the server ended a transaction that did nothing for too long"),
    "25006": (OutboxError, "the server is read-only: is it a standby?"),
    "28": (OutboxError, "user or password were refused: correct the URL"),
    "3D": (OutboxError, "there is no such database: make it, or correct the URL"),
    "42501": (OutboxError, "this user may not make or use the tables: GRANT what is missing"),
}
"""By the beginning of the SQLSTATE."""


def told(failure: Exception, store: str) -> OutboxError:
    """Give the error that tells what failed and what to do, without any value of a statement."""
    origin = _origin(failure)
    if isinstance(origin, sqlite3.Error):
        return _by_name(getattr(origin, "sqlite_errorname", ""), _SQLITE, origin, store)
    if isinstance(origin, asyncpg.PostgresError):
        return _by_name(origin.sqlstate or "", _POSTGRESQL, origin, store)
    if isinstance(origin, socket.gaierror):
        return OutboxUnavailable(f"{store}: its host is not found: correct the URL, or the network")
    is_file = store.startswith("sqlite")  # a server's socket is missing while it is away
    if is_file and isinstance(origin, PermissionError | FileNotFoundError | NotADirectoryError):
        return OutboxError(f"{store}: {origin.strerror}: {_MAY_WRITE}")
    if isinstance(origin, FileNotFoundError):
        return OutboxUnavailable(f"{store}: its socket is not there: does the server run?")
    is_lost = isinstance(failure, DBAPIError) and failure.connection_invalidated
    # asyncpg calls it an internal error of its own where a server stops in mid-sentence.
    lost = OSError | asyncpg.InterfaceError | asyncpg.InternalClientError | NoConnection
    if is_lost or isinstance(origin, lost):
        return OutboxUnavailable(f"{store}: no connection ({type(origin).__name__})")
    return OutboxError(f"{store}: {type(origin).__name__}")


def is_locked(failure: Exception) -> bool:
    """Tell whether another process has SQLite's lock."""
    return getattr(_origin(failure), "sqlite_errorname", "").startswith("SQLITE_BUSY")


def _origin(failure: Exception) -> BaseException:
    # asyncpg's own error is below SQLAlchemy's adapter, and that below SQLAlchemy's error.
    if isinstance(failure, DBAPIError) and failure.orig is not None:
        return failure.orig.__cause__ or failure.orig
    return failure


def _by_name(
    name: str,
    table: dict[str, tuple[type[OutboxError], str]],
    origin: BaseException,
    store: str,
) -> OutboxError:
    for beginning, (kind, what_to_do) in table.items():
        if name.startswith(beginning):
            return kind(f"{store}: {what_to_do} ({name})")
    return OutboxError(f"{store}: {type(origin).__name__} ({name})")
