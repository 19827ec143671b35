"""How the command ends: its exit codes, and which error means which."""

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes, as the help tells them."""

    ALL_ACCEPTED = 0
    SOME_NOT = 1
    BAD_INPUT = 2
    KEYS_REFUSED = 3
    INTERRUPTED = 130
    TERMINATED = 143


class InputError(Exception):
    """A file or an option cannot be used as it is; the text says where and why."""


def exit_of(error: Exception) -> Exit:
    """Give the code for an error that ends the command."""
    from leadpost.errors import (  # noqa: PLC0415  --help has no need of it
        ConfigurationError,
        InvalidActivity,
        LeadpostError,
        OutboxError,
        Unauthorized,
    )

    match error:
        case Unauthorized():
            return Exit.KEYS_REFUSED
        case ConfigurationError() | InvalidActivity() | OutboxError():
            return Exit.BAD_INPUT
        case LeadpostError():
            return Exit.SOME_NOT
        case _:
            return Exit.BAD_INPUT


def told(error: Exception) -> str:
    """Give the text and notes of an error; of one about a file, without Python's number for it."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join([str(error), *getattr(error, "__notes__", [])])
