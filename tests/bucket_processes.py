"""
Processes that post through one shared bucket, quick to start, so that many can be killed.

Run as a script it is the template: it has imported everything, reads jobs from standard input, and
forks a worker for each.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO

from attrs import asdict, frozen
from support import activity

from leadpost import Account, AsyncActivityPoster
from leadpost.outbox import SharedTokenBucket


@frozen(kw_only=True)
class Job:
    """
    What a process posts.

    Attributes:
        url: The database.
        host: The sandbox.
        posts: How many activities.
        period: Of the bucket.
        call_timeout: Of the poster.
        limit: Of the bucket.
    """

    url: str
    host: str
    posts: int
    period: float
    call_timeout: float = 1.0
    limit: int = 25

    async def run(self) -> None:
        account = Account(  # the sandbox's, whose keys are made up and everywhere the same
            host=self.host,
            access_key="u$rsandbox-access",
            secret_key="sandbox-secret",
            api_key="sandbox-api",
        )
        bucket = SharedTokenBucket(self.url, period=self.period, limit=self.limit)
        async with AsyncActivityPoster(
            account, bucket=bucket, call_timeout=self.call_timeout
        ) as poster:
            await poster.post_many(activity(number) for number in range(1, self.posts + 1))


@frozen
class Worker:
    """A process that does a job."""

    pid: int

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def is_alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def join(self) -> None:
        while self.is_alive():
            time.sleep(0.005)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.join()


@frozen
class Template:
    """The process that forks the workers."""

    jobs: IO[str]
    pids: IO[str]

    def start(self, job: Job) -> Worker:
        print(repr(asdict(job)), file=self.jobs, flush=True)
        return Worker(int(self.pids.readline()))


@contextmanager
def template() -> Generator[Template]:
    """Start it; when it ends, so do its workers."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, __file__], stdin=pipe, stdout=pipe, text=True, start_new_session=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Template(process.stdin, process.stdout)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries the workers
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asyncio.run(Job(**eval(line)).run())
            os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
