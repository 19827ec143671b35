"""What talks to the vendor about an outbox: `leadpost work`, `verify` and `reconcile`."""

import asyncio
import json
import logging
import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

import typer

from leadpost.account import Account
from leadpost.cli.exits import Exit
from leadpost.cli.interrupt import on_signals
from leadpost.cli.keys import naming, where_to_look
from leadpost.cli.outbox_url import existing
from leadpost.errors import NotFound, UnexpectedAnswer
from leadpost.outbox import EntryState, Outbox, SharedTokenBucket
from leadpost.poster import AsyncActivityPoster

_STATUS = "LEADPOST_STATUS_PATH"
_AT_LAST = 9.5
"""Seconds after the signal: service managers give a process some 10."""
_LATER = 300.0
"""Seconds until the Status API is asked again after it could not be: nothing else waits for it."""

_log = logging.getLogger(__name__)


async def work(url: str, account: Account, limit: int, *, verifying: bool) -> Exit:
    """
    Post what is in an outbox and will be, until a signal comes.

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
    signals: list[signal.Signals] = []
    async with Outbox(url) as outbox, _poster(url, account, limit) as poster:
        tasks = [asyncio.create_task(outbox.run(poster))]
        if verifying:
            tasks.append(asyncio.create_task(_verify(outbox, poster, account)))

        def stop(number: signal.Signals | None = None) -> None:
            if number is not None:
                signals.append(number)
                # Not taken back: what a database holds up may come when all else has ended.
                asyncio.get_running_loop().call_later(_AT_LAST, _end)
            for task in tasks:
                task.cancel()

        with on_signals(stop):
            _log.info("working off %r, until SIGTERM", outbox)
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not signals:  # one of them failed
                stop()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            with naming(account, "LEADPOST_SUBMIT_PATH"):
                raise error
    _log.info("ended by %s", signals[0].name)
    return Exit.INTERRUPTED if signals[0] is signal.SIGINT else Exit.ALL_ACCEPTED


def _end() -> None:
    """End this process without a good-bye, which the leases are there for."""
    _log.error("the database does not answer; what was not set down will be uncertain")
    logging.shutdown()
    os._exit(Exit.SOME_NOT)


async def _verify(outbox: Outbox, poster: AsyncActivityPoster, account: Account) -> None:
    """Ask what became of accepted entries, for ever; posting goes on where that does not work."""
    while True:
        try:
            await outbox.verify(poster, forever=True)
        except (NotFound, UnexpectedAnswer) as error:
            where = where_to_look(account, _STATUS)
            _log.error("not verified: %s %s; once more in %.0f s", error, where, _LATER)
            await asyncio.sleep(_LATER)


async def verify(url: str, account: Account, limit: int, *, as_json: bool) -> Exit:
    """
    Ask what became of accepted entries until that is known of all, and print it.

    Returns:
        0 if all of them succeeded, 1 if some failed.

    Raises:
        LeadpostError: as `Outbox.verify`.
    """
    async with existing(url) as outbox, _poster(url, account, limit) as poster:
        with naming(account, _STATUS):
            found = await outbox.verify(poster)
    _tell(found, ("succeeded", "failed"), as_json=as_json)
    return Exit.SOME_NOT if found["failed"] else Exit.ALL_ACCEPTED


async def reconcile(
    url: str, account: Account, limit: int, settle: timedelta, *, as_json: bool
) -> Exit:
    """
    Look once for each uncertain entry among its lead's activities, and print what came of it.

    Returns:
        0 if none is uncertain any more, 1 if some are.

    Raises:
        LeadpostError: as `Outbox.reconcile`.
    """
    async with existing(url) as outbox, _poster(url, account, limit) as poster:
        with naming(account, "LEADPOST_SYNC_HOST"):
            found = await outbox.reconcile(poster, settle=settle)
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
