"""The shared bucket in real processes that are killed, frozen or forked."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa
from attrs import evolve
from outbox_processes import Job
from support import run

from leadpost.outbox.database import Database
from leadpost.sandbox import Sandbox

DELAY = (0.02, 0.15)


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Wait for a condition, and return whether it came true in time."""
    ends_at = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < ends_at:
        time.sleep(0.01)
    return holds


def wait_for_arrivals(sandbox: Sandbox, number: int, seconds: float = 60.0) -> bool:
    begun = len(sandbox.arrival_times)
    return wait_until(lambda: len(sandbox.arrival_times) >= begun + number, seconds)


def test_eight_processes_keep_one_limit(store_url: str) -> None:
    with Sandbox(period=2.0, delay=DELAY) as sandbox:
        job = Job(url=store_url, host=sandbox.url, posts=5, period=2.0, call_timeout=10.0)
        workers = [job.start("post") for _ in range(8)]
        assert [worker.wait() for worker in workers] == [0] * 8
        report = sandbox.report()
    assert (report.accepted, report.refused) == (40, 0)
    assert report.fullest_window <= 25


def test_tokens_of_killed_processes_return_when_their_calls_must_have_ended(store_url: str) -> None:
    with Sandbox(period=1.0, delay=DELAY) as sandbox:
        job = Job(url=store_url, host=sandbox.url, posts=1000, period=1.0, call_timeout=3.0)
        killed = [job.start("post") for _ in range(3)]
        assert wait_for_arrivals(sandbox, 30)
        for worker in killed:
            worker.kill()
        killed_at = time.time()
        # Its wait, the second in which it must be used, call_timeout, and the period.
        assert run(latest_return(store_url)) <= killed_at + 1.0 + 1.0 + 3.0 + 1.0 + 0.01
        before = sandbox.report().arrivals
        successor = evolve(job, posts=50)
        assert successor.start("post").wait() == 0  # needs tokens of the killed ones
        report = sandbox.report()
    assert report.arrivals >= before + 50
    assert report.refused == 0
    assert report.fullest_window <= 25


async def latest_return(url: str) -> float:
    """Return when the last token is back."""
    database = Database(url)
    await database.open()
    query = sa.text("SELECT max(back_at) FROM leadpost_tokens")
    found = await database.read(lambda connection: connection.execute(query).scalar_one())
    await database.aclose()
    return float(found)


def test_a_frozen_process_sends_nothing_with_a_token_that_is_no_longer_its_own(
    store_url: str,
) -> None:
    # Alone, the process has a token reserved at most of these moments.
    offsets = (0.3, 0.6, 0.9)

    def freeze_after(offset: float) -> None:
        # With only two tokens, one call too many shows at once.
        with Sandbox(limit=2, period=1.0) as sandbox:
            job = Job(
                name=f"frozen-after-{offset}",
                url=store_url,
                host=sandbox.url,
                posts=1000,
                period=1.0,
                limit=2,
                call_timeout=2.0,
            )
            frozen = job.start("post")
            assert wait_for_arrivals(sandbox, 4)
            time.sleep(offset)
            frozen.stop()
            other = job.start("post")
            time.sleep(5.2)  # its call must have ended by then, and both tokens are the other's
            # Unless it was frozen within a transaction, as it keeps SQLite locked then.
            wait_for_arrivals(sandbox, 4, seconds=10.0)
            frozen.send_signal(signal.SIGCONT)
            assert wait_for_arrivals(sandbox, 4)
            frozen.kill()
            other.kill()
            report = sandbox.report()
        assert report.refused == 0
        assert report.fullest_window <= 2

    with ThreadPoolExecutor() as threads:
        list(threads.map(freeze_after, offsets))


MADE_BEFORE_A_FORK = """
import asyncio, os, sys
from support import activity
from leadpost import AsyncActivityPoster
from leadpost.outbox import SharedTokenBucket
from leadpost.sandbox import Sandbox

with Sandbox(period=2.0) as sandbox:
    account = sandbox.account()
    bucket = SharedTokenBucket(sys.argv[1], period=2.0)
    poster = AsyncActivityPoster(account, bucket=bucket)

    async def work():
        async with poster:
            await asyncio.gather(*(poster.post(activity(n)) for n in range(1, 16)))

    children = []
    for _ in range(4):
        if (child := os.fork()) == 0:
            asyncio.run(work())
            os._exit(0)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    report = sandbox.report()
print(codes, report.accepted, report.refused, report.fullest_window)
"""


def test_a_bucket_created_before_a_fork_keeps_one_limit_in_the_children(store_url: str) -> None:
    script = [sys.executable, "-W", "ignore", "-c", MADE_BEFORE_A_FORK, store_url]
    run = subprocess.run(
        script, env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, check=False
    )
    codes, _, numbers = run.stdout.partition("] ")
    taken, refused, fullest = map(int, numbers.split())
    assert (codes, taken, refused) == ("[0, 0, 0, 0", 60, 0), run.stderr
    assert fullest <= 25
