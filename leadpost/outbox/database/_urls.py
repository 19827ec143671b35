"""Database URLs: which database, how to connect to it, and which parts may be shown."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

from attrs import field, frozen

from leadpost.errors import OutboxError
from leadpost.outbox.database._sql import UNSTORABLE

FORMS = "wanted sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"

_SQLITE = {"sqlite", "sqlite+aiosqlite"}
_POSTGRESQL = {"postgresql", "postgres", "postgresql+asyncpg"}
_AFTER_SCHEME = re.compile(
    r"((?P<user>[^:/?@]*)(:(?P<password>[^/?@]*))?@)?(?P<host>[^/?@]*)"
    r"(/(?P<dbname>[^/?@]*))?(\?(?P<query>.*))?"
)
"""Strict: programs disagree about where a password with such characters ends."""
_PLACE = re.compile(
    r"(?P<host>/[^@]*|\[[\da-fA-F:.]+\]|[\w-]{1,63}(\.[\w-]{1,63})*\.?|)(:(?P<port>[^,]*))?",
    re.ASCII,
)
"""A folder with a socket, an IPv6 address, or a name, whose parts Python limits; and a port."""
_ENCODE = "write : / ? @ and % of a password as %3A %2F %3F %40 and %25"
_FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl")
_OPTIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("user", "password", "host", "port", "dbname", "connect_timeout"), ()),
    "channel_binding": ("prefer", "disable", "require"),
    "pgbouncer": ("false", "0", "true", "1"),
    # These are for asyncpg, which reads them like libpq, or for the server.
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    **dict.fromkeys((*_FILES, "sslnegotiation", "application_name", "options"), ()),
    **dict.fromkeys(("passfile", "service"), ()),
}
"""The options of libpq that leadpost supports, and the values of those with only a few."""
_PLAIN = re.compile(r"[\w.-]*")


@frozen
class DatabaseUrl:
    """A parsed URL."""

    name: str  # what may be shown: no user, no password, no option
    path: str | None = field(default=None, repr=False)  # SQLite's file; None for PostgreSQL
    connect: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)  # for asyncpg
    private: Sequence[str] = field(default=(), repr=False)  # what a server's message may quote
    is_pooled: bool = False  # whether it leads to a PgBouncer in transaction mode


def parse_url(text: str) -> DatabaseUrl:
    """
    Parse a database URL in the forms of libpq, SQLAlchemy and hosting providers.

    >>> parse_url("postgres://ada:secret@db.example.com/crm?sslmode=require").name
    'postgresql://db.example.com/crm'

    Raises:
        OutboxError: it is invalid. The message quotes only the names of known options, as anything
            else may be part of a mistyped password.
    """
    if UNSTORABLE.search(unquote(text, errors="surrogateescape")):
        raise _invalid(f"it contains NUL or a lone surrogate: {FORMS}")
    scheme, _, rest = text.strip().partition("://")
    if scheme.lower() in _SQLITE:
        return _sqlite(rest)
    if scheme.lower() in _POSTGRESQL:
        return _postgresql(rest)
    raise _invalid(f"it begins with no scheme that leadpost supports: {FORMS}")


def _invalid(what: str) -> OutboxError:
    return OutboxError(f"the URL of the outbox: {what}")


def _sqlite(rest: str) -> DatabaseUrl:
    path = rest.removeprefix("/")
    if path == rest or path in {"", ":memory:"}:
        raise _invalid(f"it names no file: {FORMS}")
    if "?" in path:
        raise _invalid("SQLite has no options here: remove the question mark and the rest")
    path = str(Path(path).absolute())  # once, as the working directory may change
    return DatabaseUrl(f"sqlite:///{path}" if "@" not in path else "sqlite", path)


def _postgresql(rest: str) -> DatabaseUrl:
    found = _AFTER_SCHEME.fullmatch(rest)
    if found is None:
        raise _invalid(f"it cannot be read: {FORMS}; {_ENCODE}")
    parts = {name: unquote(text) for name, text in found.groupdict().items() if text}
    parts.pop("query", None)
    options = parts | _options(found["query"] or "")
    user, password = options.pop("user", None), options.pop("password", None)
    database = options.pop("dbname", "")
    is_pooled = options.pop("pgbouncer", "false") in {"true", "1"}
    host, port = _place(options.pop("host", ""), options.pop("port", ""))
    timeout = options.pop("connect_timeout", "10")
    if not re.fullmatch(r"\d{1,6}", timeout):
        raise _invalid("connect_timeout: wanted seconds, such as 10")
    connect: dict[str, Any] = {
        "host": host,
        "port": port,
        "user": user,
        "password": password,
        "database": database or None,
        "timeout": float(timeout) or None,
        **_tls(options),
    }
    options.setdefault("application_name", "leadpost")
    # asyncpg reads these like libpq, but only from a URL.
    connect["dsn"] = f"postgresql://?{urlencode(options)}"
    name = f"postgresql://{host or ''}/{database if _PLAIN.fullmatch(database) else '…'}"
    private = [text for text in (password, user) if text]
    return DatabaseUrl(name, None, connect, private, is_pooled=is_pooled)


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for option in query.split("&") if query else ():
        name, separator, value = option.partition("=")
        if name not in _OPTIONS or not separator:
            raise _invalid(
                f"it has an unsupported option; supported are {', '.join(sorted(_OPTIONS))};"
                f" settings of the server go into options=-c%20NAME=VALUE; {_ENCODE}"
            )
        if name == "options":
            value = value.replace("+", " ")  # SQLAlchemy writes blanks like this, libpq as %20
        value = unquote(value)
        if _OPTIONS[name] and value not in _OPTIONS[name]:
            raise _invalid(f"{name}: wanted one of {', '.join(_OPTIONS[name])}")
        options[name] = value
    return options


def _tls(options: dict[str, str]) -> dict[str, Any]:
    """
    Return the arguments for TLS where asyncpg differs from libpq.

    asyncpg has no channel binding, which prevents a man in the middle. A verified certificate does
    the same, so `channel_binding=require` means that.
    """
    if options.pop("channel_binding", "prefer") == "require":
        if options.get("sslmode") == "disable":
            raise _invalid("channel_binding=require: not possible with sslmode=disable")
        if options.get("sslmode") != "verify-full":
            options["sslmode"] = "verify-full"
            options.setdefault("sslrootcert", "system")
    if options.get("sslrootcert") == "system":
        del options["sslrootcert"]
        if options.pop("sslmode", "verify-full") != "verify-full":
            raise _invalid("sslrootcert=system: needs sslmode=verify-full")
        if "sslcert" in options:
            raise _invalid("sslrootcert=system: leadpost cannot combine it with sslcert")
        return {"ssl": ssl.create_default_context()}
    for name in _FILES:
        if name in options and not os.access(options[name], os.R_OK):
            raise _invalid(f"{name}: the file cannot be read")
    return {}


def _place(place: str, port: str) -> tuple[str | None, int | None]:
    """Return host and port, None where none is named."""
    if "," in place:
        raise _invalid(f"it names several hosts, which leadpost does not support: {FORMS}")
    found = _PLACE.fullmatch(place)
    if found is None:
        raise _invalid(f"its host is invalid: is the @ before the host missing? {_ENCODE}")
    port = port or found["port"] or ""
    if port and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise _invalid(f"its port is not a number from 1 to 65535: is an @ missing? {_ENCODE}")
    return found["host"].strip("[]") or None, int(port) if port else None
