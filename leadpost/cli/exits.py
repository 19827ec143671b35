"""How the command ends: its exit codes, and which error means which."""

from enum import IntEnum

from leadpost.errors import (
    ConfigurationError,
    ConnectionFailed,
    InvalidActivity,
    LeadpostError,
    OutageTimeout,
    OutboxError,
    Unauthorized,
)


class Exit(IntEnum):
    """The exit codes, as the help has them."""

    ALL_ACCEPTED = 0
    SOME_NOT = 1
    BAD_INPUT = 2
    KEYS_REFUSED = 3
    AWAY = 75
    HUNG_UP = 129
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_CODES = """
Exit codes: 0 all accepted or posted before, 1 some rows need attention, 2 nothing was sent, 3 keys
refused, 75 LeadSquared away, 129, 130 and 143 by signals.
"""


class InputError(Exception):
    """A file or an option cannot be used as it is; the text says where and why."""


def exit_of(error: Exception) -> Exit:
    """Return the code for an error that ends the command."""
    match error:
        case Unauthorized():
            return Exit.KEYS_REFUSED
        case ConfigurationError() | InvalidActivity() | OutboxError():
            return Exit.BAD_INPUT
        case OutageTimeout() | ConnectionFailed():
            return Exit.AWAY
        case LeadpostError():
            return Exit.SOME_NOT
        case _:
            return Exit.BAD_INPUT


def told(error: Exception) -> str:
    """Return the text and notes of an error; of one about a file, without its number."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join([str(error), *getattr(error, "__notes__", [])])
