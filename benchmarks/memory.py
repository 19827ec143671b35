"""
Does a long stream of posts hold memory, or hold up the event loop?

1,000,000 activities through `post_stream`, on a transport that answers at once, with an open
bucket; a heartbeat beats every 10 ms on the same loop.

    python benchmarks/memory.py [--activities 1000000]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from leadpost import Account, Activity, AsyncActivityPoster, OpenBucket

LEAD = "00727844-51aa-11e2-9e64-12314004ac6b"
ANSWER = b'{"Status": "Request accepted", "RequestID": "7ba60ab0-7054-4856-8590-1b5a9f904ad1"}'
BEAT = 0.01


async def answer_at_once(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, content=ANSWER)


async def beat(late: list[float]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + BEAT
        await asyncio.sleep(BEAT)
        late[0] = max(late[0], loop.time() - due)


def resident() -> float:
    return psutil.Process().memory_info().rss / 2**20


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else None)
    parser.add_argument("--activities", type=int, default=1_000_000)
    count = parser.parse_args().activities
    account = Account(host="http://127.0.0.1:9", access_key="a", secret_key="b", api_key="c")
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer_at_once))
    late = [0.0]
    async with client, AsyncActivityPoster(account, client=client, bucket=OpenBucket()) as poster:
        await poster.post(Activity(LEAD, 201))
        gc.collect()
        idle = most = resident()
        heartbeat = asyncio.create_task(beat(late))
        begun = time.perf_counter()
        accepted = 0
        activities = (Activity(LEAD, 201, f"call {number}") for number in range(count))
        async for outcome in poster.post_stream(activities):
            accepted += outcome.state == "accepted"
            if not accepted % 1000:
                most = max(most, resident())
        took = time.perf_counter() - begun
        heartbeat.cancel()
    table = Table("activities", "accepted", "memory grew by", "heartbeat late by", "µs each")
    each = f"{took / count * 1e6:.0f}"
    table.add_row(
        str(count), str(accepted), f"{most - idle:.1f} MiB", f"{late[0] * 1e3:.1f} ms at most", each
    )
    Console().print(table)


if __name__ == "__main__":
    asyncio.run(main())
