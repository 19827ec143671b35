"""Real workers that are killed, frozen or cut off: nothing is lost or duplicated."""

from __future__ import annotations

import os
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
import sqlalchemy as sa
from attrs import evolve
from database_support import plain_sqlite
from outbox_processes import Job
from outbox_support import ACME, executed
from processes import Process
from support import activity, run, server_in

from leadpost.outbox import Entry, EntryState, Outbox
from leadpost.outbox.database import _calls
from leadpost.sandbox import Faults, Sandbox

KILLS = int(os.environ.get("LEADPOST_TEST_KILLS", "10"))
ROWS = 10 * KILLS
UNRECORDED = "its call was not recorded: it may have arrived"
FAULTS = Faults(
    {"429": 0.02, "500": 0.02, "cut-before": 0.01, "cut-after": 0.01, "slow": 0.02}, slow=0.1
)


ENOUGH = 150
"""More entries than a worker posts between an arrival and its kill, on a busy machine too."""


async def put(url: str, rows: int) -> None:
    async with Outbox(url, ACME) as outbox:
        await outbox.put_many(activity(number) for number in range(1, rows + 1))


async def refill(url: str) -> None:
    """Put further entries unless there are enough for another kill, each of which loses some."""
    async with Outbox(url, ACME) as outbox:
        counts = await outbox.counts()
        rows, missing = sum(counts.values()), ENOUGH - counts["pending"]
        await outbox.put_many(activity(rows + number) for number in range(1, missing + 1))


async def all_entries(url: str) -> list[Entry]:
    async with Outbox(url, ACME) as outbox:
        return [entry async for entry in outbox.entries()]


async def counts(url: str) -> dict[EntryState, int]:
    async with Outbox(url, ACME) as outbox:
        return await outbox.counts()


async def let_time_pass(url: str) -> None:
    """Let time pass until calls in flight count as lost."""
    async with Outbox(url, ACME) as outbox:
        await executed(outbox, sa.text("UPDATE leadpost_entries SET ends_by = ends_by - 100"))


def check_nothing_is_lost_or_twice(sandbox: Sandbox, entries: list[Entry]) -> None:
    assert sandbox.report().duplicates == 0
    taken = {one.payload["ActivityEvent"]: one.request_id for one in sandbox.accepted}
    assert len(taken) == len(sandbox.accepted)
    for entry in entries:
        request_id = taken.pop(entry.activity["ActivityEvent"], None)
        match entry.state:
            case "accepted":
                assert entry.request_id == request_id
            case "uncertain":
                pass
            case _:
                assert (entry.state, request_id) == ("rejected", None)
    assert not taken


@pytest.mark.timeout(1200)
def test_workers_that_are_killed_repeatedly_lose_and_duplicate_nothing(store_url: str) -> None:
    chance = Random(4)
    period = 0.1
    hits, lost = 0, set[int]()
    with Sandbox(period=period, delay=(0.03, 0.08), faults=FAULTS, seed=5) as sandbox:
        job = Job(url=store_url, host=sandbox.url, period=period, call_timeout=0.5)
        run(put(store_url, ROWS))
        for _ in range(KILLS):
            run(refill(store_url))
            arrivals = len(sandbox.arrival_times) + chance.randint(1, 4)
            worker = job.start()
            wait_for_arrivals(sandbox, arrivals)
            time.sleep(chance.uniform(0.0, 0.03))  # the answer to the last arrival takes longer
            assert worker.poll() is None, "the run ended before all kills were done"
            worker.kill()
            before, lost = lost, lost | run(in_flight_or_lost(store_url))
            hits += lost > before
            time.sleep(0.1)  # what it sent has arrived
        assert hits > KILLS / 2, "most workers must be killed while calls are in flight"
        # anyio leaves a socket to the garbage collector if a call times out while it connects.
        patient = evolve(job, call_timeout=30.0)
        run(patient.drain())
        run(let_time_pass(store_url))
        run(patient.drain())
        entries = run(all_entries(store_url))
        assert len(entries) >= ROWS
        check_nothing_is_lost_or_twice(sandbox, entries)
        unrecorded = {entry.id for entry in entries if entry.message == UNRECORDED}
        assert unrecorded <= lost
        for entry in entries:
            if entry.state == "uncertain" and entry.id not in unrecorded:  # cut off, or too slow
                assert (entry.message or "").startswith("no answer, it may have arrived")
        print(  # noqa: T201  # pytest -rP shows it
            f"{KILLS} kills, {hits} with calls in flight: {len(lost)} of {len(entries)} entries;"
            f" at the end {Counter(entry.state for entry in entries)},"
            f" {len(unrecorded)} of them not recorded; {sandbox.report()}"
        )


async def in_flight_or_lost(url: str) -> set[int]:
    """Return the entries whose calls were in flight when workers were killed."""
    async with Outbox(url, ACME) as outbox:
        return {
            entry.id
            async for entry in outbox.entries("sending", "uncertain")
            if entry.state == "sending" or entry.message == UNRECORDED
        }


