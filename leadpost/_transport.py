"""
Below the HTTP client: adds the keys, enforces the time-out, reads the answer.

httpx logs every URL with its parameters, and attaches the request to its exceptions and answers. So
the client gets requests without keys and parameters, and the transport below it sends new ones that
have them. It reads the whole answer, up to a maximum, so that no hook of the client can read only a
part.
"""

# pyright: reportPrivateUsage=false
# httpx has no public way to a client's transports; see `keyed`.

from __future__ import annotations

import asyncio
import copy
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any, cast

import httpx

from leadpost._account import STATUS_PATHS, Account
from leadpost._responses import decoded, redactor
from leadpost.errors import ConfigurationError

LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=25, keepalive_expiry=2.0)
"""
Tokens limit the number of connections, so the pool does not. Many servers close a connection that
was idle for 5 s, just when a token returns, and a post on a closing connection becomes uncertain.
So idle connections are dropped after 2 s: 5 s less the longest usual round trip.
"""
TIMEOUT = httpx.Timeout(None, connect=10.0)
"""Nothing but connecting has a limit of its own: `call_timeout` limits the whole call."""
PARAMS = "leadpost.params"
"""The request extension with the parameters of the query, which may be personal data."""
LARGEST = "leadpost.largest"
"""The request extension with the most bytes to read of the answer."""
ENDS_AT = "leadpost.ends_at"
"""The request extension with the event loop's time at which the call ends, None for no limit."""
BEFORE_SEND = "leadpost.before_send"
"""
The request extension with a function to call right before anything of the request is sent: before
its headers, and again before its body. It may raise to stop either.
"""


class IllegalRequest(httpx.LocalProtocolError):
    """HTTP/1.1 forbids the request, such as for a header of the client's."""


BROKEN = (httpx.TransportError, ssl.SSLError, TimeoutError)
"""The errors of a broken connection: httpx passes on those of TLS after its handshake."""
NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
"""Raised by httpx before anything of a request was sent."""

_HEADERS = [
    (b"Content-Type", b"application/json"),
    (b"Accept", b"application/json"),
    # A compressed answer of a few kB can decode to gigabytes.
    (b"Accept-Encoding", b"identity"),
]
"""Added here, because merging them in the client takes twice as long."""
_DROPPED = {
    *(b"cookie", b"x-api-key", b"x-lsq-accesskey", b"x-lsq-secretkey"),
    *(name.lower() for name, _ in _HEADERS),
}
# No redirect is followed with the keys, and httpx raises for some that it only prepares. This API
# needs no cookies. The other headers describe a body that is not decoded yet.
_DROPPED_FROM_ANSWERS = {
    *(b"location", b"set-cookie"),
    *(b"content-encoding", b"content-length", b"transfer-encoding"),
}
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


class KeyedTransport(httpx.AsyncBaseTransport):
    """Sends each request with the account's keys, which nothing above it can see."""

    def __init__(self, transport: httpx.AsyncBaseTransport, account: Account) -> None:
        self._transport = transport
        self._redact = redactor(account.secrets)
        self._async_origin = _origin(httpx.URL(account.host))
        self._api_key = [(b"x-api-key", account.api_key.encode())]
        self._key_params: dict[str, str] = {}
        self._key_headers: list[tuple[bytes, bytes]] = []
        if account.keys_in == "query":
            self._key_params = {"accessKey": account.access_key, "secretKey": account.secret_key}
        else:
            self._key_headers = [
                (b"x-LSQ-AccessKey", account.access_key.encode()),
                (b"x-LSQ-SecretKey", account.secret_key.encode()),
            ]
        self._without_keys = frozenset[httpx.URL]()
        if not account.keys_for_status:
            self._without_keys = frozenset(map(account.url, STATUS_PATHS))
        # Nearly all calls use this URL, so it is built once.
        self._submit_url = account.url("submit_path")
        self._keyed_submit_url = self._submit_url.copy_merge_params(self._key_params)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if BEFORE_SEND not in request.extensions:  # made by an Auth of the client: it gets no keys
            return await self._transport.handle_async_request(request)
        response: httpx.Response | None = None
        body = bytearray()
        largest: int = request.extensions[LARGEST]
        try:
            async with asyncio.timeout_at(request.extensions.get(ENDS_AT)):
                response = await self._transport.handle_async_request(self._keyed(request))
                if not response.is_closed:  # a mock transport has already read it
                    await _read(cast("httpx.AsyncByteStream", response.stream), body, largest)
        except BaseException as error:  # noqa: BLE001  # raised again, unless a status was read
            if type(error).__module__ == "socksio.exceptions":  # which httpx does not catch
                raise httpx.ProxyError(f"SOCKS: {error}") from None
            if response is None or not isinstance(error, (*BROKEN, asyncio.CancelledError)):
                # Error trackers show the variables of frames, and those below contain the keys;
                # the frames of a cancellation appear with the TimeoutError that it becomes. If a
                # server echoes the request and that is not HTTP, the message quotes it.
                error.__context__ = None
                if isinstance(error, httpx.TransportError):
                    error.args = (self._redact(str(error)),)
                raise error.with_traceback(None) from None
            # Or else the status line was read: it decides, even if the body is incomplete. So it
            # does if the call is cut off, which ends with this answer instead of CancelledError.
        encoding = response.headers.get("Content-Encoding", "")
        response.headers = httpx.Headers(
            [h for h in response.headers.raw if h[0].lower() not in _DROPPED_FROM_ANSWERS]
        )
        # Without the reason phrase, in which a proxy may quote the URL.
        response.extensions = {"http_version": response.extensions.get("http_version", b"HTTP/1.1")}
        if not response.is_closed:
            response.stream = httpx.ByteStream(decoded(bytes(body), encoding, largest))
            await response.aread()
        return response

    def _keyed(self, request: httpx.Request) -> httpx.Request:
        headers = [header for header in request.headers.raw if header[0].lower() not in _DROPPED]
        headers += _HEADERS
        if _origin(request.url) == self._async_origin:
            headers += self._api_key
        extensions = dict(request.extensions)
        del extensions[LARGEST]
        extensions.pop(ENDS_AT, None)
        params: Mapping[str, str] | None = extensions.pop(PARAMS, None)
        url = request.url.copy_merge_params(params) if params else request.url
        if url == self._submit_url:
            headers += self._key_headers
            url = self._keyed_submit_url
        elif url.copy_with(query=None) not in self._without_keys:
            headers += self._key_headers
            url = url.copy_merge_params(self._key_params)
        return httpx.Request(
            request.method,
            url,
            headers=headers,
            stream=request.stream,
            extensions=self._extensions(extensions),
        )

    def _extensions(self, extensions: dict[str, Any]) -> dict[str, Any]:
        """Call `BEFORE_SEND` at the last moments before sending that the transport reveals."""
        before_send: Callable[[], None] = extensions.pop(BEFORE_SEND)
        if not isinstance(self._transport, httpx.AsyncHTTPTransport):
            before_send()
            return extensions

        async def trace(event: str, info: dict[str, Any]) -> None:  # httpcore awaits it
            # Not the CONNECT to a proxy: it sends nothing to LeadSquared. Other tasks run between
            # headers and body, so a process can be frozen there; a post arrives with its body.
            if event.endswith(("send_request_headers.started", "send_request_body.started")) and (
                info["request"].method != b"CONNECT"
            ):
                before_send()
            # HTTP/1.1 checks all headers before it sends the first. With HTTP/2, such an error may
            # come later, and from what the server sent.
            error = info.get("exception")
            if event == "http11.send_request_headers.failed" and (
                type(error).__name__ == "LocalProtocolError"
            ):
                raise IllegalRequest(str(error))
            if not event.endswith(".started"):
                # What httpcore logs next, at DEBUG: a server may quote the keys in its headers.
                info.clear()

        return {**extensions, "trace": trace}


