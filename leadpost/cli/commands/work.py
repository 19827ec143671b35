"""`leadpost work`: a worker, to be run by a service manager."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import timedelta
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from leadpost import Account, AsyncActivityPoster
from leadpost.bucket import LIMIT
from leadpost.cli import options
from leadpost.cli.account import read_account
from leadpost.cli.console import logged
from leadpost.cli.exits import Exit
from leadpost.cli.outbox_url import url_of
from leadpost.cli.signals import Stop, exit_of_signal, on_signals
from leadpost.errors import OutboxError, OutboxUnavailable
from leadpost.outbox import Outbox, SharedTokenBucket
from leadpost.outbox._reachability import Reachability

T = TypeVar("T")
_log = logging.getLogger("leadpost")

_LATEST_END = 9.5
"""Seconds from the signal to the end of the process: service managers allow about 10."""
_RETRY = 1.0
"""Seconds between attempts to reach the database."""


def work(
    *,
    verify: Annotated[bool, typer.Option(help="Ask what became of accepted activities.")] = True,
    keep: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Delete finished entries after this time, such as 30d."),
    ] = None,
    limit: options.Limit = LIMIT,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
) -> None:
    """
    Run a worker: post from an outbox until stopped.

    It logs to standard error, and waits while LeadSquared or the database is away. SIGTERM ends it
    within 10 s, after the answers to its last calls. Up to 30 workers may share an outbox and its
    limit. The exit code is 0 after SIGTERM, or 1 if the database hangs then. A result that the
    database does not take in time is logged as "not recorded", and its entry becomes uncertain;
    this does not change the exit code.

    Examples:
    - `leadpost work --outbox postgresql://db.example.com/crm`
    - `leadpost work --keep 30d --limit 20`
    """
    account = read_account(env_file)
    with logged(Console(stderr=True, force_terminal=False), verbose=True):
        age = options.span(keep) if keep else None
        posting = _run(url_of(outbox), account, limit, verify=verify, keep=age)
        raise typer.Exit(asyncio.run(_work(posting)))


async def _work(posting: Coroutine[Any, Any, None]) -> Exit:
    """Post until a signal comes; then end, even if the database hangs."""
    stop = Stop()
    loop = asyncio.get_running_loop()

    def end(number: signal.Signals) -> None:
        if stop.signal is None:
            loop.call_later(_LATEST_END, _exit)
        stop(number)

    running = asyncio.create_task(posting)
    with on_signals(end), stop.cancelling(running):
        await asyncio.wait([running])
    error = None if running.cancelled() else running.exception()
    if error is not None and (stop.signal is None or not isinstance(error, OutboxError)):
        raise error
    if stop.signal is None:
        raise asyncio.CancelledError
    if error is not None:
        return Exit.SOME_NOT  # what could not be recorded was logged
    return Exit.ALL_ACCEPTED if stop.signal is signal.SIGTERM else exit_of_signal(stop.signal)


async def _run(
    url: str, account: Account, limit: int, *, verify: bool, keep: timedelta | None
) -> None:
    """Post from the outbox, once its database can be reached."""
    outbox = Outbox(url, account)
    reachability = Reachability(f"the outbox {outbox.database.name}")
    async with AsyncExitStack() as stack:

        async def entered(make: Callable[[], AbstractAsyncContextManager[T]]) -> T:
            while True:
                try:
                    return await stack.enter_async_context(make())
                except OutboxUnavailable as error:
                    reachability.failed(error)
                    await asyncio.sleep(_RETRY)

        await entered(lambda: outbox)
        poster = await entered(
            lambda: AsyncActivityPoster(account, bucket=SharedTokenBucket(url, limit=limit))
        )
        reachability.answered()
        try:
            await outbox.run(poster, verify=verify, keep=keep)
        finally:
            await poster.aclose(grace=0)  # its calls were waited for


def _exit() -> None:
    """End this process at once; what was not recorded becomes uncertain."""
    _log.error("outbox: the database does not answer; ending without it")
    logging.shutdown()
    os._exit(Exit.SOME_NOT)
