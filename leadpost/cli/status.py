"""`leadpost status`: what became of requests."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import typer
from attrs import frozen

from leadpost._models import RequestStatus
from leadpost._poster import AsyncActivityPoster
from leadpost.cli.exits import Exit
from leadpost.cli.results import results_in
from leadpost.errors import LeadpostError, NotFound, Rejected, Unauthorized, UnexpectedAnswer

T = TypeVar("T")
R = TypeVar("R")

_WINDOW = 25


async def in_order(
    items: Iterable[T], ask: Callable[[T], Awaitable[R]], window: int = _WINDOW
) -> AsyncGenerator[R]:
    """Ask about each item, a bounded number at a time, and yield the answers in their order."""
    tasks = deque[asyncio.Future[R]]()
    try:
        for item in items:
            tasks.append(asyncio.ensure_future(ask(item)))
            if len(tasks) >= window:
                yield await tasks.popleft()
        while tasks:
            yield await tasks.popleft()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def accepted_in(results: Path) -> Iterator[str]:
    """
    Yield the RequestIDs of a results file.

    Raises:
        InputError: it is none.
    """
    for result in results_in(results):
        if result.state == "accepted" and result.request_id:
            yield result.request_id


@frozen
class Told:
    """What was told of one request: its status, or why there is none."""

    request_id: str
    status: RequestStatus | None
    error: LeadpostError | None = None

    def as_json(self) -> dict[str, Any]:
        status = self.status
        return {
            "request_id": self.request_id,
            "state": status.state if status else "unknown",
            "final": status.final if status else False,
            "status": status.status if status else None,
            "status_reason": status.status_reason if status else None,
            "activity_id": status.activity_id if status else None,
            "error": str(self.error) if self.error else None,
        }

    def __str__(self) -> str:
        if self.status is None:
            return f"{self.request_id}  unknown    {self.error}"
        what = f"activity {self.status.activity_id}" if self.status.activity_id else ""
        reason = self.status.status_reason if self.status.state == "failed" else None
        final = "" if self.status.final else "not final"
        parts = (self.status.status, what, reason, final)
        said = ", ".join(part for part in parts if part)
        return f"{self.request_id}  {self.status.state:9}  {said}"


async def tell_status(
    poster: AsyncActivityPoster, request_ids: Iterable[str], *, as_json: bool
) -> Exit:
    """Ask about each request and print what is told; one that is not known stops no other."""

    async def ask(request_id: str) -> Told:
        try:
            return Told(request_id, await poster.status(request_id))
        except (Unauthorized, NotFound):
            raise
        except (Rejected, UnexpectedAnswer) as error:
            return Told(request_id, None, error)

    told: list[dict[str, Any]] = []
    all_succeeded = True
    try:
        async for one in in_order(request_ids, ask):
            all_succeeded &= one.status is not None and one.status.state == "succeeded"
            if as_json:
                told.append(one.as_json())
            else:
                typer.echo(str(one))
    finally:
        # What has been told is not lost to a Ctrl-C or a refusal.
        if as_json:
            typer.echo(json.dumps(told))
    return Exit.ALL_ACCEPTED if all_succeeded else Exit.SOME_NOT
