"""The outbox that a command uses: a URL, an SQLite file, or the user's own."""

import os
import shlex
from pathlib import Path

import typer

from leadpost.cli.exits import InputError
from leadpost.outbox.database._urls import parse_url

VARIABLE = "LEADPOST_OUTBOX"


def folder() -> Path:
    """Return the user's folder for leadpost: the outbox and the keys of `leadpost setup`."""
    return Path(typer.get_app_dir("leadpost"))


def _own() -> str:
    return f"sqlite:///{folder() / 'outbox.db'}"


def url_of(outbox: str | None) -> str:
    """
    Return the URL of an outbox.

    >>> url_of("calls.db"), url_of("sqlite:////var/lib/leadpost.db")
    ('sqlite:///calls.db', 'sqlite:////var/lib/leadpost.db')
    """
    if not outbox:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        return _own()
    return outbox if "://" in outbox else f"sqlite:///{outbox}"


def outbox_option(url: str) -> str:
    """Return the option that names an outbox in a command to paste; "" for the default one."""
    variable = os.environ.get(VARIABLE)
    if url == (url_of(variable) if variable else _own()):
        return ""
    parsed = parse_url(url)
    if parsed.path is not None:
        named = url.partition(":///")[2]  # as it was typed
    else:
        named = url if url == parsed.name else "URL"  # it may have a password
    return f" --outbox {shlex.quote(named)}"


def shown_url(url: str) -> str:
    """Return a URL without user and password: the file, or host and database."""
    parsed = parse_url(url)
    if parsed.path is None:
        return parsed.name
    path = Path(parsed.path)
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def is_missing(url: str) -> bool:
    """Whether an outbox is a file that does not exist."""
    path = parse_url(url).path
    return path is not None and not Path(path).exists()


def existing(outbox: str | None) -> str:
    """
    Return the URL of an existing outbox, as a look at it must not create one.

    Raises:
        InputError: the file does not exist.
        OutboxError: the URL cannot be used.
    """
    url = url_of(outbox)
    if is_missing(url):
        raise InputError(
            f"{shown_url(url)}: there is no such outbox. Name another with --outbox, or post first"
        )
    return url
