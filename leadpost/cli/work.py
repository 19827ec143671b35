"""What talks to the vendor about an outbox: `leadpost work`, `verify` and `reconcile`."""

import asyncio
import json
import logging
import os
import shlex
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import typer
from rich.console import Console

from leadpost._account import Account
from leadpost._poster import AsyncActivityPoster
from leadpost.cli.check import spoken
from leadpost.cli.exits import Exit
from leadpost.cli.interrupt import on_signals
from leadpost.cli.keys import naming
from leadpost.cli.outbox_entries import line_of
from leadpost.cli.outbox_url import existing, shown_url
from leadpost.cli.progress import shown
from leadpost.cli.tally import Asked, CountedBucket
from leadpost.errors import NotFound, OutboxUnavailable, UnexpectedAnswer
from leadpost.outbox import EntryState, Outbox, SharedTokenBucket
from leadpost.outbox.away import Away, described
from leadpost.outbox.reconcile import STILL

T = TypeVar("T")

_AT_LAST = 9.5
"""Seconds after the signal: service managers give a process some 10."""
_LATER = 300.0
"""Seconds until the Status API is asked again after it could not be: nothing else waits for it."""
_AGAIN = 1.0
"""Seconds until a database that is away is tried again."""
_TELL = 60.0
"""Seconds between two lines that tell how far a worker's outbox is."""
_LOOK = 0.5
"""Seconds between two looks at what has been found out."""
_SHARE = 10
"""Looking takes one part of the time in so many: it may take long, where there are many entries."""

_log = logging.getLogger(__name__)


