"""A query to LeadSquared, with a token of the bucket that all runs of the user share."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from leadpost import AsyncActivityPoster
from leadpost.bucket import LIMIT
from leadpost.cli.account import naming, read_account
from leadpost.cli.console import logged
from leadpost.cli.outbox_url import url_of
from leadpost.outbox import SharedTokenBucket

T = TypeVar("T")


def asked(
    question: Callable[[AsyncActivityPoster], Awaitable[T]],
    env_file: Path | None,
    outbox: str | None,
    limit: int = LIMIT,
    *,
    sync: bool = False,
    verbose: bool,
) -> T:
    """
    Run a query and return its result.

    Args:
        question: The query, given a poster.
        env_file: See `read_account`.
        outbox: The outbox with the shared bucket.
        limit: Calls per 5 s.
        sync: Whether the query goes to the host of the synchronous API.
        verbose: Whether to log.
    """
    account, url = read_account(env_file), url_of(outbox)

    async def asking() -> T:
        bucket = SharedTokenBucket(url, limit=limit)
        async with AsyncActivityPoster(account, bucket=bucket) as poster:
            with naming(account, sync=sync):
                return await question(poster)

    with logged(Console(stderr=True), verbose=verbose):
        return asyncio.run(asking())