def in_flight(url: str) -> int:
    return run(counts(url))["sending"]


def test_a_frozen_worker_sends_no_entry_that_is_no_longer_its_own(store_url: str) -> None:
    period, rows = 1.0, 250
    with Sandbox(period=period, delay=(0.02, 0.1)) as sandbox:
        # On a busy machine a request may take a second to arrive.
        job = Job(url=store_url, host=sandbox.url, period=period, call_timeout=3.0)
        run(put(store_url, rows))
        frozen, other = job.start(), job.start()
        wait_until(lambda: len(sandbox.accepted) >= 30)
        freeze(frozen, store_url)
        posted = len(sandbox.accepted)
        time.sleep(6.0)  # so long that others may use its tokens
        wait_until(lambda: len(sandbox.accepted) >= posted + 50)
        frozen.send_signal(signal.SIGCONT)
        frozen.wait()
        other.wait()
        run(let_time_pass(store_url))
        run(evolve(job, call_timeout=30.0).drain())
        report = sandbox.report()
        assert (report.refused, report.duplicates) == (0, 0)
        assert report.fullest_window <= 25
        entries = run(all_entries(store_url))
        assert len(entries) == rows
        check_nothing_is_lost_or_twice(sandbox, entries)
        assert in_flight(store_url) == 0


def test_a_worker_frozen_for_longer_than_its_calls_still_records_them(store_url: str) -> None:
    period, rows = 1.0, 60
    with Sandbox(period=period, delay=(0.3, 0.5)) as sandbox:
        job = Job(url=store_url, host=sandbox.url, period=period, call_timeout=30.0)
        run(put(store_url, rows))
        frozen = job.start()
        wait_until(lambda: in_flight(store_url) >= 5)
        freeze(frozen, store_url)
        run(let_time_pass(store_url))
        run(expire(store_url))
        assert run(counts(store_url))["uncertain"] > 0
        time.sleep(1.0)  # meanwhile the answers arrive
        frozen.send_signal(signal.SIGCONT)
        frozen.wait()
        report = sandbox.report()
        assert (report.accepted, report.refused, report.duplicates) == (rows, 0, 0)
        entries = run(all_entries(store_url))
        assert {entry.state for entry in entries} == {"accepted"}
        check_nothing_is_lost_or_twice(sandbox, entries)


def freeze(worker: Process, url: str) -> None:
    """Stop a worker, but not in a transaction, as it would keep SQLite locked."""
    worker.stop()
    while is_locked(url):
        worker.send_signal(signal.SIGCONT)
        time.sleep(0.01)
        worker.stop()


async def expire(url: str) -> None:
    async with Outbox(url, ACME) as outbox:
        await outbox._store.write(_calls.expire)


def is_locked(url: str) -> bool:
    """Whether a process has SQLite's write lock."""
    if not url.startswith("sqlite"):
        return False
    try:
        with plain_sqlite(url) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return True
    return False


def test_a_server_stopped_during_a_run_does_no_harm() -> None:
    period, rows = 1.0, 300
    with (
        tempfile.TemporaryDirectory(prefix="leadpost-") as folder,
        server_in(folder) as server,
        Sandbox(period=period, delay=(0.02, 0.1)) as sandbox,
    ):
        url = f"postgresql://postgres@/postgres?host={folder}"
        job = Job(url=url, host=sandbox.url, period=period, call_timeout=5.0)
        run(put(url, rows))
        both = [job.start(), job.start()]
        wait_until(lambda: len(sandbox.accepted) >= 50)
        # At once: a busy machine takes so long for an orderly stop that the rows may be posted.
        pid = server.get_pid()
        assert pid is not None
        os.kill(pid, signal.SIGQUIT)
        time.sleep(3.0)
        assert len(sandbox.accepted) < rows
        server.ensure_postgres_running()
        assert [worker.wait() for worker in both] == [0, 0]
        report = sandbox.report()
        assert (report.accepted, report.refused, report.duplicates) == (rows, 0, 0)
        run(job.drain())  # settles the calls that were in flight
        entries = run(all_entries(url))
        assert len(entries) == rows
        check_nothing_is_lost_or_twice(sandbox, entries)


def test_eight_workers_share_one_limit(store_url: str) -> None:
    period, rows = 1.0, 100
    with Sandbox(period=period, delay=(0.02, 0.15)) as sandbox:
        job = Job(url=store_url, host=sandbox.url, period=period, call_timeout=30.0)
        run(put(store_url, rows))
        eight = [job.start() for _ in range(8)]
        assert [worker.wait() for worker in eight] == [0] * 8
        report = sandbox.report()
        assert (report.accepted, report.refused, report.duplicates) == (rows, 0, 0)
        assert report.fullest_window <= 25
        assert {entry.state for entry in run(all_entries(store_url))} == {"accepted"}


def wait_for_arrivals(sandbox: Sandbox, number: int) -> None:
    wait_until(lambda: len(sandbox.arrival_times) >= number)  # a report takes longer


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError
