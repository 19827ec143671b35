"""
The keys, added below the client.

httpx logs every URL, keys included, and puts the request on its exceptions and answers. So the
client is given requests without keys; the transport under it sends a new request that has them.
"""

# pyright: reportPrivateUsage=false
# httpx has no public way to a client's transports; see `keyed`.

from __future__ import annotations

import copy

import httpx

from leadpost.account import Account

LIMITS = httpx.Limits(max_connections=25, max_keepalive_connections=25, keepalive_expiry=2.0)
"""
One connection for each token. Many servers close a connection that was idle for 5 s, which is this
client's rhythm, and a post on a connection that is being closed is in doubt. An idle one is left
alone after 2 s: that is 5 s less the longest round trip worth thinking of.
"""

TIMEOUT = httpx.Timeout(30.0, connect=10.0, pool=30.0)
"""Seconds. Nobody waits for the pool longer than for an answer: it has a place for each token."""


class KeyedTransport(httpx.AsyncBaseTransport):
    """Sends each request with the account's keys, and lets nobody above see them."""

    def __init__(self, transport: httpx.AsyncBaseTransport, account: Account) -> None:
        self._transport = transport
        self._async_origin = _origin(httpx.URL(account.host))
        self._api_key = {"x-api-key": account.api_key}
        self._urls: dict[bytes, httpx.URL] = {}
        self._params: dict[str, str] = {}
        self._headers: dict[str, str] = {}
        if account.keys_in == "query":
            self._params = {"accessKey": account.access_key, "secretKey": account.secret_key}
        else:
            self._headers = {
                "x-LSQ-AccessKey": account.access_key,
                "x-LSQ-SecretKey": account.secret_key,
            }

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await self._transport.handle_async_request(self._keyed(request))
        except BaseException as error:  # noqa: BLE001  # raised again
            # The frames below hold the keys in their variables, which error trackers read; those of
            # a cancellation are shown with the TimeoutError that it becomes.
            error.__context__ = None
            raise error.with_traceback(None) from None
        # No redirect is followed with the keys, and httpx stumbles over some that it only prepares.
        response.headers.pop("Location", None)
        return response

    def _keyed(self, request: httpx.Request) -> httpx.Request:
        headers = request.headers.copy()
        headers.update(self._headers)
        if _origin(request.url) == self._async_origin:
            headers.update(self._api_key)
        return httpx.Request(
            request.method,
            self._keyed_url(request.url) if self._params else request.url,
            headers=headers,
            stream=request.stream,
            extensions=request.extensions,
        )

    def _keyed_url(self, url: httpx.URL) -> httpx.URL:
        """Add the keys; for the few URLs without parameters of their own, only once."""
        if url.query:
            return url.copy_merge_params(self._params)
        where = url.raw_host + url.raw_path
        if where not in self._urls:
            self._urls[where] = url.copy_merge_params(self._params)
        return self._urls[where]


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def keyed(client: httpx.AsyncClient, account: Account) -> httpx.AsyncClient:
    """
    Give a client that does all that the given one does, over the same connections, with the keys.

    The given one stays as it was. httpx has no public way to its transports (0.28), hence the two
    private names here; the test of an injected client guards them.
    """
    twin = copy.copy(client)
    twin._transport = KeyedTransport(client._transport, account)  # noqa: SLF001  see above
    twin._mounts = {  # noqa: SLF001  see above
        pattern: None if transport is None else KeyedTransport(transport, account)
        for pattern, transport in client._mounts.items()  # noqa: SLF001  see above
    }
    return twin
