"""Shared by the tests of batches: a poster, activities by number, refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
from support import LeadSquared, account, activity, number_in

from leadpost import Activity, AsyncActivityPoster, RetryPolicy

STEADY = RetryPolicy(jitter=0)


def poster_to(leadsquared: LeadSquared, **options: Any) -> AsyncActivityPoster:
    options.setdefault("retry", STEADY)
    return AsyncActivityPoster(account(), client=leadsquared.client(), **options)


def numbered(count: int) -> Iterator[Activity]:
    return (activity(n) for n in range(1, count + 1))


def numbered_list(count: int) -> list[Activity]:
    return list(numbered(count))


async def numbered_async(count: int) -> AsyncIterator[Activity]:
    for one in numbered(count):
        yield one


def refuse(*numbers: int, with_: httpx.Response) -> Any:
    """Always answer these activities `with_` this, and accept all others."""

    async def answer(request: httpx.Request) -> httpx.Response:
        if number_in(request) in numbers:
            return with_
        return await LeadSquared().answer(request)

    return answer
