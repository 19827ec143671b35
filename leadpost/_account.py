"""`Account`: its hosts, keys and paths, from arguments or from the environment."""

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Literal, Self

import httpx
from attrs import field, fields, frozen

from leadpost.errors import ConfigurationError

REGIONS: Mapping[str, str] = {
    "india": "-in21",
    "hyderabad": "-in22",
    "usa": "-us11",
    "singapore": "",
    "ireland": "-ir31",
    "canada": "-ca12",
    "middle-east": "-me61",
}
"""Region to the code in its host names. Documented async hosts: India, USA and Singapore."""

STATUS_PATHS = (
    *("status_path", "metrics_path"),
    *("createcustom_status_path", "createcustom_metrics_path"),
)
"""The calls that need only the `x-api-key`, according to LeadSquared's documentation."""
_PATHS = ("submit_path", "createcustom_path", *STATUS_PATHS)
_HOSTNAME = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
_NAME = re.compile(r"[\w.-]{1,100}")
_KEYS = ("access_key", "secret_key", "api_key")


@frozen(kw_only=True, repr=False)
class Account:
    """
    One LeadSquared account: where its API is, and its keys.

    Args:
        host: The async host, such as `asyncapi-in21.leadsquared.com`; https unless it is loopback.
        region: Instead of `host`: `india`, `hyderabad`, `usa`, `singapore`, `ireland`, `canada` or
            `middle-east`.
        sync_host: The host of the synchronous API (activity types, `post_sync`). By default the
            region's, or `host` without its `async`.
        access_key: The user's AccessKey.
        secret_key: The user's SecretKey.
        api_key: The `x-api-key` of the Async API.
        keys_in: How AccessKey and SecretKey are sent: in the `query` (as on all pages of the Async
            API) or in `headers` (as LeadSquared's page on authentication recommends; unconfirmed on
            async hosts).
        keys_for_status: Whether to send AccessKey and SecretKey with status and metrics calls too.
            According to LeadSquared's documentation these need only the `x-api-key`, and every
            call with keys exposes them.
        submit_path: Path of the async post.
        status_path: Path of the Status API (unconfirmed).
        metrics_path: Path of the Metrics API (unconfirmed).
        createcustom_path: Path of the async post that finds or creates the lead.
        createcustom_status_path: Path of the Status API for such posts (unconfirmed).
        createcustom_metrics_path: Path of the Metrics API for such posts.
        name: The account's name in an outbox, such as `acme-production`. With a name, its entries
            and its limit stay together when a key changes, or when several users post. By default
            a fingerprint of host and access key.
        failure_is_final: Whether the status `FAILURE` is final. False by default, as LeadSquared
            retries some of these requests for hours.

    Raises:
        ConfigurationError: a key is missing or malformed, or a host cannot be right. The message
            names the environment variable too.

    The repr shows no key.
    """

    host: str = ""
    region: str | None = None
    sync_host: str = ""
    access_key: str = ""
    secret_key: str = ""
    api_key: str = ""
    keys_in: Literal["query", "headers"] = "query"
    keys_for_status: bool = False
    submit_path: str = "/activity/create"
    status_path: str = "/activity/create/status"
    metrics_path: str = "/activity/create/metrics"
    createcustom_path: str = "/activity/createcustom"
    createcustom_status_path: str = "/activity/createcustom/status"
    createcustom_metrics_path: str = "/activity/createcustom/metrics"
    name: str = ""
    failure_is_final: bool = False
    _urls: dict[str, httpx.URL] = field(init=False, eq=False, factory=dict[str, httpx.URL])

    def __attrs_post_init__(self) -> None:
        host, sync_host = _hosts(self.host, self.region, self.sync_host)
        object.__setattr__(self, "host", host)  # as attrs itself does in a frozen class
        object.__setattr__(self, "sync_host", sync_host)
        _check_keys({name: getattr(self, name) for name in _KEYS})
        if self.name and not _NAME.fullmatch(self.name):
            raise _wrong("name", "use up to 100 letters, digits, dots and hyphens")
        if self.keys_in not in {"query", "headers"}:
            raise _wrong("keys_in", f"found {self.keys_in!r}, wanted 'query' or 'headers'")
        for name in _PATHS:
            path: str = getattr(self, name)
            with suppress(httpx.InvalidURL):
                self._urls[name] = httpx.URL(self.host + path)  # once, as every call needs it
            if name not in self._urls or not path.startswith("/"):
                raise _wrong(name, f"found {path[:80]!r}, wanted a path such as /a/b")

    def __repr__(self) -> str:
        return f"<Account at {self.host}, keys in {self.keys_in}>"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """
        Read the account from environment variables.

        Args:
            environ: The variables, `os.environ` by default: `LEADPOST_REGION` or `LEADPOST_HOST`,
                `LEADPOST_ACCESS_KEY`, `LEADPOST_SECRET_KEY`, `LEADPOST_API_KEY`; optionally
                `LEADPOST_SYNC_HOST`, `LEADPOST_KEYS_IN`, `LEADPOST_ACCOUNT`, and for each path its
                name, such as `LEADPOST_STATUS_PATH`; `true` or `false` for
                `LEADPOST_KEYS_FOR_STATUS`, `LEADPOST_FAILURE_IS_FINAL`.

        Raises:
            ConfigurationError: naming the variable that is missing or wrong.
        """
        environ = os.environ if environ is None else environ
        given: dict[str, Any] = {}
        for argument in fields(cls):
            variable = _variable(argument.name)
            if not argument.init or not (text := environ.get(variable)):
                continue
            if isinstance(argument.default, bool):
                if text.lower() not in {"true", "false"}:
                    raise ConfigurationError(f"{variable}: wanted 'true' or 'false'")
                given[argument.name] = text.lower() == "true"
            else:
                given[argument.name] = text
        return cls(**given)

    @property
    def fingerprint(self) -> str:
        """
        A fingerprint of host and access key: 16 hexadecimal digits.

        The access key cannot be computed from it.
        """
        text = f"{self.host}\n{self.access_key}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def id(self) -> str:
        """The owner of entries in an outbox and of a shared bucket: the name or the fingerprint."""
        return self.name or self.fingerprint

    @property
    def secrets(self) -> tuple[str, str, str]:
        """The keys, which must never be shown."""
        return self.access_key, self.secret_key, self.api_key

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine."""
        return _is_loopback(self.host)

    def url(self, path: str) -> httpx.URL:
        """
        Return the URL of a path.

        Args:
            path: An attribute such as `status_path`, on the async host; or a path such as `/v2/a`
                of the synchronous API.

        Raises:
            ConfigurationError: the sync host is not known.
        """
        if path in self._urls:
            return self._urls[path]
        if not self.sync_host:
            raise ConfigurationError(
                f"sync_host ({_variable('sync_host')}) is missing: this call goes to the"
                f" synchronous API, whose host cannot be derived from {self.host}"
            )
        return httpx.URL(self.sync_host + path)

    def settings_of(self, path: str) -> str:
        """Return the settings that make up the URL of a path: attributes and their variables."""
        names = (path, "host") if path in self._urls else ("sync_host",)
        return " and ".join(f"{name} ({_variable(name)})" for name in names)


def plain_http_hint(account: Account) -> str:
    """Return a hint for TLS with a server on this machine, which may speak plain HTTP."""
    if not account.is_loopback or not account.host.startswith("https://"):
        return ""
    plain = account.host.replace("https://", "http://", 1)
    return f"; if this server speaks plain HTTP, set the host to {plain}"


def _variable(name: str) -> str:
    """Return the environment variable of an argument."""
    return "LEADPOST_" + ("ACCOUNT" if name == "name" else name.upper())


def _wrong(name: str, problem: str) -> ConfigurationError:
    return ConfigurationError(f"{name} ({_variable(name)}): {problem}")


def _hosts(host: str, region: str | None, sync_host: str) -> tuple[str, str]:
    """Return the async and the sync host as URLs without a path."""
    if region is not None:
        if host:
            raise ConfigurationError(
                "host and region: set LEADPOST_HOST or LEADPOST_REGION, not both"
            )
        if region.lower() not in REGIONS:
            wanted = f"wanted one of {', '.join(REGIONS)}; or set the host (LEADPOST_HOST)"
            raise _wrong("region", f"found {region!r}, {wanted}")
        code = REGIONS[region.lower()]
        host = f"asyncapi{code}.leadsquared.com"
        sync_host = sync_host or f"api{code}.leadsquared.com"
    if not host:
        raise ConfigurationError(
            "host is missing: set LEADPOST_REGION to one of"
            f" {', '.join(REGIONS)}, or LEADPOST_HOST to the async host"
        )
    host = _url("host", host)
    if sync_host:
        return host, _url("sync_host", sync_host)
    if "://asyncapi" in host:
        return host, host.replace("://asyncapi", "://api", 1)
    return host, host if _is_loopback(host) else ""


def _url(name: str, host: str) -> str:
    wanted = "wanted a host such as asyncapi-in21.leadsquared.com"
    try:
        url = httpx.URL(host if "://" in host else f"https://{host}")
        hostname = url.raw_host.decode() if url.host else ""  # `host` raises for a bad `xn--` name
    except (httpx.InvalidURL, UnicodeError):
        raise _wrong(name, f"found an invalid host name or port, {wanted}") from None
    if url.userinfo or url.query or url.fragment or url.path.strip("/"):
        raise _wrong(name, f"found a user, path or query, {wanted} alone")
    if not _HOSTNAME.fullmatch(hostname) or not 0 < (url.port or 1) < 2**16:
        raise _wrong(name, f"found an invalid host name or port, {wanted}")
    if url.scheme not in {"https", "http"}:
        raise _wrong(name, f"found scheme {url.scheme!r}, wanted https")
    origin = f"{url.scheme}://{url.netloc.decode()}"
    if url.scheme == "http" and not _is_loopback(origin):
        why = "the keys would be sent unencrypted (plain http is for loopback only)"
        raise _wrong(name, f"found {origin}, wanted https: {why}")
    return origin


def _is_loopback(url: str) -> bool:
    hostname = httpx.URL(url).host
    try:
        return ip_address(hostname).is_loopback
    except ValueError:
        return hostname == "localhost"


def _check_keys(keys: Mapping[str, object]) -> None:
    """Raise for keys that are missing or that no header can carry, without showing them."""
    missing = [name for name, key in keys.items() if not isinstance(key, str) or not key]
    if missing:
        names, variables = " and ".join(missing), " and ".join(_variable(name) for name in missing)
        these = "is missing: give it" if len(missing) == 1 else "are missing: give them"
        raise ConfigurationError(f"{names} {these}, or set {variables}")
    for name, key in keys.items():
        text = str(key)
        if not text.isascii() or not text.isprintable() or " " in text:
            problem = "contains a space or a character that is not printable ASCII"
            raise _wrong(name, f"{problem}; copy the key again")
