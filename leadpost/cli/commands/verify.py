"""`leadpost verify`: what became of accepted activities."""

import asyncio
import json
from typing import Literal

import typer
from rich.console import Console

from leadpost import AsyncActivityPoster
from leadpost.bucket import LIMIT
from leadpost.cli import options
from leadpost.cli.account import naming, read_account
from leadpost.cli.console import counting, logged
from leadpost.cli.exits import Exit
from leadpost.cli.files.looking import look
from leadpost.cli.outbox_url import existing
from leadpost.outbox import Outbox, SharedTokenBucket

_POLL = 1.0
"""Seconds between two looks at what is left."""


def verify(
    file: options.ResultsOfFile = None,
    *,
    batch: options.Batch = None,
    limit: options.Limit = LIMIT,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """
    Ask LeadSquared about accepted activities until each has succeeded or failed.

    All activities of the outbox are asked about, one call each. With a FILE, its results and
    rejects are written then. LeadSquared may retry an activity for hours: Ctrl-C loses nothing, and
    the same command resumes. The exit code is 1 if some failed.

    Examples:
    - `leadpost verify calls.csv`
    - `leadpost verify --outbox postgresql://db.example.com/crm --json`
    """
    account, url, console = read_account(env_file), existing(outbox), Console(stderr=True)

    async def ask(opened: Outbox, key_prefix: str | None = None) -> dict[str, int]:
        before = await opened.counts(key_prefix)
        total = before["accepted"]
        states: tuple[Literal["succeeded"], Literal["failed"]] = ("succeeded", "failed")

        async def progress() -> str:
            now = await opened.counts(key_prefix)
            done = sum(now[state] - before[state] for state in states)
            return f"{done:,} of {total:,} accepted activities succeeded or failed"

        bucket = SharedTokenBucket(url, limit=limit)
        async with AsyncActivityPoster(account, bucket=bucket) as poster:
            with naming(account):
                async with counting(console, progress):
                    await _verify(opened, poster, key_prefix)
        now = await opened.counts(key_prefix)
        return {state: now[state] - before[state] for state in states}

    async def ask_all() -> Exit:
        async with Outbox(url, account) as opened:
            found = await ask(opened)
        if as_json:
            typer.echo(json.dumps(found))
        else:
            typer.echo(f"{found['succeeded']:,} succeeded, {found['failed']:,} failed")
            if found["failed"]:
                typer.echo("See which: leadpost outbox list --state failed")
        return Exit.SOME_NOT if found["failed"] else Exit.ALL_ACCEPTED

    with logged(console, verbose=verbose):
        if file is None:
            raise typer.Exit(asyncio.run(ask_all()))
        looking = look(file, url, account, console, batch=batch, as_json=as_json, before=ask)
        raise typer.Exit(asyncio.run(looking))


async def _verify(outbox: Outbox, poster: AsyncActivityPoster, key_prefix: str | None) -> None:
    """Verify entries until none with this prefix is accepted: nobody waits for those of others."""
    verifying = asyncio.create_task(outbox.verify(poster))
    try:
        while (await outbox.counts(key_prefix))["accepted"] and not verifying.done():
            await asyncio.wait([verifying], timeout=_POLL)
        if verifying.done():
            verifying.result()
    finally:
        verifying.cancel()
        await asyncio.wait([verifying])
