"""Which outbox is meant: by its URL, or by the name of SQLite's file."""

from pathlib import Path

import sqlalchemy as sa

from leadpost.cli.exits import InputError
from leadpost.outbox import Outbox
from leadpost.outbox.store import parsed_url, shown

_SQLITE = "sqlite+aiosqlite"


def url_of(outbox: str) -> str:
    """
    Give the URL of an outbox.

    >>> url_of("calls.csv.outbox.db"), url_of("sqlite+aiosqlite:////var/lib/leadpost.db")
    ('sqlite+aiosqlite:///calls.csv.outbox.db', 'sqlite+aiosqlite:////var/lib/leadpost.db')
    """
    if "://" in outbox:
        return outbox
    return sa.URL.create(_SQLITE, database=outbox).render_as_string(hide_password=False)


def shown_url(url: str) -> str:
    """Give what may be shown of a URL that can be used: the file, or all but the password."""
    parsed = parsed_url(url)
    if parsed.drivername == _SQLITE and parsed.database:
        return parsed.database
    return shown(parsed)


def is_missing(url: str) -> bool:
    """
    Tell whether an outbox is a file that is not there.

    Raises:
        OutboxError: the URL cannot be used.
    """
    parsed = parsed_url(url)
    is_file = parsed.drivername == _SQLITE and bool(parsed.database)
    return is_file and not Path(str(parsed.database)).exists()


def existing(url: str) -> Outbox:
    """
    Give an outbox that is there: to look for one must not make it.

    Raises:
        InputError: there is no such file.
        OutboxError: the URL cannot be used.
    """
    outbox = Outbox(url)
    if is_missing(url):
        raise InputError(f"{parsed_url(url).database}: there is no such outbox")
    return outbox
