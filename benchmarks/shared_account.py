"""
What if other programs use part of the account's limit?

Two runs at the same time, over real sockets against a strict sandbox (sliding window, 0.02-0.15 s
each way): 900 posts while another program steadily takes 10 of the account's 25 calls, and 300
posts on an account whose limit is really 10.

    python benchmarks/shared_account.py [--posts 900]
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
from common import activities, options, show

from leadpost import AsyncActivityPoster
from leadpost.sandbox import Sandbox


async def take(sandbox: Sandbox, calls: int, refused: list[httpx.Response]) -> None:
    """Make `calls` calls in each 5 s until cancelled, and retry none."""

    async def call(client: httpx.AsyncClient) -> None:
        response = await client.get("/activity/create/metrics")
        if response.status_code == 429:
            refused.append(response)

    async with (
        httpx.AsyncClient(
            base_url=sandbox.url,
            params={"accessKey": sandbox.access_key, "secretKey": sandbox.secret_key},
            headers={"x-api-key": sandbox.api_key},
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        while True:
            group.create_task(call(client))
            await asyncio.sleep(5 / calls)


async def measure(what: str, posts: int, *, limit: int, others: int) -> dict[str, Any]:
    with Sandbox(delay=(0.02, 0.15), limit=limit) as sandbox:
        of_others: list[httpx.Response] = []
        other = asyncio.create_task(take(sandbox, others, of_others)) if others else None
        async with AsyncActivityPoster(sandbox.account()) as poster:
            await asyncio.sleep(5 if other else 0)
            begun = time.perf_counter()
            await poster.post_many(activities(posts // 3))
            first = sandbox.report().refused - len(of_others)
            await poster.post_many(activities(posts - posts // 3))
            took = time.perf_counter() - begun
            refused = sandbox.report().refused - len(of_others)
        if other:
            other.cancel()
            await asyncio.wait([other])
    return {
        "case": what,
        "posts": posts,
        "refused": refused,
        "of all calls": refused / (posts + refused),
        "of them in the last two thirds": refused - first,
        "of what is left of the limit": posts / took / ((limit - others) / 5),
        "others' calls refused": len(of_others),
    }


async def main() -> None:
    chosen = options(__doc__, posts=900)
    rows = await asyncio.gather(
        measure("another program takes 10 of 25", chosen.posts, limit=25, others=10),
        measure("the limit is really 10", chosen.posts // 3, limit=10, others=0),
    )
    show("shared_account", "a limit that is not all ours", rows, save=not chosen.no_save)


if __name__ == "__main__":
    asyncio.run(main())
