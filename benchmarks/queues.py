"""
An outbox, procrastinate and pgqueuer on the same PostgreSQL: putting jobs, and processing them.

Each is set up as its documentation shows, with its own tables and four connections for statements;
fsync and synchronous_commit are on. The job is the same for all: one POST by httpx, on a transport
that answers at once. What they do for it differs:

- leadpost marks an entry as `sending` in a transaction of its own before the call, so that a call
  that may have left is never repeated silently. It keeps the activity, each change of state, and
  the counts by state. It claims one entry at a time, in the order of putting, as LeadSquared allows
  only 5 calls a second.
- procrastinate also claims one job at a time, keeps finished jobs (its default), and has a trigger
  that writes an event for each change. A worker that dies leaves the job `doing`, to be retried by
  hand or by a task of the user's.
- pgqueuer claims ten jobs at a time, records finished jobs in batches, within 0.1 s, and deletes
  them; a log keeps when each was put, claimed and finished. A job whose heartbeat stops is run
  again, so its call may be made twice.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any, Protocol

import asyncpg
import httpx
import procrastinate
from common import ACCOUNT, ANSWER, activities
from pgqueuer import PgQueuer, Queries
from pgqueuer.models import Job

from leadpost import Activity, AsyncActivityPoster, OpenBucket
from leadpost.outbox import Outbox

CONCURRENCY = 25
"""Calls at once, as many as a worker of leadpost makes."""
CONNECTIONS = 4
"""For statements; procrastinate and pgqueuer have one more, to listen."""
PUT, BULK, JOBS = 500, 10_000, 2_000
"""Jobs put one by one, put in bulk, and processed, for each queue in each round."""
_URL = f"{ACCOUNT.host}/activity/create"
_PARAMS = {"accessKey": ACCOUNT.access_key, "secretKey": ACCOUNT.secret_key}
_HEADERS = {"x-api-key": ACCOUNT.api_key}


class Queue(Protocol):
    """An open queue whose tables exist."""

    name: str
    tables: str

    async def put(self, activity: Activity) -> object: ...

    async def put_many(self, activities: Sequence[Activity]) -> object: ...

    def working(self, client: httpx.AsyncClient) -> AbstractAsyncContextManager[None]:
        """Run a worker that posts with `client`."""
        ...


class Calls:
    """Answers calls at once, and measures the time from the first to the last."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._made = 0
        self._first = self._last = 0.0
        self.all_made = asyncio.Event()

    async def answer(self, _: httpx.Request) -> httpx.Response:
        self._made += 1
        if self._made == 1:
            self._first = time.perf_counter()
        if self._made == self._wanted:
            self._last = time.perf_counter()
            self.all_made.set()
        return httpx.Response(200, content=ANSWER)

    @property
    def rate(self) -> float:
        """Calls a second, without the worker's start."""
        return (self._wanted - 1) / (self._last - self._first)


async def _post(client: httpx.AsyncClient, activity: Any) -> None:
    """Post, as a job would."""
    response = await client.post(_URL, params=_PARAMS, headers=_HEADERS, json=activity)
    response.raise_for_status()
    assert response.json()["RequestID"]


class Leadpost:
    name = "leadpost"
    tables = "leadpost_entries, leadpost_changes, leadpost_counts"

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.put = outbox.put
        self.put_many = outbox.put_many

    @asynccontextmanager
    async def working(self, client: httpx.AsyncClient) -> AsyncGenerator[None]:
        async with AsyncActivityPoster(ACCOUNT, client=client, bucket=OpenBucket()) as poster:
            run = self._outbox.run(poster, verify=False, reconcile_every=None)
            worker = asyncio.create_task(run)
            yield
            await _cancelled(worker)


class Procrastinate:
    name = f"procrastinate {version('procrastinate')}"
    tables = "procrastinate_jobs, procrastinate_events, procrastinate_periodic_defers"

    def __init__(self, app: procrastinate.App) -> None:
        self._app = app
        self._client: httpx.AsyncClient | None = None

        @app.task(name="post")
        async def post(activity: dict[str, Any]) -> None:
            assert self._client is not None
            await _post(self._client, activity)

        self._post = post

    async def put(self, activity: Activity) -> object:
        return await self._post.defer_async(activity=activity.to_payload())

    async def put_many(self, activities: Sequence[Activity]) -> object:
        jobs: list[dict[str, Any]] = [{"activity": one.to_payload()} for one in activities]
        return await self._post.batch_defer_async(*jobs)

    @asynccontextmanager
    async def working(self, client: httpx.AsyncClient) -> AsyncGenerator[None]:
        self._client = client
        run = self._app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
        worker = asyncio.create_task(run)
        yield
        await _cancelled(worker)


