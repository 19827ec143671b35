"""An HTTP client of the caller's own: what it cannot send, and requests that its Auth makes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator

import httpx
import pytest
from raw_server import RawServer, answer, answers
from support import KEYS, LeadSquared, account, activity
from support import answers as script

from leadpost import (
    AsyncActivityPoster,
    BatchError,
    ConfigurationError,
    DeliveryUncertain,
    OpenBucket,
    TokenBucket,
)
from leadpost.outbox import Outbox


@pytest.fixture
async def illegal() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(headers={"User-Agent": "service\n"}) as client:
        yield client


async def test_a_header_that_http_forbids_raises_at_once_and_leaves_the_token_unused(
    illegal: httpx.AsyncClient,
) -> None:
    bucket = TokenBucket()
    async with RawServer(answers()) as server:
        poster = AsyncActivityPoster(account(host=server.url), client=illegal, bucket=bucket)
        with pytest.raises(ConfigurationError, match=r"HTTP/1\.1 forbids a header") as caught:
            await poster.post(activity())
    assert "service" not in str(caught.value)
    assert not poster.is_away
    assert bucket.statistics().free == 25
    assert server.requests == []


async def test_it_ends_a_batch(illegal: httpx.AsyncClient) -> None:
    async with RawServer(answers()) as server:
        poster = AsyncActivityPoster(account(host=server.url), client=illegal)
        with pytest.raises(BatchError) as caught:
            await poster.post_many(map(activity, range(1, 100)))
    outcomes = caught.value.outcomes
    assert {outcome.state for outcome in outcomes} == {"not_sent"}
    assert sum(isinstance(outcome.error, ConfigurationError) for outcome in outcomes) < 30


async def test_it_ends_a_worker_whose_entries_stay_pending(
    illegal: httpx.AsyncClient, sqlite_url: str
) -> None:
    async with RawServer(answers()) as server, Outbox(sqlite_url, "acme") as outbox:
        await outbox.put(activity())
        named = account(host=server.url, name="acme")
        poster = AsyncActivityPoster(named, client=illegal)
        with pytest.raises(ConfigurationError, match="forbids a header"):
            await outbox.run(poster)
        assert (await outbox.counts())["pending"] == 1


async def test_another_violation_of_the_protocol_is_uncertain() -> None:
    """With HTTP/2, it may be found after the post was sent."""
    client = LeadSquared(script(httpx.LocalProtocolError("stream 1 is closed"))).client()
    async with client:
        poster = AsyncActivityPoster(account(), client=client, bucket=OpenBucket())
        with pytest.raises(DeliveryUncertain):
            await poster.post(activity())


class TokenAuth(httpx.Auth):
    """Gets a token from a server of its own before each request."""

    requires_response_body = True

    def __init__(self, url: str) -> None:
        self._url = url

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        response = yield httpx.Request("GET", self._url)
        request.headers["Authorization"] = f"Bearer {response.json()['token']}"
        yield request


async def test_a_request_of_the_clients_auth_goes_through_without_the_keys() -> None:
    reply = answer(200, b'{"token": "t1"}')
    async with RawServer(answers(reply)) as gateway, RawServer(answers()) as server:
        auth = TokenAuth(f"{gateway.url}/token")
        async with httpx.AsyncClient(auth=auth) as client:
            made = account(host=server.url)
            poster = AsyncActivityPoster(made, client=client, bucket=OpenBucket())
            assert await poster.post(activity()) == "r1"
    (asked,), (posted,) = gateway.requests, server.requests
    assert asked.head.startswith(b"GET /token HTTP/1.1\r\n")
    assert not any(key.encode() in asked.head for key in KEYS)
    assert b"authorization: bearer t1\r\n" in posted.head.lower()
