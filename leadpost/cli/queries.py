"""Queries to LeadSquared, with tokens of the bucket that all runs of the user share."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from leadpost import Account, AsyncActivityPoster, RetryPolicy
from leadpost.bucket import LIMIT
from leadpost.cli.account import naming, read_account
from leadpost.cli.console import logged
from leadpost.cli.outbox_url import url_of
from leadpost.outbox import SharedTokenBucket

T = TypeVar("T")


@asynccontextmanager
async def querying(
    account: Account,
    url: str,
    limit: int = LIMIT,
    *,
    sync: bool = False,
    retry: RetryPolicy | None = None,
) -> AsyncGenerator[AsyncActivityPoster]:
    """
    Open a poster for queries only: one in flight is cut off when this is left, as by Ctrl-C.

    With `sync`, they go to the host of the synchronous API.
    """
    bucket = SharedTokenBucket(url, limit=limit)
    async with AsyncActivityPoster(account, bucket=bucket, retry=retry) as poster:
        try:
            with naming(account, sync=sync):
                yield poster
        finally:
            await poster.aclose(grace=0)


def asked(
    query: Callable[[AsyncActivityPoster], Awaitable[T]],
    env_file: Path | None,
    outbox: str | None,
    *,
    sync: bool = False,
    verbose: bool,
) -> T:
    """Run a query, see `querying`, and return its result."""
    account, url = read_account(env_file), url_of(outbox)

    async def answer() -> T:
        async with querying(account, url, sync=sync) as poster:
            return await query(poster)

    with logged(Console(stderr=True), verbose=verbose):
        return asyncio.run(answer())
