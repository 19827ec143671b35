"""Which outbox is meant: by its URL, by the name of SQLite's file, or the user's own."""

from pathlib import Path

import typer

from leadpost.cli.exits import InputError
from leadpost.outbox.database._urls import parse_url


def folder() -> Path:
    """Return the user's folder for leadpost: the outbox and the keys of `leadpost setup`."""
    return Path(typer.get_app_dir("leadpost"))


def url_of(outbox: str | None) -> str:
    """
    Return the URL of an outbox.

    >>> url_of("calls.db"), url_of("sqlite:////var/lib/leadpost.db")
    ('sqlite:///calls.db', 'sqlite:////var/lib/leadpost.db')
    """
    if not outbox:
        own = folder()
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        return f"sqlite:///{own / 'outbox.db'}"
    return outbox if "://" in outbox else f"sqlite:///{outbox}"


def shown_url(url: str) -> str:
    """Return what may be shown of a URL: the file, or the host and the database."""
    parsed = parse_url(url)
    if parsed.path is None:
        return parsed.name
    path = Path(parsed.path)
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def is_missing(url: str) -> bool:
    """Whether an outbox is a file that is not there."""
    path = parse_url(url).path
    return path is not None and not Path(path).exists()


def existing(outbox: str | None) -> str:
    """
    Return the URL of an outbox that is there: looking for one must not create it.

    Raises:
        InputError: there is no such file.
        OutboxError: the URL cannot be used.
    """
    url = url_of(outbox)
    if is_missing(url):
        raise InputError(
            f"{shown_url(url)}: there is no such outbox; nothing was posted from it yet"
        )
    return url
