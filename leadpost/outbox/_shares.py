"""How posts and queries share the tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from attrs import define

from leadpost._endpoints.call import Call
from leadpost._poster import AsyncActivityPoster
from leadpost._queries import Queries

T = TypeVar("T")

_POLL = 0.05


@define
class Shares:
    """
    Leaves four fifths of the tokens to posts, while entries are due.

    Args:
        is_away: Whether LeadSquared is away, so that posts wait.

    Attributes:
        posts: The posts since nothing was due.
        queries: The queries since then.
    """

    _is_away: Callable[[], bool]
    posts: int = 0
    queries: int = 0

    def nothing_is_due(self) -> None:
        """Begin to count again: queries may have all tokens."""
        self.posts = self.queries = 0

    async def before_query(self) -> None:
        """Wait, while there are posts, until four are made for each query."""
        self.queries += 1
        while 4 * self.queries > self.posts > 0 and not self._is_away():  # noqa: ASYNC110  # rare, and nothing else would need an event
            await asyncio.sleep(_POLL)


class SharedQueries(Queries):
    """A poster's queries; each of their calls waits for its share first."""

    def __init__(
        self, poster: AsyncActivityPoster, before_call: Callable[[], Awaitable[None]]
    ) -> None:
        self.account = poster.account
        self._sender = poster._sender  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
        self._before_call = before_call

    async def _ask(self, call: Call[T]) -> T:
        await self._before_call()
        return await super()._ask(call)
