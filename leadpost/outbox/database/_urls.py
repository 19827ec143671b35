"""Database URLs: which database, how to connect to it, and which parts may be shown."""

from __future__ import annotations

import difflib
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address
from typing import Any
from urllib.parse import unquote, urlencode

from attrs import field, frozen

from leadpost.errors import OutboxError

FORMS = "wanted sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
CONNECT_TIMEOUT = 10
"""Seconds for connecting to one host, by default."""

_SQLITE = {"sqlite", "sqlite+aiosqlite"}
_POSTGRESQL = {"postgresql", "postgres", "postgresql+asyncpg"}
_ENCODE = "write : / ? @ and % of a password as %3A %2F %3F %40 and %25"
_TLS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl")
_HARMLESS = {
    "client_encoding": ("utf8", "UTF8", "auto"),
    "gssencmode": ("prefer", "disable"),
    "load_balance_hosts": ("disable",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
}
"""Options that need nothing from asyncpg if they have one of these values."""
_ALLOWED = {
    **_HARMLESS,
    "channel_binding": ("prefer", "disable", "require"),
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS,
    "ssl_max_protocol_version": _TLS,
    "target_session_attrs": ("any", "read-write", "primary", "read-only", "standby"),
    "gsslib": ("gssapi", "sspi"),
    "pgbouncer": ("false", "0", "true", "1"),
}
"""The allowed values of options that have only a few, the default first."""
_POSSIBLE = {
    *_ALLOWED,
    *_FILES,
    *("host", "port", "user", "password", "dbname", "connect_timeout"),
    *("application_name", "options", "passfile", "service", "sslpassword", "krbsrvname"),
}
"""Options that leadpost, asyncpg, or the server at the start of a session understands."""
_NOT_POSSIBLE = {
    *("hostaddr", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    *("tcp_user_timeout", "require_auth", "requirepeer", "requiressl", "replication"),
    *("sslcertmode", "sslcrldir", "gssdelegation", "min_protocol_version"),
    *("max_protocol_version", "fallback_application_name", "ssl", "search_path", "schema"),
    *("prepared_statement_cache_size", "statement_cache_size", "statement_timeout"),
    *("pool_timeout", "connection_limit", "pool_size"),
}
"""Options of other drivers. Messages show only names that are listed here or above."""
_PLAIN = re.compile(r"[\w.-]*")
_NAME = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*\.?", re.ASCII)
"""The name of a host: Python raises on longer parts."""


@frozen
class DatabaseUrl:
    """A parsed URL."""

    name: str  # what may be shown: no user, no password, no option
    path: str | None = field(default=None, repr=False)  # SQLite's file; None for PostgreSQL
    hosts: Sequence[tuple[str | None, int | None]] = field(default=(), repr=False)  # with ports
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
    if re.search("[\0\ud800-\udfff]", unquote(text, errors="surrogateescape")):
        raise _invalid(f"it contains NUL or a lone surrogate: {FORMS}")
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise _invalid(f"it cannot be read: {FORMS}")
    scheme = scheme.lower()
    if scheme in _SQLITE:
        return _sqlite(rest)
    if scheme in _POSTGRESQL:
        return _postgresql(rest)
    if scheme.startswith(("sqlite+", "postgresql+", "postgres+")):
        raise _invalid(f"it names a driver that leadpost does not use; remove it: {FORMS}")
    raise _invalid(f"it is for another kind of database: {FORMS}")


def _invalid(what: str) -> OutboxError:
    return OutboxError(f"the URL of the outbox: {what}")


def _sqlite(rest: str) -> DatabaseUrl:
    path = rest.removeprefix("/")
    if path == rest or path in {"", ":memory:"}:
        raise _invalid(f"it names no file: {FORMS}")
    if "?" in path:
        raise _invalid("SQLite has no options here: remove the question mark and the rest")
    return DatabaseUrl(f"sqlite:///{path}" if "@" not in path else "sqlite", path)


def _postgresql(rest: str) -> DatabaseUrl:
    address, _, query = rest.partition("?")
    authority, _, database = address.partition("/")
    login, at, hosts = authority.rpartition("@")
    # Programs disagree about where such a password ends, and the rest of it would be shown.
    if "@" in login or "@" in database:
        raise _invalid(f"it has one @ too many: {_ENCODE}")
    user, _, password = login.partition(":")
    options = _options(query)
    user = options.pop("user", unquote(user))
    password = options.pop("password", unquote(password))
    database = options.pop("dbname", unquote(database))
    is_pooled = options.pop("pgbouncer", "false") in {"true", "1"}
    host, port = options.pop("host", hosts), options.pop("port", "")
    places = _hosts(host, port, has_login=bool(at))
    connect: dict[str, Any] = {
        "user": user or None,
        "password": password or None,
        "database": database or None,
        "timeout": _seconds(options.pop("connect_timeout", CONNECT_TIMEOUT)),
        **_tls(options),
    }
    options.setdefault("application_name", "leadpost")
    # asyncpg reads these like libpq, but only from a URL.
    connect["dsn"] = f"postgresql://?{urlencode(options)}"
    shown = ",".join(host or "" for host, _ in places)
    name = f"postgresql://{shown}/{database if _PLAIN.fullmatch(database) else '…'}"
    private = [text for text in (password, user) if text]
    return DatabaseUrl(name, None, places, connect, private, is_pooled=is_pooled)


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for option in query.split("&") if query else ():
        name, separator, value = option.partition("=")
        if name not in _POSSIBLE | _NOT_POSSIBLE or not separator:
            known = sorted(_POSSIBLE | _NOT_POSSIBLE)
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise _invalid(f"it has an unknown option{meant}: use the options of libpq; {_ENCODE}")
        if name == "ssl":
            raise _invalid("ssl: write sslmode instead")
        if name in _NOT_POSSIBLE:
            raise _invalid(
                f"{name}: leadpost does not support this, remove it; settings of the server go into"
                " options=-c%20NAME=VALUE"
            )
        if name == "options":
            value = value.replace("+", " ")  # SQLAlchemy writes blanks like this, libpq as %20
        value = unquote(value)
        if name in _ALLOWED and value not in _ALLOWED[name]:
            raise _invalid(f"{name}: wanted one of {', '.join(_ALLOWED[name])}")
        if name == "host" and name in options:  # how SQLAlchemy writes several
            value = f"{options[name]},{value}"
        options[name] = value
    return {name: value for name, value in options.items() if name not in _HARMLESS}


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


def _seconds(value: str | int) -> float | None:
    """Return a time-out in seconds, None for no limit."""
    if not re.fullmatch(r"-?\d{1,6}", str(value)):
        raise _invalid("connect_timeout: wanted seconds, such as 10")
    return float(value) if int(value) > 0 else None


def _hosts(hosts: str, ports: str, *, has_login: bool) -> list[tuple[str | None, int | None]]:
    found = [_host(host, has_login=has_login) for host in hosts.split(",")]
    if not ports:
        return found
    numbers = [_port(port, has_login=True) for port in ports.split(",")]
    if len(numbers) == 1:
        numbers *= len(found)
    if len(numbers) != len(found):
        raise _invalid("port: wanted one port, or one for each host")
    return [(host, port) for (host, _), port in zip(found, numbers, strict=True)]


def _host(text: str, *, has_login: bool) -> tuple[str | None, int | None]:
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif not text.startswith("/") and text.count(":") < 2:
        host, _, port = text.partition(":")
    host = unquote(host)
    is_folder = host.startswith("/") and "@" not in host
    is_ip6 = text.startswith("[") or ":" in host
    if host and not (is_folder or (_is_ip6(host) if is_ip6 else _NAME.fullmatch(host))):
        raise _invalid(f"its host is invalid: {_ENCODE}")
    return host or None, _port(port, has_login=has_login) if port else None


def _is_ip6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def _port(text: str, *, has_login: bool) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        hint = _ENCODE if has_login else "is the @ before the host missing?"
        raise _invalid(f"its port is not a number from 1 to 65535: {hint}")
    return int(text)
