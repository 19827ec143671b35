"""Processes that share a bucket, with or without an outbox. Run as a script, this is one."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from attrs import asdict, frozen
from processes import ENVIRONMENT, Process, start
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

    def start(self, how: str = "drain") -> Process:
        """Do the job, `drain` or `post`, in a process of its own."""
        return start([__file__, how, json.dumps(asdict(self))], ENVIRONMENT, Path.cwd(), stderr=2)


if __name__ == "__main__":
    asyncio.run(getattr(Job(**json.loads(sys.argv[2])), sys.argv[1])())