async def _read(stream: httpx.AsyncByteStream, body: bytearray, largest: int) -> None:
    """Read a body up to `largest` bytes."""
    try:
        async for chunk in stream:
            body += chunk[: largest - len(body)]
            if len(body) == largest:
                return
    finally:
        await stream.aclose()


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def keyed(client: httpx.AsyncClient, account: Account) -> httpx.AsyncClient:
    """
    Return a copy of the client that uses the same connections and adds the keys.

    A call that takes longer than until `ENDS_AT` raises `TimeoutError`, unless the status line was
    read: that decides, even if the body is incomplete.

    The client itself is unchanged. httpx (0.28) has no public access to its transports, hence the
    two private names here; the test of an injected client guards them.
    """
    twin = copy.copy(client)
    twin._transport = KeyedTransport(client._transport, account)  # noqa: SLF001  see above
    twin._mounts = {  # noqa: SLF001  see above
        pattern: transport and KeyedTransport(transport, account)
        for pattern, transport in client._mounts.items()  # noqa: SLF001  see above
    }
    return twin


def new_client(account: Account) -> httpx.AsyncClient:
    """
    Build a client that suits this API.

    Raises:
        ConfigurationError: a proxy or TLS variable of the environment cannot be used.
    """
    # Calls to this machine use no proxy of the environment. Without TLS, the client need not read
    # certificates, which takes some 40 ms of CPU time.
    if account.is_loopback:
        uses_tls = any(url.startswith("https:") for url in (account.host, account.sync_host))
        return httpx.AsyncClient(limits=LIMITS, timeout=TIMEOUT, trust_env=False, verify=uses_tls)
    file, directory = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    problem = _proxy_problem()
    if not file and directory and not any(map(os.path.isdir, directory.split(os.pathsep))):
        # OpenSSL would accept it silently, and then trust no certificate.
        problem = "SSL_CERT_DIR: there is no such directory"
    if not problem:
        try:
            return httpx.AsyncClient(limits=LIMITS, timeout=TIMEOUT)
        except OSError as error:
            if error.filename and error.filename == os.environ.get("SSLKEYLOGFILE"):
                problem = "SSLKEYLOGFILE: this file cannot be written"
            elif file:
                problem = "SSL_CERT_FILE: no certificates can be loaded from this file"
            else:
                raise
        except (httpx.InvalidURL, ValueError):
            names = " or ".join(_variables(["NO_PROXY"])) or "NO_PROXY"
            problem = f"{names}: wanted host names, separated by commas"
    # Not in the `except`: the error there may quote a variable, and so a password.
    raise ConfigurationError(problem)


def _proxy_problem() -> str:
    """Name a variable that httpx cannot use, without its value; return nothing if there is none."""
    for variable in _variables(_PROXIES):
        proxy = os.environ[variable]
        try:
            url = httpx.Proxy(proxy if "://" in proxy else f"http://{proxy}").url
        except (httpx.InvalidURL, ValueError):
            url = httpx.URL()
        # httpx accepts a port that no socket can have.
        if not url.raw_host or (url.port is not None and not 0 < url.port < 2**16):
            return f"{variable}: wanted a proxy URL such as http://proxy.example.com:3128"
        if url.scheme.startswith("socks") and find_spec("socksio") is None:
            return f"{variable}: a SOCKS proxy needs another package: pip install 'httpx[socks]'"
    return ""


def _variables(names: Iterable[str]) -> list[str]:
    return [name for pair in names for name in (pair, pair.lower()) if os.environ.get(name)]
