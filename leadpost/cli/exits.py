"""The exit codes of the command, and which error means which."""

import errno
from enum import IntEnum

from leadpost.errors import (
    ConfigurationError,
    DiskFull,
    InvalidActivity,
    LeadpostError,
    OutageTimeout,
    OutboxError,
    Unauthorized,
    Unavailable,
)


class Exit(IntEnum):
    """The exit codes; the help of `leadpost post` explains them."""

    ALL_ACCEPTED = 0
    SOME_NOT = 1
    BAD_INPUT = 2
    KEYS_REJECTED = 3
    AWAY = 75
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_CODES = """
Exit codes: 0 all accepted or posted before, 1 some rows need attention, 2 nothing was sent, 3 keys
rejected, 75 LeadSquared away, 129, 130 and 143 by signals.
"""


class InputError(Exception):
    """A file or an option is invalid; the text says where and why."""


def lacks_room(error: Exception) -> bool:
    """Whether there was no room for a temporary file: the rows of a file are in some."""
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT} and not error.filename
    return getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"


def exit_of(error: Exception) -> Exit:
    """Return the exit code for an error that ended the command."""
    if lacks_room(error):
        return Exit.SOME_NOT
    match error:
        case Unauthorized():
            return Exit.KEYS_REJECTED
        case DiskFull():
            return Exit.SOME_NOT
        case ConfigurationError() | InvalidActivity() | OutboxError():
            return Exit.BAD_INPUT
        case OutageTimeout() | Unavailable():
            return Exit.AWAY
        case LeadpostError():
            return Exit.SOME_NOT
        case _:
            return Exit.BAD_INPUT


def text_of_error(error: Exception) -> str:
    """Return the text of an error and its notes; for a file, its path and the reason."""
    if lacks_room(error):
        return "no room for temporary files: make room, or name another folder in TMPDIR"
    if isinstance(error, OSError) and error.filename and error.strerror:
        return ". ".join([f"{error.filename}: {error.strerror}", *getattr(error, "__notes__", [])])
    then = "; then run the same command again" if isinstance(error, DiskFull) else ""
    return " ".join([str(error), *getattr(error, "__notes__", [])]) + then
