"""
Processes that share a bucket, with or without an outbox, and start so fast that many can be killed.

Run as a script it is the template: it has imported everything, reads jobs from standard input, and
forks a worker for each.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from attrs import asdict, field, frozen
from support import activity

from leadpost import Account, AsyncActivityPoster, RetryPolicy
from leadpost.outbox import Outbox, SharedTokenBucket

QUICK = RetryPolicy(max_attempts=20, initial_wait=0.02, max_wait=0.1, jitter=0.02)


@frozen(kw_only=True)
class Job:
    """The job of a process: drain an outbox through a shared bucket, or only post."""

    url: str
    host: str
    period: float
    name: str = "acme"
    call_timeout: float = 1.0
    """Seconds that the token of an unanswered call rests longer, whatever the period."""
    limit: int = 25
    posts: int = 0

    @property
    def account(self) -> Account:
        """The sandbox's account, with the same made-up keys everywhere."""
        return Account(
            name=self.name,
            host=self.host,
            access_key="u$rsandbox-access",
            secret_key="sandbox-secret",
            api_key="sandbox-api",
        )

    def poster(self) -> AsyncActivityPoster:
        bucket = SharedTokenBucket(self.url, limit=self.limit, period=self.period)
        timeout = self.call_timeout
        return AsyncActivityPoster(self.account, bucket=bucket, retry=QUICK, call_timeout=timeout)

    async def drain(self) -> None:
        async with Outbox(self.url, self.account) as outbox, self.poster() as poster:
            await outbox.drain(poster)

    async def post(self) -> None:
        async with self.poster() as poster:
            await poster.post_many(activity(number) for number in range(1, self.posts + 1))


@frozen
class Worker:
    """A process that does a job."""

    pid: int

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """Stop it, and wait until the last of its threads has stopped."""
        self.signal(signal.SIGSTOP)
        for thread in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            while thread.read_text().rpartition(")")[2].split()[0] != "T":
                time.sleep(0.001)

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
    _lock: threading.Lock = field(factory=threading.Lock)

    def start(self, job: Job, how: str = "drain") -> Worker:
        with self._lock:
            print(repr((how, asdict(job))), file=self.jobs, flush=True)
            return Worker(int(self.pids.readline()))


@contextmanager
def template() -> Generator[Template]:
    """Start it; its workers end with it."""
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
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps the workers
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            how, job = eval(line)
            asyncio.run(getattr(Job(**job), how)())
            os._exit(0)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
