"""Database URLs: which database, how to connect to it, and what of them may be shown."""

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
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_TLS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_FILES = ("sslcert", "sslkey", "sslrootcert", "sslcrl")
_ALLOWED = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS,
    "ssl_max_protocol_version": _TLS,
    "target_session_attrs": ("any", "read-write", "primary", "read-only", "standby"),
    "gsslib": ("gssapi", "sspi"),
}
"""The values of options that have a few."""
_HARMLESS = {
    "channel_binding": ("prefer", "disable"),
    "client_encoding": ("utf8", "UTF8", "auto"),
    "gssencmode": ("prefer", "disable"),
    "load_balance_hosts": ("disable",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
}
"""Options that ask for nothing that asyncpg lacks, if they have one of these values."""
_PASSED_ON = {
    *_ALLOWED,
    *_FILES,
    *("application_name", "options", "passfile", "service", "sslpassword", "krbsrvname"),
}
"""Options that asyncpg understands as libpq does, or the server at the start of a session."""
_OURS = ("host", "port", "user", "password", "dbname", "connect_timeout", "pgbouncer")
_NOT_POSSIBLE = (
    *("hostaddr", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    *("tcp_user_timeout", "require_auth", "requirepeer", "requiressl", "replication"),
    *("sslcertmode", "sslcrldir", "gssdelegation", "min_protocol_version"),
    *("max_protocol_version", "fallback_application_name", "ssl", "search_path", "schema"),
    *("prepared_statement_cache_size", "statement_cache_size", "statement_timeout"),
    *("pool_timeout", "connection_limit", "pool_size"),
)
"""Options that people do use, with other drivers. Only names that are listed here are shown."""
_KNOWN = sorted({*_PASSED_ON, *_OURS, *_HARMLESS, *_NOT_POSSIBLE})
_PLAIN = re.compile(r"[\w.-]*")


@frozen
class DatabaseUrl:
    """
    A URL, understood.

    Attributes:
        name: What may be shown: no user, no password, no option.
        path: The file of SQLite; None for PostgreSQL.
        hosts: PostgreSQL's hosts or folders of sockets, each with its port. None: the default.
        connect: Arguments for asyncpg, the same for each host.
        private: User and password, which a message of the server may quote.
        is_pooled: Whether a PgBouncer in transaction mode is in between (`pgbouncer=true`).
    """

    name: str
    path: str | None = field(default=None, repr=False)
    hosts: Sequence[tuple[str | None, int | None]] = field(default=(), repr=False)
    connect: Mapping[str, Any] = field(factory=dict[str, Any], repr=False)
    private: Sequence[str] = field(default=(), repr=False)
    is_pooled: bool = False


def parse_url(text: str) -> DatabaseUrl:
    """
    Understand a database URL, as libpq, SQLAlchemy and hosters write them.

    >>> parse_url("postgres://ada:secret@db.example.com/crm?sslmode=require").name
    'postgresql://db.example.com/crm'

    Raises:
        OutboxError: it cannot be understood. The message quotes nothing of it but the names of
            options that are known, as anything else may be part of a mistyped password.
    """
    if re.search("[\0\ud800-\udfff]", unquote(text, errors="surrogateescape")):
        raise _invalid(f"it has characters that are not text: {FORMS}")
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise _invalid(f"it cannot be read: {FORMS}")
    scheme = scheme.lower()
    if scheme in _SQLITE:
        return _sqlite(rest)
    if scheme in _POSTGRESQL:
        return _postgresql(rest)
    if scheme.startswith(("sqlite+", "postgresql+", "postgres+")):
        raise _invalid(f"it names a driver that leadpost does not use, leave it out: {FORMS}")
    raise _invalid(f"it is of another kind of database: {FORMS}")


def _invalid(what: str) -> OutboxError:
    return OutboxError(f"the URL of the outbox: {what}")


def _sqlite(rest: str) -> DatabaseUrl:
    path = rest.removeprefix("/")
    if path == rest or path in {"", ":memory:"}:
        raise _invalid(f"it names no file: {FORMS}")
    if "?" in path:
        raise _invalid("SQLite takes no options here: leave out what follows the question mark")
    return DatabaseUrl(f"sqlite:///{path}" if "@" not in path else "sqlite", path)


def _postgresql(rest: str) -> DatabaseUrl:
    address, _, query = rest.partition("?")
    authority, _, database = address.partition("/")
    login, at, hosts = authority.rpartition("@")
    # Programs disagree about where such a password ends, and the rest of it would be shown.
    if "@" in login or "@" in database:
        raise _invalid(f"it has an @ too many: {_ENCODE}")
    user, _, password = login.partition(":")
    options = _options(query)
    user = options.pop("user", unquote(user))
    password = options.pop("password", unquote(password))
    database = options.pop("dbname", unquote(database))
    is_pooled = _boolean("pgbouncer", options.pop("pgbouncer", "false"))
    host, port = options.pop("host", hosts), options.pop("port", "")
    places = _hosts(host, port, has_login=bool(at))
    connect: dict[str, Any] = {
        "user": user or None,
        "password": password or None,
        "database": database or None,
        "timeout": _seconds(options.pop("connect_timeout", CONNECT_TIMEOUT)),
        **_tls(options),
    }
    _check(options)
    options.setdefault("application_name", "leadpost")
    # asyncpg reads these as libpq does, but only from a URL of its own.
    connect["dsn"] = f"postgresql://?{urlencode(options)}"
    shown = ",".join(host or "" for host, _ in places)
    name = f"postgresql://{shown}/{database if _PLAIN.fullmatch(database) else '…'}"
    private = [text for text in (password, user) if text]
    return DatabaseUrl(name, None, places, connect, private, is_pooled=is_pooled)


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for option in query.split("&") if query else ():
        name, separator, value = option.partition("=")
        if name not in _KNOWN or not separator:
            near = difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.8)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise _invalid(
                f"it has an unknown option{meant}: options of libpq are known; {_ENCODE}"
            )
        if name == "options":
            value = value.replace("+", " ")  # SQLAlchemy writes blanks like this, libpq as %20
        value = unquote(value)
        if name == "host" and name in options:  # how SQLAlchemy writes several
            value = f"{options[name]},{value}"
        options[name] = value
    return options


def _check(options: dict[str, str]) -> None:
    """See that only options are left that asyncpg understands; drop those that ask for nothing."""
    for name, values in _HARMLESS.items():
        if options.pop(name, values[0]) not in values:
            raise _invalid(f"{name}: asyncpg can only do {' or '.join(values)}")
    for name, values in _ALLOWED.items():
        if options.get(name, values[0]) not in values:
            raise _invalid(f"{name}: wanted one of {', '.join(values)}")
    for name in _FILES:
        if name in options and not os.access(options[name], os.R_OK):
            raise _invalid(f"{name}: this file cannot be read")
    if "ssl" in options:
        raise _invalid("ssl: write sslmode instead")
    if impossible := sorted(set(options) - _PASSED_ON):
        raise _invalid(
            f"{', '.join(impossible)}: leadpost cannot do this, leave it out; settings of the"
            " server go into options=-c%20NAME=VALUE"
        )


def _tls(options: dict[str, str]) -> dict[str, Any]:
    """Return what asyncpg needs for the system's certificates, which it does not know by itself."""
    if options.get("sslrootcert") != "system":
        return {}
    del options["sslrootcert"]
    if options.pop("sslmode", "verify-full") != "verify-full":
        raise _invalid("sslrootcert=system: wanted sslmode=verify-full with it")
    if "sslcert" in options:
        raise _invalid("sslrootcert=system: leadpost cannot use it with sslcert")
    return {"ssl": ssl.create_default_context()}


def _boolean(name: str, value: str) -> bool:
    if value.lower() not in _BOOLEANS:
        raise _invalid(f"{name}: wanted true or false")
    return _BOOLEANS[value.lower()]


def _seconds(value: str | int) -> float | None:
    """Return a time-out, None for none."""
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
    is_valid = _is_name
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
        is_valid = _is_ip6
    elif text.startswith("/"):
        host, port = text, ""
    elif text.count(":") > 1:  # IPv6 as an option has it
        host, port, is_valid = text, "", _is_ip6
    else:
        host, _, port = text.partition(":")
    host = unquote(host)
    if host and not is_valid(host):
        raise _invalid(f"its host cannot be one: {_ENCODE}")
    return host or None, _port(port, has_login=has_login) if port else None


def _is_ip6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def _is_name(host: str) -> bool:
    """Whether a host is a socket's folder, or can be looked up: Python raises on long labels."""
    if host.startswith("/"):
        return "@" not in host
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return re.fullmatch(r"[\w.-]+", host) is not None


def _port(text: str, *, has_login: bool) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        hint = _ENCODE if has_login else "is the @ before the host missing?"
        raise _invalid(f"its port is not a number from 1 to 65535: {hint}")
    return int(text)
