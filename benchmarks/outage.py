"""
What does an outage of 30 s in the middle of 200 posts cost?

Over real sockets, for each kind of outage, all at the same time: leadpost's batch, its outbox, and
the usual code without it: a limiter, httpx, and tenacity with five attempts for whatever fails.
Where a gateway answers in LeadSquared's place (502, html), LeadSquared has accepted every second
post nevertheless. The server counts what it accepted, and what it accepted twice.

    python benchmarks/outage.py [--posts 200] [--seconds 30]
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from aiolimiter import AsyncLimiter
from attrs import evolve
from common import ACCOUNT, activities, options, show
from tenacity import retry, stop_after_attempt, wait_random_exponential

from leadpost import Account, Activity, AsyncActivityPoster
from leadpost.outbox import Outbox

KINDS = ("500", "502", "503", "html", "down")
BEGINS = 10.0
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Server:
    """The posts and metrics of LeadSquared, with an outage."""

    def __init__(self, kind: str, seconds: float) -> None:
        self.taken = Counter[str]()
        self.posts = 0
        self._kind = kind
        self._ends = BEGINS + seconds
        self._began = time.monotonic()
        self._server: asyncio.Server | None = None
        self._connections = set[asyncio.StreamWriter]()
        self._port = 0

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Account]:
        await self._listen()
        self._began = time.monotonic()
        outage = asyncio.create_task(self._go_down()) if self._kind == "down" else None
        yield evolve(ACCOUNT, host=f"http://127.0.0.1:{self._port}", sync_host="")
        if outage is not None:
            await outage
        self._hang_up()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, backlog=99)
        self._port = self._server.sockets[0].getsockname()[1]

    def _hang_up(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._connections:
            writer.close()

    async def _go_down(self) -> None:
        await asyncio.sleep(BEGINS)
        self._hang_up()
        await asyncio.sleep(self._ends - BEGINS)
        await self._listen()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                await asyncio.sleep(0.1)
                status, answer = self._answer(body)
                writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(answer)))
                writer.write(answer)
        self._connections.discard(writer)
        writer.close()

    def _answer(self, body: bytes) -> tuple[int, bytes]:
        away = BEGINS < time.monotonic() - self._began < self._ends and self._kind != "down"
        behind_gateway = self._kind in {"502", "html"}
        if body:
            self.posts += 1
            if not away or (behind_gateway and self.posts % 2):
                self.taken[json.loads(body)["ActivityNote"]] += 1
        if away:
            page = b"<html>maintenance</html>"
            return (200, page) if self._kind == "html" else (int(self._kind), page)
        if not body:
            return 200, b'{"PendingMessages":0,"MaxDelayInSeconds":0,"ProcessingRatePerMinute":1}'
        return 200, b'{"RequestID": "%d"}' % self.posts


async def leadpost(account: Account, posts: list[Activity]) -> Counter[str]:
    async with AsyncActivityPoster(account) as poster:
        results = await poster.post_many(posts, return_exceptions=True)
    return Counter("accepted" if isinstance(each, str) else each.state for each in results)


async def outbox(account: Account, posts: list[Activity]) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        async with (
            Outbox(f"sqlite:///{folder}/outbox.db", account) as entries,
            AsyncActivityPoster(account) as poster,
        ):
            await entries.put_many(posts)
            running = asyncio.create_task(entries.run(poster, verify=False, reconcile_every=None))
            states = await entries.counts()
            while states["pending"] or states["sending"]:
                await asyncio.sleep(0.2)
                states = await entries.counts()
            running.cancel()
            await asyncio.wait([running])
    return Counter({str(state): count for state, count in states.items()})


async def five_attempts(account: Account, posts: list[Activity]) -> Counter[str]:
    limiter = AsyncLimiter(1, 0.2)
    async with httpx.AsyncClient(base_url=account.host) as client:

        @retry(stop=stop_after_attempt(5), wait=wait_random_exponential(max=10), reraise=True)
        async def post(activity: Activity) -> str:
            async with limiter:
                response = await client.post("/activity/create", json=activity.to_payload())
            request_id: str = response.raise_for_status().json()["RequestID"]
            return request_id

        results = await asyncio.gather(*map(post, posts), return_exceptions=True)
    return Counter("accepted" if isinstance(each, str) else "failed" for each in results)


async def measure(name: str, contend: Any, kind: str, posts: int, seconds: float) -> dict[str, Any]:
    server = Server(kind, seconds)
    async with server.running() as account:
        begun = time.perf_counter()
        states = await contend(account, activities(posts))
        took = time.perf_counter() - begun
    return {
        "contender": name,
        "outage": kind,
        "accepted": states["accepted"],
        "uncertain": states["uncertain"],
        "given up": states["failed"] + states["not_sent"],
        "taken by the server": len(server.taken),
        "taken twice": sum(count > 1 for count in server.taken.values()),
        "seconds": took,
    }


async def main() -> None:
    chosen = options(__doc__, posts=200, seconds=30)
    logging.disable(logging.WARNING)
    contenders = {
        "leadpost": leadpost,
        "leadpost, outbox": outbox,
        "limiter, five attempts": five_attempts,
    }
    rows = await asyncio.gather(
        *(
            measure(name, contend, kind, chosen.posts, chosen.seconds)
            for name, contend in contenders.items()
            for kind in KINDS
        )
    )
    show(
        "outage",
        f"{chosen.posts} posts, an outage of {chosen.seconds} s",
        rows,
        save=not chosen.no_save,
    )


if __name__ == "__main__":
    asyncio.run(main())
