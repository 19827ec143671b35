"""An HTTP client of the caller's own: what it cannot send, and requests that its Auth makes."""

from __future__ import annotations

import httpx
import pytest
from raw_server import RawServer, answers
from support import LeadSquared, account, activity
from support import answers as script

from leadpost import (
    AsyncActivityPoster,
    ConnectionFailed,
    DeliveryUncertain,
    OpenBucket,
    RetryPolicy,
    TokenBucket,
)

ONCE = RetryPolicy(max_attempts=1)


async def test_a_header_that_http_forbids_is_not_sent_and_leaves_the_token_unused() -> None:
    bucket = TokenBucket()
    client = httpx.AsyncClient(headers={"User-Agent": "service\n"})
    async with RawServer(answers()) as server, client:
        poster = AsyncActivityPoster(
            account(host=server.url), client=client, bucket=bucket, retry=ONCE
        )
        with pytest.raises(
            ConnectionFailed, match="IllegalRequest: Illegal header value"
        ) as caught:
            await poster.post(activity())
    assert not caught.value.sent
    assert bucket.statistics().free == 25
    assert server.requests == []


async def test_another_violation_of_the_protocol_is_uncertain() -> None:
    """With HTTP/2, it may be found after the post was sent."""
    client = LeadSquared(script(httpx.LocalProtocolError("stream 1 is closed"))).client()
    async with client:
        poster = AsyncActivityPoster(account(), client=client, bucket=OpenBucket())
        with pytest.raises(DeliveryUncertain):
            await poster.post(activity())
