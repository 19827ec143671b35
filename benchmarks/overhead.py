"""
How much CPU time does a post take, compared with a bare `httpx.AsyncClient`?

The body is the example of LeadSquared's documentation, with 15 fields; the transport answers at
once, and the bucket is open. The two take turns in rounds, and the median of the ratios counts.

    python benchmarks/overhead.py [--posts 2000] [--rounds 9]
"""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import UTC, datetime
from typing import Any

import httpx
from common import ACCOUNT, LEAD, answer_at_once, options, show

from leadpost import Activity, AsyncActivityPoster, OpenBucket

EXAMPLE = Activity(
    LEAD,
    201,
    "Your Activity Note",
    datetime(2015, 10, 11, 12, 13, 44, tzinfo=UTC),
    {f"mx_Custom_{number}": "Value for Custom field" for number in range(1, 16)},
)
PARAMS = {"accessKey": ACCOUNT.access_key, "secretKey": ACCOUNT.secret_key}


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(answer_at_once))


async def bare(posts: int) -> float:
    payload: dict[str, Any] = EXAMPLE.to_payload()
    async with client() as sending:
        begun = time.process_time()
        for _ in range(posts):
            response = await sending.post(
                f"{ACCOUNT.host}/activity/create",
                params=PARAMS,
                headers={"x-api-key": ACCOUNT.api_key},
                json=payload,
            )
            response.raise_for_status()
            assert response.json()["RequestID"]
        return time.process_time() - begun


async def ours(posts: int) -> float:
    async with (
        client() as sending,
        AsyncActivityPoster(ACCOUNT, client=sending, bucket=OpenBucket()) as poster,
    ):
        begun = time.process_time()
        for _ in range(posts):
            await poster.post(EXAMPLE)
        return time.process_time() - begun


async def main() -> None:
    chosen = options(__doc__, posts=2000, rounds=9)
    ratios = [await ours(chosen.posts) / await bare(chosen.posts) for _ in range(chosen.rounds)]
    row = {
        "posts in a round": chosen.posts,
        "rounds": chosen.rounds,
        "CPU, ratio to the bare client": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }
    show("overhead", "CPU time of a post", [row], save=not chosen.no_save)


if __name__ == "__main__":
    asyncio.run(main())