async def work(url: str, account: Account, limit: int, *, verifying: bool) -> Exit:
    """
    Post what is in an outbox and will be, until a signal comes; wait for a database that is away.

    Args:
        url: The outbox.
        account: Where to post.
        limit: Calls per 5 s.
        verifying: Whether to ask what became of accepted entries.

    Returns:
        0 after SIGTERM, 130 after Ctrl-C. Where the database keeps it from ending in time, the
        process ends with 1.

    Raises:
        LeadpostError: as `Outbox.run`.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Future[signal.Signals] = loop.create_future()
    tasks: list[asyncio.Task[None]] = []

    def stop(number: signal.Signals) -> None:
        if told.done():  # once more: the calls under way are not waited for
            for task in tasks:
                task.cancel()
            return
        told.set_result(number)
        # Not taken back: what a database holds up may come when all else has ended.
        loop.call_later(_AT_LAST, _end)

    async with AsyncExitStack() as stack:
        stack.enter_context(on_signals(stop))
        opening = asyncio.create_task(_opened(stack, url, account, limit))
        await _first_of(opening, told)
        if opening.done():
            outbox, poster = opening.result()
            tasks.append(asyncio.create_task(outbox.run(poster)))
            tasks.append(asyncio.create_task(_keep_telling(outbox)))
            if verifying:
                tasks.append(asyncio.create_task(_verify(outbox, poster, account)))
            _log.info("working off %r, until SIGTERM", outbox)
            await _first_of(*tasks, told)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await poster.aclose(grace=0)  # its calls were waited for
        else:
            opening.cancel()  # not waited for: a server that hangs holds it up
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    if errors:
        raise errors[0]
    _log.info("ended by %s", told.result().name)
    return Exit.INTERRUPTED if told.result() is signal.SIGINT else Exit.ALL_ACCEPTED


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


async def _opened(
    stack: AsyncExitStack, url: str, account: Account, limit: int
) -> tuple[Outbox, AsyncActivityPoster]:
    """
    Enter an outbox and its poster, as soon as the database is there.

    Raises:
        OutboxError: it cannot be used, and that does not pass.
    """
    outbox = Outbox(url)
    away = Away(f"the outbox {shown_url(url)}")

    async def entered(make: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        while True:
            try:
                return await stack.enter_async_context(make())
            except OutboxUnavailable as error:
                away.is_away(error)
                await asyncio.sleep(_AGAIN)

    await entered(lambda: outbox)
    poster = await entered(lambda: _poster(url, account, limit))
    away.is_back()
    return outbox, poster


def _end() -> None:
    """End this process without a good-bye, which the leases are there for."""
    _log.error("the database does not answer; what was not set down will be uncertain")
    logging.shutdown()
    os._exit(Exit.SOME_NOT)


async def _keep_telling(outbox: Outbox) -> None:
    """Log now and then how many entries are in which state, where that has changed."""
    last: dict[EntryState, int] = {}
    while True:
        await asyncio.sleep(_TELL)
        with suppress(OutboxUnavailable):  # who posts, tells
            counts = await outbox.counts()
            if counts != last:
                told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
                _log.info("the outbox has %s", told or "no entry")
            last = counts


async def _verify(outbox: Outbox, poster: AsyncActivityPoster, account: Account) -> None:
    """Ask what became of accepted entries, for ever; posting goes on where that does not work."""
    while True:
        try:
            await outbox.verify(poster, forever=True)
        except (NotFound, UnexpectedAnswer) as error:
            what, where = described(error), account.settings_of("status_path")
            _log.error("not verified: %s: see %s; the next try is in %.0f s", what, where, _LATER)
            await asyncio.sleep(_LATER)


async def verify(
    url: str, account: Account, limit: int, console: Console, *, as_json: bool
) -> Exit:
    """
    Ask what became of accepted entries until that is known of all, and print it.

    Args:
        url: The outbox.
        account: Where to ask.
        limit: Calls per 5 s.
        console: Where to show progress.
        as_json: Whether standard output gets JSON.

    Returns:
        0 if all of them succeeded, 1 if some failed.

    Raises:
        LeadpostError: as `Outbox.verify`.
    """
    async with existing(url) as outbox, SharedTokenBucket(url, account, limit=limit) as bucket:
        counted = CountedBucket(bucket)
        async with AsyncActivityPoster(account, bucket=counted) as poster:
            with naming(account):
                async with _progress(outbox, counted, limit, console):
                    found = await outbox.verify(poster)
    _tell(found, ("succeeded", "failed"), as_json=as_json)
    if not found["failed"]:
        return Exit.ALL_ACCEPTED
    where = shlex.quote(shown_url(url))
    typer.echo(f"failed: leadpost outbox --outbox {where} list --state failed", err=True)
    return Exit.SOME_NOT


@asynccontextmanager
async def _progress(
    outbox: Outbox, counted: CountedBucket, limit: int, console: Console
) -> AsyncGenerator[None]:
    """Show what has become of the accepted entries while the context lasts."""
    before = await outbox.counts()
    tally = Asked("asked for", 0, (), lambda: counted.calls, limit)

    async def look() -> None:
        try:
            unasked, counts = await outbox.unasked(), await outbox.counts()
        except OutboxUnavailable:  # who asks, tells
            return
        succeeded, failed = (
            max(counts[state] - before[state], 0)  # less, where some are deleted meanwhile
            for state in ("succeeded", "failed")
        )
        tally.take(succeeded, failed, counts["accepted"], unasked)

    async def keep_looking() -> None:
        while True:
            began = time.monotonic()
            await look()
            changed()
            await asyncio.sleep(max(_LOOK, _SHARE * (time.monotonic() - began)))

    await look()
    tally.before = tally.done
    with shown(tally, console) as changed:
        looking = asyncio.create_task(keep_looking())
        try:
            yield
            await look()
            changed()
        finally:
            looking.cancel()
            await asyncio.wait([looking])


async def reconcile(
    url: str, account: Account, limit: int, settle: timedelta, *, as_json: bool
) -> Exit:
    """
    Look once for each uncertain entry among its lead's activities, and print what came of it.

    Those that stay uncertain are listed on standard error, with the reason.

    Returns:
        0 if none is uncertain any more, 1 if some are.

    Raises:
        LeadpostError: as `Outbox.reconcile`.
    """
    async with existing(url) as outbox, _poster(url, account, limit) as poster:
        with naming(account, sync=True):
            found = await outbox.reconcile(poster, settle=settle)
        may_come = False
        async for entry in outbox.entries("uncertain"):
            typer.echo(line_of(entry), err=True)
            may_come = may_come or entry.message == STILL
    if may_come:
        until = f"until {spoken(settle.total_seconds())} after it was sent (--settle)"
        typer.echo(f"what may still come can come {until}: reconcile again then", err=True)
    _tell(found, ("accepted", "pending", "uncertain"), as_json=as_json)
    return Exit.SOME_NOT if found["uncertain"] else Exit.ALL_ACCEPTED


@asynccontextmanager
async def _poster(url: str, account: Account, limit: int) -> AsyncGenerator[AsyncActivityPoster]:
    """Give a poster that keeps the limit together with all others of the outbox."""
    async with (
        SharedTokenBucket(url, account, limit=limit) as bucket,
        AsyncActivityPoster(account, bucket=bucket) as poster,
    ):
        yield poster


def _tell(found: Counter[EntryState], states: tuple[EntryState, ...], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({state: found[state] for state in states}))
    else:
        typer.echo(", ".join(f"{found[state]} {state}" for state in states))
