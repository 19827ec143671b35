"""One question to LeadSquared, with a token of the bucket that all of the user's runs share."""

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
    Ask, and return the answer.

    Args:
        question: What to ask, given a poster.
        env_file: As for `read_account`.
        outbox: Where the shared bucket is.
        limit: Calls per 5 s.
        sync: Whether it goes to the host of the synchronous API.
        verbose: Whether to log.
    """
    account = read_account(env_file)
    url = url_of(outbox)

    async def asking() -> T:
        async with AsyncActivityPoster(
            account, bucket=SharedTokenBucket(url, limit=limit)
        ) as poster:
            with naming(account, sync=sync):
                return await question(poster)

    with logged(Console(stderr=True), verbose=verbose):
        return asyncio.run(asking())