class Pgqueuer:
    name = f"pgqueuer {version('pgqueuer')}"
    tables = "pgqueuer, pgqueuer_log, pgqueuer_statistics"

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._queries = Queries.from_asyncpg_pool(pool)

    async def put(self, activity: Activity) -> object:
        return await self._queries.enqueue("post", _encoded(activity))

    async def put_many(self, activities: Sequence[Activity]) -> object:
        count = len(activities)
        payloads = [_encoded(activity) for activity in activities]
        return await self._queries.enqueue(["post"] * count, payloads, [0] * count)

    @asynccontextmanager
    async def working(self, client: httpx.AsyncClient) -> AsyncGenerator[None]:
        queuer = PgQueuer.from_asyncpg_pool(self._pool)

        @queuer.entrypoint("post")
        async def post(job: Job) -> None:
            assert job.payload is not None
            await _post(client, json.loads(job.payload))

        worker = asyncio.create_task(queuer.run(max_concurrent_tasks=CONCURRENCY))
        yield
        queuer.shutdown.set()
        await worker


def _encoded(activity: Activity) -> bytes | None:
    return json.dumps(activity.to_payload()).encode()


async def _cancelled(worker: asyncio.Task[Any]) -> None:
    worker.cancel()
    with suppress(asyncio.CancelledError):
        await worker


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[list[Queue]]:
    """Open each queue on one database, and create its tables."""
    async with AsyncExitStack() as stack:
        outbox = await stack.enter_async_context(Outbox(url, ACCOUNT, connections=CONNECTIONS))
        connector = procrastinate.PsycopgConnector(
            conninfo=url, min_size=CONNECTIONS + 1, max_size=CONNECTIONS + 1
        )
        app = await stack.enter_async_context(procrastinate.App(connector=connector).open_async())
        await app.schema_manager.apply_schema_async()
        pool = await stack.enter_async_context(
            asyncpg.create_pool(url, min_size=CONNECTIONS + 1, max_size=CONNECTIONS + 1)
        )
        await Queries.from_asyncpg_pool(pool).install()
        yield [Leadpost(outbox), Procrastinate(app), Pgqueuer(pool)]


async def beside_others(url: str, backlog: int, rounds: int) -> list[dict[str, Any]]:
    """Measure each queue, with an empty and a full backlog; they take turns in rounds."""
    admin = await asyncpg.connect(url)
    for setting in ("fsync", "synchronous_commit"):
        assert await admin.fetchval(f"SHOW {setting}") == "on"
    measured: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    async with opened(url) as queues:
        for waiting in (0, backlog):
            for queue in queues:
                await _fill(admin, queue, waiting)
            for _ in range(rounds):
                for queue in queues:
                    found = await _rates(admin, queue, waiting)
                    measured.setdefault((queue.name, waiting), []).append(found)
    await admin.close()
    rates = {key: _medians(rounds) for key, rounds in measured.items()}
    return [
        _row(name, waiting, ours=rates[Leadpost.name, waiting], rates=found)
        for (name, waiting), found in rates.items()
    ]


def _medians(rounds: list[tuple[float, ...]]) -> list[float]:
    return [statistics.median(each) for each in zip(*rounds, strict=True)]


def _row(name: str, waiting: int, ours: list[float], rates: list[float]) -> dict[str, Any]:
    row: dict[str, Any] = {"queue": name, "waiting": waiting}
    whats = ("put", "put in bulk", "worked off")
    for what, rate, our in zip(whats, rates, ours, strict=True):
        row[f"{what}, a second"] = round(rate)
        row[f"{what}, to ours"] = rate / our
    return row


async def _fill(admin: Any, queue: Queue, waiting: int) -> None:
    """Leave exactly `waiting` jobs, and do what autovacuum would do within minutes."""
    await admin.execute(f"TRUNCATE {queue.tables} CASCADE")
    for first in range(0, waiting, BULK):
        await queue.put_many(activities(min(BULK, waiting - first)))
    await admin.execute(f"VACUUM ANALYZE {queue.tables}")
    await admin.execute("CHECKPOINT")


async def _rates(admin: Any, queue: Queue, waiting: int) -> tuple[float, float, float]:
    """Return the jobs a second that a queue puts, puts in bulk, and processes."""
    if not waiting:
        await _fill(admin, queue, 0)
    some = activities(PUT)
    begun = time.perf_counter()
    for activity in some:
        await queue.put(activity)
    put = PUT / (time.perf_counter() - begun)
    some = activities(BULK)
    begun = time.perf_counter()
    await queue.put_many(some)
    bulk = BULK / (time.perf_counter() - begun)
    if not waiting:
        await _fill(admin, queue, JOBS)
    calls = Calls(JOBS)
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(calls.answer)) as client,
        queue.working(client),
        asyncio.timeout(600),
    ):
        await calls.all_made.wait()
    return put, bulk, calls.rate
